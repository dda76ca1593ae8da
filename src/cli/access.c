/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/access.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/str.h"
#include "cli/http.h"
#include "cli/output.h"

static int ask(const char *socket, const char *sandbox_id, struct http_reply *reply,
	       struct problem *problem)
{
	_cleanup_free_ char *path = http_path("/sandboxes/", sandbox_id, "");
	_cleanup_(http_freep) struct http *http = NULL;
	int r = path ? http_new(socket, problem, &http) : -ENOMEM;

	return r ? r : http_call(http, "GET", path, NULL, reply, problem);
}

static int fill(const char *sandbox_id, const char *token, struct access *ret)
{
	struct access a = {0};
	size_t n = token ? 3 : 2;

	a.headers[0] = str_printf("E2b-Sandbox-Id: %s", sandbox_id);
	a.headers[1] = str_printf("E2b-Sandbox-Port: " ACCESS_AGENT_PORT);
	if (token)
		a.headers[2] = str_printf("X-Access-Token: %s", token);
	for (size_t i = 0; i < n; i++) {
		if (a.headers[i])
			continue;
		access_deinit(&a);
		return -ENOMEM;
	}
	*ret = a;
	return 0;
}

int access_get(const char *socket, const char *sandbox_id, struct problem *problem,
	       struct access *ret)
{
	_cleanup_reply_ struct http_reply reply = {0};
	const char *token;
	int r = ask(socket, sandbox_id, &reply, problem);

	if (r)
		return r < 0 ? error_trace(r) : r;
	token = output_field(reply.body, "envdAccessToken", NULL);
	if (token && strpbrk(token, "\r\n")) { /* it goes into a header as it is */
		problem_set(problem, 500, "dormd's access token for sandbox %s is malformed",
			    sandbox_id);
		return error_trace(-EBADMSG);
	}
	return error_trace(fill(sandbox_id, token, ret));
}

void access_deinit(struct access *a)
{
	for (size_t i = 0; i < ARRAY_SIZE(a->headers); i++) {
		free(a->headers[i]);
		a->headers[i] = NULL;
	}
}
