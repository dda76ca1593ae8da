/* SPDX-License-Identifier: Apache-2.0 */
/*
 * request.c - what clients of the control socket can ask for (docs/format-pager.md, section 1)
 *
 * Requests that name an image are in request-open.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "pager/background.h"
#include "pager/control-internal.h"
#include "pager/evict.h"
#include "pager/ledger.h"
#include "pager/metrics.h"
#include "pager/recording.h"
#include "pager/takeover.h"
#include "sys/memfd.h"

const char *const request_load_words[] = {"demand", "working-set", "full", NULL};

int request_word(const json_t *request, const char *member, const char *const *words, int fallback,
		 struct problem *problem)
{
	const json_t *value = json_object_get(request, member);
	const char *text = json_string_value(value);

	if (!value)
		return fallback;
	for (int i = 0; text && words[i]; i++)
		if (!strcmp(text, words[i]))
			return i;
	problem_set(problem, 400, "\"%s\" is not one of the words that it may be", member);
	problem_hint(problem, "see docs/format-pager.md");
	return -EINVAL;
}

static int op_load(struct control *c, const json_t *request, struct problem *problem)
{
	const char *name = json_string_value(json_object_get(request, "session"));
	struct session *s = name ? pager_find(c->p, name) : NULL;
	int what = request_word(request, "what", request_load_words, JOB_NOTHING, problem);

	if (what < 0)
		return what;
	if (!s) {
		problem_set(problem, 404, "no session %s is open", name ? name : "?");
		return -ENOENT;
	}
	/* a working set that there was is being loaded since the session was opened */
	if (what == JOB_WORKING_SET && job_state(s->job) != JOB_NONE)
		return 0;
	return what == JOB_NOTHING ? 0 : background_start(c->p, s, NULL, NULL, (enum job_what)what);
}

static int op_working_set(struct control *c, const json_t *request, struct problem *problem,
			  json_t **reply, int *reply_fd)
{
	const char *name = json_string_value(json_object_get(request, "session"));
	struct session *s = name ? pager_find(c->p, name) : NULL;

	if (!s) {
		problem_set(problem, 404, "no session %s is open", name ? name : "?");
		return -ENOENT;
	}
	if (!s->recording) {
		problem_set(problem, 409, "session %s is not recorded: %s", name,
			    s->mode == SESSION_EAGER ? "it has no userfaultfd"
						     : "another one of its image is, or was");
		return -ENODATA;
	}
	return recording_answer(s->recording, reply, reply_fd);
}

static int op_image(struct control *c, const json_t *request, struct problem *problem,
		    json_t **reply)
{
	const char *id = json_string_value(json_object_get(request, "image_id"));
	json_t *stats = id ? pager_image_stats(c->p, id) : NULL;

	if (!stats) {
		problem_set(problem, 404, "no memory of image %.40s is here", id ? id : "?");
		return -ENOENT;
	}
	*reply = json_pack("{s:b, s:o}", "ok", 1, "image", stats);
	return 0;
}

/* A switch: absent leaves it alone. Return: 0; -EINVAL */
static int get_switch(const json_t *request, const char *member, bool *off, struct problem *problem)
{
	const json_t *value = json_object_get(request, member);

	if (!value)
		return 0;
	if (!json_is_boolean(value)) {
		problem_set(problem, 400, "\"%s\" must be true or false", member);
		return -EINVAL;
	}
	*off = !json_is_true(value);
	return 0;
}

/* Bytes as a number, or text as the options have it; absent leaves it alone. Return: 0; -EINVAL */
static int get_limit(const json_t *request, const char *member, uint64_t *bytes,
		     struct problem *problem)
{
	const json_t *value = json_object_get(request, member);
	const json_int_t n = json_integer_value(value);

	if (!value)
		return 0;
	if (json_is_string(value) && evict_parse(json_string_value(value), bytes) == 0)
		return 0;
	if (json_is_integer(value) && (n == 0 || n >= (json_int_t)EVICT_MIN_LIMIT)) {
		*bytes = (uint64_t)n;
		return 0;
	}
	problem_set(problem, 400, "\"%s\" must be 0 or at least %llu bytes", member,
		    (unsigned long long)EVICT_MIN_LIMIT);
	problem_hint(problem, "a number of bytes, or text: \"2G\", \"50%%\" of this host's memory");
	return -EINVAL;
}

