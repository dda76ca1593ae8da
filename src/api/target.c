/* SPDX-License-Identifier: Apache-2.0 */
#include "api/target.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "base/id.h"
#include "base/str.h"

int target_port(const char *text, struct problem *problem, uint16_t *ret)
{
	uint64_t n;

	if (str_to_u64(text, &n) < 0 || n < 1 || n > UINT16_MAX) {
		problem_set(problem, 400, "port: '%.32s' is not a number from 1 to 65535", text);
		return -EINVAL;
	}
	*ret = (uint16_t)n;
	return 0;
}

/* "3000-<id>.anything". Return: 0; TARGET_CONTROL when it is not of this form; -EINVAL */
static int from_host(const char *host, struct problem *problem, struct target *ret)
{
	size_t digits = strspn(host, "0123456789"), len = strcspn(host, ".");
	char id[ID_LEN + 1], port[16];

	if (!digits || digits >= sizeof(port) || host[digits] != '-' || host[len] != '.' ||
	    len - digits - 1 != ID_LEN)
		return TARGET_CONTROL;
	for (size_t i = 0; i < ID_LEN; i++) /* names know no case */
		id[i] = (char)tolower((unsigned char)host[digits + 1 + i]);
	id[ID_LEN] = 0;
	if (!id_is_valid(id))
		return TARGET_CONTROL;
	memcpy(port, host, digits);
	port[digits] = 0;
	str_copy(ret->sandbox_id, sizeof(ret->sandbox_id), id);
	return target_port(port, problem, &ret->port);
}

int target_find(const char *host, const char *sandbox_id, const char *port, struct problem *problem,
		struct target *ret)
{
	int r = host ? from_host(host, problem, ret) : TARGET_CONTROL;

	if (r != TARGET_CONTROL)
		return r;
	if (!sandbox_id && !port)
		return TARGET_CONTROL;
	if (!sandbox_id || !port) {
		problem_set(problem, 400, "E2b-Sandbox-Id and E2b-Sandbox-Port go together");
		return -EINVAL;
	}
	str_copy(ret->sandbox_id, sizeof(ret->sandbox_id),
		 sandbox_id); /* a longer one is nobody's */
	return target_port(port, problem, &ret->port);
}
