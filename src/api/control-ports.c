/* SPDX-License-Identifier: Apache-2.0 */
/* control-ports.c - who listens in a sandbox, and the way to a raw connection (api/proxy.h) */
#include "api/routes.h"

#include <errno.h>

#include "base/clock.h"
#include "channel/client.h"
#include "sandbox/sandbox.h"

#define LIST_MS 10000

static int list_ports(struct sandbox_lease *lease, const char *id, struct problem *problem,
		      json_t **ret)
{
	_cleanup_buf_ struct buf body = {0};
	json_t *o;
	int status = 0, r = channel_call(lease->channel, "GET", "/ports", NULL, NULL, 0,
					 deadline_after_ms(LIST_MS), &status, &body);

	if (r == -EPIPE)
		problem_set(problem, 502, "The sandbox was not found");
	if (r < 0)
		return r;
	o = json_loadb(body.data ?: "", body.len, 0, NULL);
	*ret = status == 200 ? json_incref(json_object_get(o, "ports")) : NULL;
	if (status == 503)
		problem_set(problem, 409, "The sandbox is changing state");
	if (!json_is_array(*ret)) {
		const char *why = json_string_value(json_object_get(o, "message"));

		problem_set(problem, 502, "sandbox %s cannot say who listens: %.200s", id,
			    why ?: "its answer is no good");
		json_decref(*ret);
		r = -EBADMSG;
	}
	json_decref(o);
	return r;
}

int control_port_list(struct request *q, struct reply *y)
{
	struct sandbox_lease lease;
	struct sandbox_info info;
	json_t *ports = NULL;
	int r = sandbox_info(q->host, q->args[0], &y->problem, &info); /* 404 when there is none */

	if (r < 0)
		return r;
	sandbox_info_deinit(&info);
	r = sandbox_lease(q->host, q->args[0], &y->problem, &lease);
	if (r < 0)
		return r;
	r = list_ports(&lease, q->args[0], &y->problem, &ports);
	sandbox_lease_return(&lease);
	return r < 0 ? r : reply_json(y, 200, ports);
}

/* Only without "Upgrade: tcp": the server takes the others. */
int control_port_raw(struct request *q, struct reply *y)
{
	problem_set(&y->problem, 426, "a raw connection needs the header Upgrade: tcp");
	problem_hint(&y->problem, "`dorm port-forward` makes one");
	return -EINVAL;
}