static int op_config(struct control *c, const json_t *request, struct problem *problem,
		     json_t **reply)
{
	struct pager_options o = c->p->options;
	int r = get_switch(request, "userfaultfd", &o.no_userfaultfd, problem);

	if (r == 0)
		r = get_switch(request, "prefetch", &o.no_prefetch, problem);
	if (r == 0)
		r = get_limit(request, "memory_limit", &o.memory_limit, problem);
	if (r == 0)
		r = get_limit(request, "image_limit", &o.image_limit, problem);
	if (r < 0)
		return r;
	if (o.memory_limit != c->p->options.memory_limit ||
	    o.image_limit != c->p->options.image_limit)
		evict_limits(c->p, o.memory_limit, o.image_limit);
	c->p->options = o;
	*reply = json_pack("{s:b, s:b, s:b, s:I, s:I}", "ok", 1, "userfaultfd", !o.no_userfaultfd,
			   "prefetch", !o.no_prefetch, "memory_limit", (json_int_t)o.memory_limit,
			   "image_limit", (json_int_t)o.image_limit);
	return 0;
}

static int op_metrics(struct control *c, json_t **reply)
{
	_cleanup_buf_ struct buf text = {0};
	int r = metrics_text(c->p, &text);

	if (r == 0)
		*reply = json_pack("{s:b, s:s}", "ok", 1, "text", text.data);
	return r;
}

static int op_close(struct control *c, const json_t *request, struct problem *problem)
{
	const char *name = json_string_value(json_object_get(request, "session"));
	struct session *s = name ? pager_find(c->p, name) : NULL;
	struct orphan *orphan = takeover_find(c, name);

	if (orphan)
		takeover_close(c, orphan);
	for (struct door *d = c->doors; s && d; d = d->next) {
		if (d->session != s)
			continue;
		pager_stop_serving(c->p, s);
		if (d->ledger)
			ledger_end(d->ledger);
		log_info("session=%s closed", name);
		if (control_has_exited(s))
			control_forget(c, d);
		break;
	}
	return 0;
}

static int op_session(struct control *c, const json_t *request, struct problem *problem,
		      json_t **reply)
{
	const char *name = json_string_value(json_object_get(request, "session"));
	struct orphan *orphan = takeover_find(c, name);
	json_t *stats = orphan ? takeover_stats(orphan)
			: name ? pager_session_stats(c->p, name)
			       : NULL;

	if (!stats) {
		problem_set(problem, 404, "no session %s is open or remembered", name ? name : "?");
		return -ENOENT;
	}
	*reply = json_pack("{s:b, s:o}", "ok", 1, "stats", stats);
	return 0;
}

static int op_stats(struct control *c, json_t **reply)
{
	json_t *stats = pager_stats(c->p);

	if (stats)
		takeover_add_stats(c, stats);
	*reply = json_pack("{s:b, s:o}", "ok", 1, "stats", stats);
	return 0;
}

int request_serve(struct control *c, const json_t *request, const int fds[WIRE_MAX_FDS],
		  struct problem *problem, json_t **reply, int *reply_fd)
{
	const char *op = json_string_value(json_object_get(request, "op"));

	if (!op)
		op = "";
	if (!strcmp(op, "open"))
		return request_open(c, request, fds, problem, reply, reply_fd);
	if (!strcmp(op, "close"))
		return op_close(c, request, problem);
	if (!strcmp(op, "session"))
		return op_session(c, request, problem, reply);
	if (!strcmp(op, "load"))
		return op_load(c, request, problem);
	if (!strcmp(op, "warm"))
		return request_warm(c, request, fds, problem, reply);
	if (!strcmp(op, "working-set"))
		return op_working_set(c, request, problem, reply, reply_fd);
	if (!strcmp(op, "image"))
		return op_image(c, request, problem, reply);
	if (!strcmp(op, "config"))
		return op_config(c, request, problem, reply);
	if (!strcmp(op, "metrics"))
		return op_metrics(c, reply);
	if (!strcmp(op, "stats"))
		return op_stats(c, reply);
	if (!strcmp(op, "ping")) {
		*reply = json_pack("{s:b, s:i, s:s, s:b}", "ok", 1, "pid", (int)getpid(), "version",
				   DORM_VERSION, "takes_back", 1);
		return 0;
	}
	if (!strcmp(op, "handover")) {
		if (c->journal < 0) {
			problem_set(problem, 400, "handover: this pager keeps no journal");
			return -EOPNOTSUPP;
		}
		log_info("making room for another pager");
		/* a copy of the control socket: who connects now waits for the successor */
		*reply_fd = fcntl(c->listener, F_DUPFD_CLOEXEC, 0);
		control_hand_over(c);
		*reply = json_pack("{s:b, s:i}", "ok", 1, "pid", (int)getpid());
		return 0;
	}
	if (!strcmp(op, "shutdown")) {
		c->stop = true;
		return 0;
	}
	problem_set(problem, 400, "unknown operation \"%.40s\"", op);
	return -EOPNOTSUPP;
}
