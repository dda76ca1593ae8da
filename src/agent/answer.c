/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/answer.h"

#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/helper.h"
#include "base/error.h"
#include "base/fd.h"

#define RELAY_CHUNK 16384u
#define RELAY_HIGH  (256u * 1024) /* of a client that does not read */

/* --- in the helper -----------------------------------------------------------------------------
 */

int answer_send(int status, const void *json, size_t len)
{
	const struct answer_head head = {(uint32_t)status, (uint32_t)len};
	int r = fd_write_full(HELPER_FD, &head, sizeof(head));

	return r < 0 ? r : fd_write_full(HELPER_FD, json, len);
}

int answer_fail(enum connect_code code, const char *fmt, ...)
{
	_cleanup_free_ char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	text = connect_error_text(code, fmt, ap);
	va_end(ap);
	return answer_send(connect_status(code), text ? text : "{}", text ? strlen(text) : 2);
}

int answer_read(void *data, size_t len)
{
	return fd_read_full(HELPER_FD, data, len);
}

/* --- in the agent ------------------------------------------------------------------------------
 */

void relay_init(struct relay *r, struct loop *loop, int fd, void *userdata)
{
	*r = (struct relay){.loop = loop, .fd = fd, .userdata = userdata};
}

void relay_deinit(struct relay *r)
{
	r->source = loop_remove(r->source);
	if (r->rq)
		request_release(r->rq);
	r->rq = NULL;
	r->busy = false;
}

static void relay_done(struct relay *r, int result)
{
	relay_deinit(r);
	if (r->done)
		r->done(r->userdata, result);
}

void relay_fail(struct relay *r, enum connect_code code, const char *message)
{
	struct request *rq = take_ptr(r->rq);

	if (!rq)
		return;
	request_release(rq);
	if (r->have < sizeof(r->head))
		connect_unary_fail(rq, code, "%s", message);
	else
		server_stream_reset(rq->stream);
}

static int relay_head(struct relay *r)
{
	const struct header h = {"content-type", "application/json"};
	ssize_t n = read(r->fd, (char *)&r->head + r->have, sizeof(r->head) - r->have);

	if (n <= 0)
		return n < 0 ? -errno : -ECONNRESET;
	r->have += (size_t)n;
	if (r->have < sizeof(r->head))
		return 0;
	r->left = r->head.len;
	if (r->rq && server_stream_respond(r->rq->stream, (int)r->head.status, &h, 1) < 0)
		return -ENOMEM;
	return 0;
}

static int relay_body(struct relay *r)
{
	char chunk[RELAY_CHUNK];
	ssize_t n = read(r->fd, chunk, MIN(r->left, sizeof(chunk)));

	if (n <= 0)
		return n < 0 ? -errno : -ECONNRESET;
	r->left -= (size_t)n;
	return r->rq ? server_stream_write(r->rq->stream, chunk, (size_t)n) : 0;
}

static void relay_finish(struct relay *r)
{
	struct request *rq = r->rq;

	if (rq)
		server_stream_end(rq->stream);
	relay_done(r, 0);
}

static void on_readable(void *userdata, uint32_t events)
{
	struct relay *r = userdata;
	bool headed = r->have == sizeof(r->head);
	int result = headed ? relay_body(r) : relay_head(r);

	if (result == -EAGAIN || result == -EINTR)
		return;
	if (result < 0) {
		relay_fail(
			r, CONNECT_RESOURCE_EXHAUSTED,
			"the work on it was ended, most likely for lack of memory in the sandbox");
		relay_done(r, result);
	} else if (r->have == sizeof(r->head) && !r->left) {
		relay_finish(r);
	} else if (r->rq && server_stream_buffered(r->rq->stream) > RELAY_HIGH) {
		r->source = loop_remove(r->source);
		server_stream_want_writable(r->rq->stream);
	}
}

static void relay_watch(struct relay *r)
{
	if (!r->source && loop_add(r->loop, r->fd, EPOLLIN, on_readable, r, &r->source) < 0) {
		relay_fail(r, CONNECT_RESOURCE_EXHAUSTED, "out of memory");
		relay_done(r, -ENOMEM);
	}
}

static void on_client_writable(struct request *rq)
{
	relay_watch(rq->keeper);
}

static void on_client_closed(struct request *rq)
{
	struct relay *r = rq->keeper;

	r->rq = NULL;
	if (r->gone)
		r->gone(r->userdata);
	else
		relay_watch(r);
}

int relay_begin(struct relay *r, struct request *rq)
{
	int result = loop_add(r->loop, r->fd, EPOLLIN, on_readable, r, &r->source);

	if (result < 0)
		return result;
	r->rq = rq;
	r->have = 0;
	r->left = 0;
	r->busy = true;
	if (rq)
		request_keep(rq, r, on_client_closed, on_client_writable);
	return 0;
}
