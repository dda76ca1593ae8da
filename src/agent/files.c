/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/files.h"

#include <errno.h>
#include <string.h>

#include "agent/caller.h"
#include "agent/compose.h"
#include "agent/download.h"
#include "agent/receive.h"
#include "agent/signature.h"
#include "base/error.h"

static void fail(struct request *rq, int r, struct problem *problem)
{
	problem_errno(problem, r, "the request"); /* unless it was described */
	request_drop_body(rq);
	request_fail(rq, problem->status, "%s", problem->message);
}

/*
 * As whom, and where?
 * @ret_path: fresh memory; NULL when the query has none, or an empty one
 */
static int look(struct request *rq, const char *operation, struct problem *problem,
		struct user *ret_user, char **ret_path)
{
	_cleanup_free_ char *name = NULL, *path = NULL;
	int r = signature_check(rq, operation, problem);

	if (r < 0)
		return r;
	name = request_query(rq, "username");
	r = caller_user(rq, name, problem, ret_user);
	if (r < 0)
		return r;
	path = request_query(rq, "path");
	*ret_path = path && path[0] ? caller_path(rq->agent, ret_user, path) : NULL;
	return path && path[0] && !*ret_path ? -ENOMEM : 0;
}

static void handle_get(struct request *rq)
{
	struct problem problem = PROBLEM_INIT;
	struct download *d;
	struct user user;
	char *path = NULL;
	int r = look(rq, "read", &problem, &user, &path);

	if (r == 0 && !path) { /* it means the working directory, as everywhere */
		path = caller_path(rq->agent, &user, "");
		r = path ? 0 : -ENOMEM;
	}
	d = r == 0 ? download_new(rq, path) : NULL;
	if (d)
		worker_start(rq->agent->workers, rq, download_run, download_free, d);
	else
		fail(rq, r < 0 ? r : -ENOMEM, &problem);
}

static void handle_post(struct request *rq)
{
	struct problem problem = PROBLEM_INIT;
	struct receive *v = NULL;
	struct user user;
	char *path = NULL;
	int r = look(rq, "write", &problem, &user, &path);

	if (r == 0)
		r = receive_new(rq, path, &user, &problem, &v);
	if (r == 0)
		worker_start(rq->agent->workers, rq, receive_run, receive_free, v);
	else
		fail(rq, r, &problem);
}

static void handle_compose(struct request *rq)
{
	json_t *body = json_loadb(rq->body.data ? rq->body.data : "", rq->body.len,
				  JSON_REJECT_DUPLICATES, NULL);
	struct problem problem = PROBLEM_INIT;
	struct compose *c = NULL;
	int r = 0;

	if (!json_is_object(body)) {
		problem_set(&problem, 400, "the body must be a JSON object");
		r = -EINVAL;
	}
	if (r == 0)
		r = compose_new(rq, body, &problem, &c);
	json_decref(body);
	if (r == 0)
		worker_start(rq->agent->workers, rq, compose_run, compose_free, c);
	else
		fail(rq, r, &problem);
}

#define FOR_CLIENTS (ROUTE_NEEDS_READY | ROUTE_CLIENT)

static const struct route routes[] = {
	{"GET", "/files", handle_get, FOR_CLIENTS | ROUTE_OPEN},
	{"POST", "/files", handle_post, FOR_CLIENTS | ROUTE_OPEN | ROUTE_STREAM},
	{"POST", "/files/compose", handle_compose, FOR_CLIENTS},
};

int files_add(struct router *r)
{
	return router_add(r, routes, ARRAY_SIZE(routes));
}
