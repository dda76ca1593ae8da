/* SPDX-License-Identifier: Apache-2.0 */
#include "api/unsupported.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/mem.h"

static const struct {
	const char *name, *why;
} members[] = {
	{"iam", "sandboxes get no tokens of identity providers"},
	{"mcp", "there is no MCP gateway"},
	{"volumeMounts", "there are no volumes"},
	{"steps", "a template is made from a recipe"},
	{"fromTemplate", "a recipe names its base"},
	{"fromImageRegistry", "images are fetched without credentials"},
};

static bool is_nothing(const json_t *v)
{
	const char *key;
	json_t *item;
	size_t i;

	json_object_foreach ((json_t *)v, key, item)
		if (!is_nothing(item))
			return false;
	json_array_foreach (v, i, item)
		if (!is_nothing(item))
			return false;
	return json_is_object(v) || json_is_array(v) || json_is_null(v) || json_is_false(v) ||
	       (json_is_string(v) && !json_string_length(v));
}

/* Of network there is what concerns traffic to ports: sandbox/traffic.h. */
static bool is_only_traffic(const char *name, json_t *v)
{
	const char *key;
	json_t *item;

	if (strcmp(name, "network") != 0 || !json_is_object(v))
		return false;
	json_object_foreach (v, key, item)
		if (strcmp(key, "allowPublicTraffic") != 0 && strcmp(key, "maskRequestHost") != 0 &&
		    !is_nothing(item))
			return false;
	return true;
}

int unsupported_refuse(json_t *body, struct problem *problem)
{
	json_t *v;

	for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
		v = json_object_get(body, members[i].name);
		if (!v || is_nothing(v) || is_only_traffic(members[i].name, v))
			continue;
		problem_set(problem, 400, "%s: is not supported: %s", members[i].name,
			    members[i].why);
		problem_hint(problem, "leave it out");
		return -EINVAL;
	}
	return 0;
}
