/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/input-stream.h"

#include <errno.h>
#include <string.h>

#include "agent/connect-proto.h"
#include "agent/process-rpc.h"
#include "base/error.h"

#define HEAD 5u /* of an envelope */

struct input_stream {
	struct request *rq;
	struct buf body; /* not yet looked at */
	size_t held;	 /* of that, what was not given back to the window */
	struct process_selector which;
	char *tag;				 /* which.tag, ours */
	bool started, ended;			 /* which is set; the client has said all */
	struct input *input;			 /* is being written */
	enum { WAITING, WRITTEN, REFUSED } fate; /* of the last input */
	bool in_call; /* process_input() has not returned: on_written() only notes the fate */
};

/* @rq is answered by the caller, before or after. */
static struct request *input_stream_free(struct input_stream *st)
{
	struct request *rq = st->rq;

	input_forget(st->input);
	buf_deinit(&st->body);
	free(st->tag);
	free(st);
	return rq;
}

static void on_closed(struct request *rq)
{
	(void)input_stream_free(rq->keeper); /* nobody to answer */
}

static void stream_fail(struct input_stream *st, const struct problem *problem)
{
	struct request *rq = input_stream_free(st);

	request_release(rq);
	request_drop_body(rq);
	if (problem_is_set(problem))
		connect_stream_fail(rq, process_problem_code(problem), "%s", problem->message);
	else
		connect_stream_fail(rq, CONNECT_RESOURCE_EXHAUSTED, "out of memory");
}

static void stream_finish(struct input_stream *st)
{
	struct request *rq = input_stream_free(st);

	request_release(rq);
	connect_stream_send(rq, "{}", 2);
	connect_stream_end(rq);
}

/* --- messages: 0, or negative errno with a problem ----------------------------------------------
 */

static int on_start(struct input_stream *st, const json_t *start, struct problem *problem)
{
	struct process *p;
	int r = process_select_live(st->rq->agent, start, problem, &p);

	if (r == 0)
		r = process_select(start, problem, &st->which);
	if (r < 0)
		return r;
	free(st->tag);
	st->tag = st->which.tag ? strdup(st->which.tag) : NULL;
	if (st->which.tag && !st->tag)
		return error_trace(-ENOMEM);
	st->which.tag = st->tag;
	st->started = true;
	return 0;
}

static void stream_step(struct input_stream *st);

static void on_written(void *userdata, bool ok)
{
	struct input_stream *st = userdata;
	struct problem problem = PROBLEM_INIT;

	st->fate = ok ? WRITTEN : REFUSED;
	if (st->in_call)
		return;
	if (ok) {
		stream_step(st);
		return;
	}
	process_input_problem(-EPIPE, &problem);
	stream_fail(st, &problem);
}

/* Return: 0 written; 1 later, and on_written() goes on; negative errno */
static int write_input(struct input_stream *st, const json_t *data, struct problem *problem)
{
	struct process *p = process_find(st->rq->agent->processes, st->which.pid, st->which.tag);
	_cleanup_free_ char *bytes = NULL;
	size_t len;
	int r;

	if (!p) {
		problem_set(problem, 404, "the process has ended");
		return -ENOENT;
	}
	r = process_input_parse(data, p, problem, &bytes, &len);
	if (r < 0)
		return r;
	st->fate = WAITING;
	st->in_call = true;
	r = process_input(p, bytes, len, on_written, st, &st->input);
	st->in_call = false;
	if (r == 0 && st->fate == REFUSED)
		r = -EPIPE;
	process_input_problem(r, problem);
	return r < 0 ? r : st->fate == WAITING;
}

/* Return: 0 go on; 1: on_written() does; negative errno */
static int take_message(struct input_stream *st, const json_t *message, struct problem *problem)
{
	const json_t *start = json_object_get(message, "start");
	const json_t *data = json_object_get(message, "data");

	if (start)
		return on_start(st, start, problem);
	if (!data)
		return 0; /* keepalive, or what a later client knows */
	if (!st->started) {
		problem_set(problem, 400, "the first message must be {\"start\": {\"process\"}}");
		return -EINVAL;
	}
	return write_input(st, data, problem);
}

/* --- the body -----------------------------------------------------------------------------------
 */

/* Length of the first envelope, with its head. Return: 0: not all here; negative errno */
static ssize_t whole_envelope(const struct buf *b, struct problem *problem)
{
	const uint8_t *p = (const uint8_t *)b->data;
	size_t len;

	if (b->len < HEAD)
		return 0;
	len = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];
	if (p[0] != 0 || len > INPUT_STREAM_MESSAGE_MAX) {
		problem_set(problem, 400,
			    "a message must be one uncompressed envelope of at most %u bytes",
			    INPUT_STREAM_MESSAGE_MAX);
		return -EINVAL;
	}
	return b->len < HEAD + len ? 0 : (ssize_t)(HEAD + len);
}

/* Take the next message off the body. Return: 0; 1 the callback goes on; -EAGAIN: none yet */
static int stream_next(struct input_stream *st, struct problem *problem)
{
	ssize_t len = whole_envelope(&st->body, problem);
	json_t *message;
	int r;

	if (len <= 0)
		return len < 0 ? (int)len : -EAGAIN;
	message = json_loadb(st->body.data + HEAD, (size_t)len - HEAD, 0, NULL);
	if (!json_is_object(message)) {
		json_decref(message);
		problem_set(problem, 400, "a message is not a JSON object");
		return -EINVAL;
	}
	buf_consume(&st->body, (size_t)len);
	r = take_message(st, message, problem);
	json_decref(message);
	return r;
}

static void stream_step(struct input_stream *st)
{
	struct problem problem = PROBLEM_INIT;
	int r;

	do
		r = stream_next(st, &problem);
	while (r == 0);
	if (r > 0)
		return;
	if (r != -EAGAIN) {
		stream_fail(st, &problem);
	} else if (st->ended && st->body.len) {
		problem_set(&problem, 400, "the last message is cut");
		stream_fail(st, &problem);
	} else if (st->ended) {
		stream_finish(st);
	} else {
		request_consumed(st->rq, st->held);
		st->held = 0;
	}
}

static void on_body(struct request *rq, const void *data, size_t len)
{
	struct input_stream *st = rq->keeper;

	if (buf_append(&st->body, data, len) < 0) {
		request_consumed(rq, len);
		stream_fail(st, &PROBLEM_INIT);
		return;
	}
	st->held += len;
	if (!st->input)
		stream_step(st);
}

static void on_body_end(struct request *rq)
{
	struct input_stream *st = rq->keeper;

	st->ended = true;
	if (!st->input)
		stream_step(st);
}

void handle_stream_input(struct request *rq)
{
	const struct header h = {"content-type", "application/connect+json"};
	struct input_stream *st = calloc(1, sizeof(*st));

	if (!st || server_stream_respond(rq->stream, 200, &h, 1) < 0) {
		free(st);
		request_drop_body(rq);
		server_stream_reset(rq->stream);
		return;
	}
	st->rq = rq;
	rq->on_body = on_body;
	rq->on_body_end = on_body_end;
	request_keep(rq, st, on_closed, NULL);
}
