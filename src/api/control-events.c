/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control-events.c - GET /events: what happens here, as server-sent events
 *
 *     id: 1767323045678901
 *     event: sandbox.state
 *     data: {"id":1767323045678901,"time":"...","type":"sandbox.state","sandboxID":"i...",...}
 *
 * A watcher begins with what comes next; with Last-Event-ID (which browsers send by themselves when
 * they connect again) or ?after= behind the one it names, 0 being the oldest that is there. What it
 * missed is said in an event "lost", which has no id. A comment every 15 s shows that the
 * connection lives. ?sandboxID= and ?type= choose; ?follow=false ends the answer with the newest;
 * ?format=lines leaves only the data, one object a line, of the type "alive" instead of a comment.
 *
 * What a watcher has not read waits in the ring of sandbox/events.h, so it costs no memory here but
 * its connection. WATCHERS_MAX bounds their threads.
 * Source: HTML Living Standard, "Server-sent events"
 */
#include "api/routes.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>

#include "api/fields.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/str.h"
#include "sandbox/events.h"
#include "sandbox/metrics.h"
#include "sandbox/sandbox.h"

#define WATCHERS_MAX 64u
#define ALIVE_MS     15000
#define LOOK_MS	     1000
#define NUMBER_MAX   9007199254740991ull /* what a double holds, and so any client */

static atomic_uint n_watchers;

struct watcher {
	struct events *events;
	uint64_t after;
	bool follow, lines;
	bool greeted;
	int fd;		/* of the connection */
	uint64_t until; /* without follow: the last one */
	char sandbox_id[ID_LEN + 1], type[EVENTS_TYPE_MAX + 1], owner[EVENTS_OWNER_MAX + 1];
	struct buf waiting; /* not yet taken by the connection */
};

static int say_lost(struct watcher *w, const struct event *ev)
{
	if (!ev->lost && !ev->restarted)
		return 0;
	return buf_printf(&w->waiting, "%s{\"type\":\"lost\",\"lost\":%llu,\"restarted\":%s}\n%s",
			  w->lines ? "" : "event: lost\ndata: ", (unsigned long long)ev->lost,
			  ev->restarted ? "true" : "false", w->lines ? "" : "\n");
}

static int say(struct watcher *w, const struct event *ev)
{
	if (w->lines)
		return buf_printf(&w->waiting, "%s\n", ev->text);
	return buf_printf(&w->waiting, "id: %llu\nevent: %s\ndata: %s\n\n",
			  (unsigned long long)ev->number, ev->type, ev->text);
}

static int say_alive(struct watcher *w)
{
	return buf_printf(&w->waiting, "%s",
			  w->lines ? "{\"type\":\"alive\"}\n" : ": dormd " DORM_VERSION "\n\n");
}

static const char *or_null(const char *text)
{
	return text[0] ? text : NULL;
}

/* A client that has gone would otherwise be noticed with the next comment. */
static bool has_gone(const struct watcher *w)
{
	return fd_poll(w->fd, POLLRDHUP, clock_now_ns()) > 0;
}

/* Return: as events_next(); -ECONNRESET */
static int wait_for_event(struct watcher *w, struct event *ev)
{
	const struct event_filter f = {.sandbox_id = or_null(w->sandbox_id),
				       .type = or_null(w->type),
				       .owner = or_null(w->owner)};
	uint64_t deadline_ns = deadline_after_ms(ALIVE_MS);

	for (;;) {
		int r = events_next(w->events, w->after, &f,
				    w->follow ? deadline_after_ms(LOOK_MS) : clock_now_ns(), ev);

		if (r < 0)
			return r;
		w->after = ev->number;
		if (r == 1 || ev->lost || ev->restarted || !w->follow ||
		    events_stopped(w->events) || deadline_passed(deadline_ns))
			return r;
		if (has_gone(w))
			return -ECONNRESET;
	}
}

/* Return: 1 there is something to send; 0 the end; negative errno */
static int fetch(struct watcher *w)
{
	struct event ev;
	int r;

	if (!w->follow && w->after >= w->until)
		return 0;
	r = wait_for_event(w, &ev);
	if (r < 0)
		return r;
	if (say_lost(w, &ev) < 0)
		r = -ENOMEM;
	else if (r == 1)
		r = say(w, &ev);
	else if (!w->waiting.len && w->follow && !events_stopped(w->events))
		r = say_alive(w);
	free(ev.text);
	return r < 0 ? r : w->waiting.len > 0;
}

