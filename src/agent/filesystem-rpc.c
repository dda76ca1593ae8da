/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent takes the message apart and finds out who asks; the rest is a helper's (errand.h),
 * which has a copy of the `struct call` and answers.
 */
#include "agent/filesystem-rpc.h"

#include <errno.h>
#include <string.h>

#include "agent/answer.h"
#include "agent/caller.h"
#include "agent/entry.h"
#include "agent/errand.h"
#include "agent/listing.h"
#include "agent/tree.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/str.h"

/* A request, taken apart. */
struct call {
	struct user user;
	char *path;
	char *to; /* of Move */
	unsigned depth;
};

static void call_deinit(struct call *c)
{
	free(c->path);
	free(c->to);
}

/* --- in the helper ------------------------------------------------------------------------------
 */

static enum connect_code code_of(int r)
{
	switch (-r) {
	case ENOENT:
		return CONNECT_NOT_FOUND;
	case EINVAL:
	case ENOTDIR:
	case EISDIR:
	case ENAMETOOLONG:
	case ELOOP:
		return CONNECT_INVALID_ARGUMENT;
	case EPERM:
	case EACCES:
		return CONNECT_PERMISSION_DENIED;
	case EBUSY:
	case EROFS:
	case ENOTEMPTY:
	case EEXIST:
	case ETXTBSY:
		return CONNECT_FAILED_PRECONDITION;
	case ENOSPC:
	case EDQUOT:
	case ENOMEM:
	case EMFILE:
	case EOVERFLOW:
		return CONNECT_RESOURCE_EXHAUSTED;
	default:
		return CONNECT_INTERNAL;
	}
}

static void answer_problem(int r, const struct problem *problem)
{
	(void)answer_fail(code_of(r), "%s",
			  problem->message[0] ? problem->message : strerrordesc_np(-r));
}

static void answer_entry(const char *path)
{
	_cleanup_buf_ struct buf b = {0};
	struct owner owner = OWNER_INIT("/etc");
	int r = entry_stat(&b, &owner, path, "{\"entry\":", "}");

	if (r == -ENOENT || r == -ENOTDIR)
		(void)answer_fail(CONNECT_NOT_FOUND, "file not found: %.300s", path);
	else if (r < 0)
		(void)answer_fail(code_of(r), "%.300s: %s", path, strerrordesc_np(-r));
	else
		(void)answer_send(200, b.data, b.len);
}

static void work_stat(void *ctx)
{
	const struct call *c = ctx;

	answer_entry(c->path);
}

static void work_make(void *ctx)
{
	const struct call *c = ctx;
	struct problem problem = PROBLEM_INIT;
	int r = tree_make(c->path, &c->user, &problem);

	if (r < 0)
		answer_problem(r, &problem);
	else if (r == 0)
		(void)answer_fail(CONNECT_ALREADY_EXISTS, "directory already exists: %.300s",
				  c->path);
	else
		answer_entry(c->path);
}

static void work_move(void *ctx)
{
	const struct call *c = ctx;
	struct problem problem = PROBLEM_INIT;
	int r = tree_move(c->path, c->to, &c->user, &problem);

	if (r < 0)
		answer_problem(r, &problem);
	else
		answer_entry(c->to);
}

static void work_remove(void *ctx)
{
	const struct call *c = ctx;
	struct problem problem = PROBLEM_INIT;
	int r = tree_remove(c->path, &problem);

	if (r < 0)
		answer_problem(r, &problem);
	else
		(void)answer_send(200, "{}", 2);
}

static void work_list(void *ctx)
{
	const struct call *c = ctx;
	struct problem problem = PROBLEM_INIT;
	_cleanup_buf_ struct buf b = {0};
	int r = listing_append(&b, c->path, c->depth, &problem);

	if (r < 0)
		answer_problem(r, &problem);
	else
		(void)answer_send(200, b.data, b.len);
}

/* --- in the agent -------------------------------------------------------------------------------
 */

static int read_path(struct request *rq, json_t *message, const char *key, struct call *c,
		     char **ret)
{
	json_t *o = json_object_get(message, key);

	if (o && !json_is_null(o) && !json_is_string(o)) {
		connect_unary_fail(rq, CONNECT_INVALID_ARGUMENT, "%s must be a string", key);
		return -EINVAL;
	}
	*ret = caller_path(rq->agent, &c->user, json_string_value(o) ?: "");
	if (!*ret) {
		connect_unary_fail(rq, CONNECT_RESOURCE_EXHAUSTED, "out of memory");
		return -ENOMEM;
	}
	return 0;
}

static int read_depth(struct request *rq, json_t *message, struct call *c)
{
	json_t *o = json_object_get(message, "depth");
	uint64_t depth = 0;
	int r = 0;

	if (json_is_integer(o) && json_integer_value(o) >= 0)
		depth = (uint64_t)json_integer_value(o);
	else if (json_is_string(o))
		r = str_to_u64(json_string_value(o), &depth);
	else if (o && !json_is_null(o))
		r = -EINVAL;
	if (r < 0 || depth > UINT32_MAX) {
		connect_unary_fail(rq, CONNECT_INVALID_ARGUMENT,
				   "depth must be a number from 0 to 4294967295");
		return -EINVAL;
	}
	c->depth = depth ? (unsigned)depth : 1;
	return 0;
}

/* Return: 0; negative errno, already answered */
static int read_call(struct request *rq, json_t *message, const char *path, const char *to,
		     struct call *c)
{
	struct problem problem = PROBLEM_INIT;
	int r = caller_user(rq, NULL, &problem, &c->user);

	if (r < 0) {
		connect_unary_fail(rq, CONNECT_UNAUTHENTICATED, "%s", problem.message);
		return r;
	}
	r = read_path(rq, message, path, c, &c->path);
	if (r == 0 && to)
		r = read_path(rq, message, to, c, &c->to);
	return r < 0 ? r : read_depth(rq, message, c);
}

static void run(struct request *rq, const char *path, const char *to, bool changes,
		void (*work)(void *ctx))
{
	struct call c = {0};
	json_t *message;

	if (connect_unary_parse(rq, &message) < 0)
		return;
	if (read_call(rq, message, path, to, &c) == 0)
		errand_run(rq, changes, work, &c);
	json_decref(message);
	call_deinit(&c);
}

static void handle_stat(struct request *rq)
{
	run(rq, "path", NULL, false, work_stat);
}

static void handle_make(struct request *rq)
{
	run(rq, "path", NULL, true, work_make);
}

static void handle_move(struct request *rq)
{
	run(rq, "source", "destination", true, work_move);
}

static void handle_remove(struct request *rq)
{
	run(rq, "path", NULL, true, work_remove);
}

static void handle_list(struct request *rq)
{
	run(rq, "path", NULL, false, work_list);
}

#define CLIENTS (ROUTE_NEEDS_READY | ROUTE_CLIENT)

static const struct route routes[] = {
	{"POST", "/filesystem.Filesystem/Stat", handle_stat, CLIENTS},
	{"POST", "/filesystem.Filesystem/MakeDir", handle_make, CLIENTS},
	{"POST", "/filesystem.Filesystem/Move", handle_move, CLIENTS},
	{"POST", "/filesystem.Filesystem/Remove", handle_remove, CLIENTS},
	{"POST", "/filesystem.Filesystem/ListDir", handle_list, CLIENTS},
};

int filesystem_rpc_add(struct router *r)
{
	return router_add(r, routes, ARRAY_SIZE(routes));
}
