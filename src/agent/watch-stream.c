/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/watch-stream.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "agent/answer.h"
#include "agent/helper.h"
#include "base/clock.h"
#include "base/error.h"

#define CHUNK	    16384u
#define MESSAGE_MAX (1u << 20) /* one event: two paths, a link's target, 4 KiB of metadata */
#define STREAM_HIGH (256u * 1024)

struct watch_stream {
	struct agent *agent;
	struct helper helper;
	struct request *rq;
	struct loop_source *source; /* NULL while the client is slow */
	struct buf in;		    /* less than one message */
	bool started;
	uint64_t keepalive_ms, sent_ns;
	struct loop_timer keepalive, limit;
	struct loop_timer start;
};

static void stream_free(struct watch_stream *ws)
{
	loop_timer_clear(&ws->keepalive);
	loop_timer_clear(&ws->limit);
	loop_timer_clear(&ws->start);
	loop_remove(ws->source);
	if (ws->rq)
		request_release(ws->rq);
	helper_stop(ws->agent, ws->helper);
	buf_deinit(&ws->in);
	free(ws);
}

static void stream_fail(struct watch_stream *ws, enum connect_code code, const char *message)
{
	connect_stream_fail(ws->rq, code, "%s", message);
	stream_free(ws);
}

static void on_closed(struct request *rq)
{
	struct watch_stream *ws = rq->keeper;

	ws->rq = NULL;
	stream_free(ws);
}

static void set_keepalive(struct watch_stream *ws)
{
	loop_timer_set(ws->agent->loop, &ws->keepalive,
		       ws->sent_ns + ws->keepalive_ms * NSEC_PER_MSEC);
}

static void stream_send(struct watch_stream *ws, const char *json, size_t len)
{
	connect_stream_send(ws->rq, json, len);
	ws->sent_ns = clock_now_ns();
}

/* Set for the moment that was due when it was set; messages since then have moved it. */
static void on_keepalive(void *userdata)
{
	static const char message[] = "{\"keepalive\":{}}";
	struct watch_stream *ws = userdata;

	if (clock_now_ns() >= ws->sent_ns + ws->keepalive_ms * NSEC_PER_MSEC)
		stream_send(ws, message, strlen(message));
	set_keepalive(ws);
}

static void on_limit(void *userdata)
{
	stream_fail(userdata, CONNECT_DEADLINE_EXCEEDED, "the watch has reached its deadline");
}

static void on_start_limit(void *userdata)
{
	stream_fail(userdata, CONNECT_DEADLINE_EXCEEDED,
		    "the directory could not be watched in time: its file system does not answer, "
		    "or there is too much in it");
}

/* Return: false when that was the last one */
static bool on_message(struct watch_stream *ws, uint32_t status, const char *json, size_t len)
{
	if (status != 200) {
		connect_stream_fail_with(ws->rq, json, len);
		return false;
	}
	if (!ws->started)
		loop_timer_clear(&ws->start);
	ws->started = true;
	stream_send(ws, json, len);
	return true;
}

/* Return: 0; 1 after the last message; -EBADMSG */
static int on_bytes(struct watch_stream *ws)
{
	size_t at = 0;

	while (ws->in.len - at >= sizeof(struct answer_head)) {
		const char *json = ws->in.data + at + sizeof(struct answer_head);
		struct answer_head head;

		memcpy(&head, ws->in.data + at, sizeof(head));
		if (head.len > MESSAGE_MAX)
			return -EBADMSG;
		if (ws->in.len - at - sizeof(head) < head.len)
			break;
		if (!on_message(ws, head.status, json, head.len))
			return 1;
		at += sizeof(head) + head.len;
	}
	buf_consume(&ws->in, at);
	return 0;
}

static void on_readable(void *userdata, uint32_t events)
{
	struct watch_stream *ws = userdata;
	char chunk[CHUNK];
	ssize_t n = read(ws->helper.fd, chunk, sizeof(chunk));
	int r;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	r = n <= 0 ? -ECONNRESET : buf_append(&ws->in, chunk, (size_t)n);
	if (r == 0)
		r = on_bytes(ws);
	if (r < 0) {
		stream_fail(ws, CONNECT_RESOURCE_EXHAUSTED,
			    "the watch was ended, most likely for lack of memory in the sandbox");
	} else if (r > 0) {
		stream_free(ws);
	} else if (server_stream_buffered(ws->rq->stream) > STREAM_HIGH) {
		ws->source = loop_remove(ws->source);
		server_stream_want_writable(ws->rq->stream);
	}
}

static void on_writable(struct request *rq)
{
	struct watch_stream *ws = rq->keeper;

	if (!ws->source &&
	    loop_add(ws->agent->loop, ws->helper.fd, EPOLLIN, on_readable, ws, &ws->source) < 0)
		stream_fail(ws, CONNECT_RESOURCE_EXHAUSTED, "out of memory");
}

static void stream_begin(struct watch_stream *ws, uint64_t limit_ms)
{
	struct loop *l = ws->agent->loop;

	request_keep(ws->rq, ws, on_closed, on_writable);
	ws->sent_ns = clock_now_ns();
	set_keepalive(ws);
	loop_timer_set(l, &ws->start, deadline_after_ms(WATCH_START_MS));
	if (limit_ms)
		loop_timer_set(l, &ws->limit, deadline_after_ms(limit_ms));
	on_writable(ws->rq);
}

static int stream_new(struct request *rq, const struct watcher_options *options,
		      struct watch_stream **ret)
{
	struct watch_stream *ws = calloc(1, sizeof(*ws));
	int r;

	if (!ws)
		return error_trace(-ENOMEM);
	*ws = (struct watch_stream){
		.agent = rq->agent,
		.rq = rq,
		.keepalive_ms = connect_keepalive_ms(rq),
		.keepalive = {.fire = on_keepalive, .userdata = ws},
		.limit = {.fire = on_limit, .userdata = ws},
		.start = {.fire = on_start_limit, .userdata = ws},
	};
	r = helper_start(rq->agent, watcher_work, (void *)options, &ws->helper);
	if (r < 0) {
		free(ws);
		return r;
	}
	*ret = ws;
	return 0;
}

void watch_stream_open(struct request *rq, const struct watcher_options *options)
{
	struct watch_stream *ws;
	uint64_t limit_ms;
	int r;

	if (connect_timeout_ms(rq, &limit_ms) < 0) {
		connect_stream_fail(rq, CONNECT_INVALID_ARGUMENT,
				    "Connect-Timeout-Ms must be a number of at most ten digits");
		return;
	}
	r = stream_new(rq, options, &ws);
	if (r == -EAGAIN)
		connect_stream_fail(rq, CONNECT_RESOURCE_EXHAUSTED,
				    "%u watches and operations on files are under way already",
				    HELPER_MAX);
	else if (r < 0)
		connect_stream_fail(rq, CONNECT_RESOURCE_EXHAUSTED, "cannot begin to watch: %s",
				    strerrordesc_np(-r));
	else
		stream_begin(ws, limit_ms);
}