static ssize_t watcher_read(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct watcher *w = cls;
	size_t n;
	int r = 1;

	if (!w->greeted && say_alive(w) < 0)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	w->greeted = true; /* sent at once, so that a client knows that it watches */
	if (!w->waiting.len)
		r = fetch(w);
	if (r < 0)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	if (r == 0)
		return MHD_CONTENT_READER_END_OF_STREAM;
	n = MIN(max, w->waiting.len);
	memcpy(buf, w->waiting.data, n);
	buf_consume(&w->waiting, n);
	return (ssize_t)n;
}

static void watcher_free(void *cls)
{
	struct watcher *w = cls;

	buf_deinit(&w->waiting);
	free(w);
	metrics_watcher(-1);
	atomic_fetch_sub(&n_watchers, 1);
}

/* Where to begin. */
static int read_after(struct request *q, struct watcher *w, struct problem *problem)
{
	const char *header = MHD_lookup_connection_value(q->connection, MHD_HEADER_KIND,
							 "Last-Event-ID"),
		   *query = request_query(q, "after");

	w->after = w->until = events_last(w->events);
	if (query)
		return fields_query_uint(query, "after", 0, NUMBER_MAX, problem, &w->after);
	if (header && str_to_u64(header, &w->after) < 0)
		w->after = 0; /* of some other server: everything, rather than an error for ever */
	return 0;
}

static int read_watcher(struct request *q, struct watcher *w, struct problem *problem)
{
	const char *follow = request_query(q, "follow"), *format = request_query(q, "format"),
		   *owner = request_owner(q);

	str_copy(w->type, sizeof(w->type), request_query(q, "type") ?: "");
	str_copy(w->owner, sizeof(w->owner), owner ?: "");
	w->follow = !follow || strcmp(follow, "false") != 0;
	if (follow && w->follow && strcmp(follow, "true") != 0) {
		problem_set(problem, 400, "follow: '%.32s' is neither true nor false", follow);
		return -EINVAL;
	}
	w->lines = format && !strcmp(format, "lines");
	if (format && !w->lines && strcmp(format, "sse") != 0) {
		problem_set(problem, 400, "format: '%.32s' is neither sse nor lines", format);
		return -EINVAL;
	}
	return read_after(q, w, problem);
}

static int begin(struct request *q, struct reply *y, const char *sandbox_id)
{
	struct watcher *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	metrics_watcher(1);
	if (atomic_fetch_add(&n_watchers, 1) >= WATCHERS_MAX) {
		watcher_free(w);
		problem_set(&y->problem, 503, "there are %u watchers of events already",
			    WATCHERS_MAX);
		problem_retry(&y->problem, 10);
		return -EAGAIN;
	}
	w->events = host_events(q->host);
	w->fd = MHD_get_connection_info(q->connection, MHD_CONNECTION_INFO_CONNECTION_FD)
			->connect_fd;
	str_copy(w->sandbox_id, sizeof(w->sandbox_id), sandbox_id ?: "");
	r = read_watcher(q, w, &y->problem);
	if (r == 0 && sandbox_id && !id_is_valid(sandbox_id)) {
		problem_set(&y->problem, 404, "there is no sandbox %.64s", sandbox_id);
		r = -ENOENT;
	}
	if (r < 0) {
		watcher_free(w);
		return r;
	}
	r = reply_stream(y, w->lines ? "application/x-ndjson" : "text/event-stream",
			 MHD_SIZE_UNKNOWN, watcher_read, w, watcher_free);
	if (r == 0)
		(void)MHD_add_response_header(y->raw, "Cache-Control", "no-store");
	return r;
}

int control_events(struct request *q, struct reply *y)
{
	const char *id = request_query(q, "sandboxID");

	if (id && !id_is_valid(id)) {
		problem_set(&y->problem, 400, "sandboxID: '%.64s' is not a sandbox's id", id);
		return -EINVAL;
	}
	return begin(q, y, id);
}

/* Also of one that is gone: that it went is an event. */
int control_sandbox_events(struct request *q, struct reply *y)
{
	return begin(q, y, q->args[0]);
}
