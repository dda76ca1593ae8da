/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/watch-message.h"

#include <errno.h>

#include "agent/caller.h"

static int read_bool(json_t *message, const char *key, const char *snake, struct problem *problem,
		     bool *ret)
{
	json_t *o = json_object_get(message, key) ?: json_object_get(message, snake);

	if (o && !json_is_null(o) && !json_is_boolean(o)) {
		problem_set(problem, 400, "%s must be true or false", key);
		return -EINVAL;
	}
	*ret = json_is_true(o);
	return 0;
}

static int read_path(struct request *rq, json_t *message, const struct user *user,
		     struct problem *problem, struct watch_message *ret)
{
	json_t *o = json_object_get(message, "path");

	if (o && !json_is_null(o) && !json_is_string(o)) {
		problem_set(problem, 400, "path must be a string");
		return -EINVAL;
	}
	ret->path = caller_path(rq->agent, user, json_string_value(o) ?: "");
	ret->options.watch.path = ret->path;
	if (!ret->path)
		problem_set(problem, 503, "out of memory");
	return ret->path ? 0 : -ENOMEM;
}

int watch_message_read(struct request *rq, json_t *message, struct problem *problem,
		       struct watch_message *ret)
{
	struct watcher_options *o = &ret->options;
	struct user user;
	int r = caller_user(rq, NULL, problem, &user);

	if (r == 0)
		r = read_path(rq, message, &user, problem, ret);
	if (r == 0)
		r = read_bool(message, "recursive", "recursive", problem, &o->watch.recursive);
	if (r == 0)
		r = read_bool(message, "includeEntry", "include_entry", problem, &o->include_entry);
	if (r == 0)
		r = read_bool(message, "allowNetworkMounts", "allow_network_mounts", problem,
			      &o->watch.network);
	return r;
}

void watch_message_deinit(struct watch_message *m)
{
	free(m->path);
	m->path = NULL;
}
