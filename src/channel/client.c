/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One mutex guards a channel: its nghttp2 session, its output and all its streams. Whoever holds it
 * may feed the session and push output into the socket (channel_pump()), so a request usually
 * leaves from the caller's own thread; the channel's thread reads, and waits for the socket when it
 * was full.
 *
 *     caller: lock, submit, pump, [socket full: kick the thread], wait on the stream's condition
 *     thread: poll, read, lock, parse, HTTP/2 callbacks signal conditions, pump, unlock
 *
 * The guest is not trusted. What it can make us hold is bounded: per stream one window of body and
 * one list of headers, and streams exist only because we opened them; nghttp2 bounds its own
 * queues. Anything that is not right breaks the whole channel: every call then gives -EPIPE.
 *
 * Nothing is called with the mutex held that waits, except the conditions.
 */
#include "channel/client.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <nghttp2/nghttp2.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "channel/fifo.h"
#include "channel/frame.h"
#include "channel/handshake.h"
#include "channel/header.h"
#include "channel/limits.h"
#include "channel/sparse.h"

#define THREAD_STACK   (192u * 1024) /* what is read lies there */
#define INPUT_LEN      65536u
#define CALL_BODY_MAX  (1024u * 1024)
#define OPEN_HEADERS   32u
#define PSEUDO_HEADERS 4u

struct channel {
	atomic_uint refs;
	pthread_mutex_t lock;
	int fd;
	int wake_fd; /* eventfd: look again */
	pthread_t thread;
	bool broken;
	bool closing;
	bool polling_out; /* the thread waits for the socket to take more */
	nghttp2_session *session;
	struct fifo out; /* framed bytes for the socket */
	struct channel_stream *streams;
	unsigned n_streams;
	struct frame_parser parser; /* the thread's; last: its store is touched when it is needed */
};

struct channel_stream {
	struct channel *ch;
	struct channel_stream *next, **prev;
	int32_t id;
	pthread_cond_t changed;
	/* response */
	int status;
	bool head_done;
	bool in_end; /* the whole body is in `in` */
	bool closed; /* HTTP/2 is done with it: nothing more comes or goes */
	bool cancelled;
	struct header_list headers;
	struct fifo in;
	/* request: borrowed from a caller that is inside channel_stream_write() */
	const uint8_t *out;
	size_t out_len;
	bool out_end;
};

/* --- the session, lock held --------------------------------------------------------------------
 */

static void channel_break(struct channel *ch)
{
	ch->broken = true;
	for (struct channel_stream *s = ch->streams; s; s = s->next)
		pthread_cond_broadcast(&s->changed);
}

static void channel_kick(struct channel *ch)
{
	const uint64_t one = 1;

	(void)!write(ch->wake_fd, &one, sizeof(one)); /* full means kicked already */
}

static int channel_fill(struct channel *ch)
{
	while (ch->out.len < CHANNEL_OUTPUT_CHUNK) {
		const uint8_t *data;
		ssize_t n = nghttp2_session_mem_send(ch->session, &data);

		if (n == 0)
			return 0;
		if (n < 0)
			return error_trace(header_error((int)n));
		n = frame_put_data(&ch->out, data, (size_t)n);
		if (n < 0)
			return error_trace((int)n);
	}
	return 0;
}

/* Return: 0 everything is out, or the socket is full (out.len says); negative errno */
static int channel_flush(struct channel *ch)
{
	int r = channel_fill(ch);

	while (r == 0 && ch->out.len) {
		ssize_t n = send(ch->fd, fifo_front(&ch->out), ch->out.len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : error_errno();
		fifo_consume(&ch->out, (size_t)n);
		r = channel_fill(ch);
	}
	return error_trace(r);
}

/* Send what can be sent; the rest is the thread's. */
static void channel_pump(struct channel *ch)
{
	if (ch->broken)
		return;
	if (channel_flush(ch) < 0 ||
	    (!nghttp2_session_want_read(ch->session) && !nghttp2_session_want_write(ch->session))) {
		channel_break(ch);
		channel_kick(ch);
	} else if (ch->out.len && !ch->polling_out) {
		channel_kick(ch);
	}
}

/* --- nghttp2 callbacks, lock held --------------------------------------------------------------
 */

static int parse_status(const uint8_t *value, size_t len)
{
	int status = 0;

	for (size_t i = 0; i < len && i < 3; i++)
		status =
			status * 10 + (value[i] - '0'); /* nghttp2 has seen that these are digits */
	return status;
}

static int on_header(nghttp2_session *ng, const nghttp2_frame *frame, const uint8_t *name,
		     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
		     void *userdata)
{
	struct channel_stream *s = nghttp2_session_get_stream_user_data(ng, frame->hd.stream_id);
	int r;

	if (!s || s->head_done) /* closed by us; or a trailer */
		return 0;
	if (name_len == 7 && !memcmp(name, ":status", 7)) {
		s->status = parse_status(value, value_len);
		return 0;
	}
	r = header_list_add(&s->headers, name, name_len, value, value_len);
	if (r == -ENOMEM)
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	return r < 0 ? NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE : 0;
}

static int on_frame_recv(nghttp2_session *ng, const nghttp2_frame *frame, void *userdata)
{
	struct channel_stream *s = nghttp2_session_get_stream_user_data(ng, frame->hd.stream_id);

	if (!s || (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA))
		return 0;
	if (frame->hd.type == NGHTTP2_HEADERS && !s->head_done) {
		if (s->status >= 200)
			s->head_done = true;
		else
			header_list_deinit(&s->headers); /* 1xx: the real one follows */
	}
	if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
		s->in_end = true;
	pthread_cond_broadcast(&s->changed);
	return 0;
}

static int on_data_chunk(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *data,
			 size_t len, void *userdata)
{
	struct channel_stream *s = nghttp2_session_get_stream_user_data(ng, id);

	if (!s) {
		(void)nghttp2_session_consume(ng, id, len); /* fails only for what is gone */
		return 0;
	}
	if (fifo_append(&s->in, data, len) < 0)
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	pthread_cond_broadcast(&s->changed);
	return 0;
}

static int on_stream_close(nghttp2_session *ng, int32_t id, uint32_t code, void *userdata)
{
	struct channel_stream *s = nghttp2_session_get_stream_user_data(ng, id);

	if (s) {
		s->closed = true;
		pthread_cond_broadcast(&s->changed);
	}
	return 0;
}

static ssize_t on_read(nghttp2_session *ng, int32_t id, uint8_t *buf, size_t len, uint32_t *flags,
		       nghttp2_data_source *source, void *userdata)
{
	struct channel_stream *s = nghttp2_session_get_stream_user_data(ng, id);
	size_t n;

	if (!s)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	n = MIN(len, s->out_len);
	if (n) {
		memcpy(buf, s->out, n);
		s->out += n;
		s->out_len -= n;
	}
	if (s->out_len == 0)
		pthread_cond_broadcast(&s->changed);
	if (s->out_len == 0 && s->out_end)
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	else if (n == 0)
		return NGHTTP2_ERR_DEFERRED;
	return (ssize_t)n;
}

/* --- the thread --------------------------------------------------------------------------------
 */

/* Bytes from the guest. Return: 0; negative errno: the channel is of no use any more */
static int channel_receive(struct channel *ch, const void *data, size_t len)
{
	const uint8_t *p = data;
	enum frame_result result;

	while ((result = frame_next(&ch->parser, &p, &len)) != FRAME_MORE) {
		if (result == FRAME_DROPPED || ch->parser.type != FRAME_DATA)
			return error_trace(-EPROTO);
		if (nghttp2_session_mem_recv(ch->session, ch->parser.payload, ch->parser.len) < 0)
			return error_trace(-EPROTO);
	}
	return 0;
}

/* The buffer is on the stack, of which only what was ever filled is there: a channel that is idle
 * takes little memory, and there are many of them. Return: 0; negative errno */
static int thread_input(struct channel *ch)
{
	uint8_t input[INPUT_LEN];
	ssize_t n = read(ch->fd, input, sizeof(input));

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -EPIPE;
	LOCK_SCOPE(&ch->lock);
	return ch->broken ? -EPIPE : channel_receive(ch, input, (size_t)n);
}

/* What to wait for; false: nothing any more */
static bool thread_events(struct channel *ch, short *ret)
{
	LOCK_SCOPE(&ch->lock);

	if (ch->broken || ch->closing)
		return false;
	ch->polling_out = ch->out.len > 0;
	*ret = (short)(POLLIN | (ch->polling_out ? POLLOUT : 0));
	return true;
}

static void *thread_main(void *arg)
{
	struct channel *ch = arg;
	struct pollfd p[2] = {{.fd = ch->fd}, {.fd = ch->wake_fd, .events = POLLIN}};
	uint64_t kicks;
	int r = 0;

	(void)pthread_setname_np(pthread_self(), "channel"); /* only for people */
	while (r == 0 && thread_events(ch, &p[0].events)) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			r = -errno;
		if (r == 0 && p[1].revents)
			(void)!read(ch->wake_fd, &kicks, sizeof(kicks)); /* only to reset it */
		if (r == 0 && p[0].revents & (POLLIN | POLLHUP | POLLERR))
			r = thread_input(ch);
		LOCK_SCOPE(&ch->lock);
		ch->polling_out = false;
		if (r == 0)
			channel_pump(ch);
		else
			channel_break(ch);
	}
	return NULL;
}

/* --- life --------------------------------------------------------------------------------------
 */

static int session_create(struct channel *ch)
{
	nghttp2_session_callbacks *cb = NULL;
	nghttp2_option *option = NULL;
	int ng = nghttp2_session_callbacks_new(&cb);

	if (ng == 0)
		ng = nghttp2_option_new(&option);
	if (ng == 0) {
		nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
		nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame_recv);
		nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data_chunk);
		nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
		nghttp2_option_set_no_auto_window_update(option, 1);
		ng = nghttp2_session_client_new3(&ch->session, cb, ch, option, sparse_mem());
	}
	nghttp2_option_del(option);
	nghttp2_session_callbacks_del(cb);
	return ng ? error_trace(header_error(ng)) : 0;
}

static int session_settings(struct channel *ch)
{
	const nghttp2_settings_entry settings[] = {
		{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
		{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, CHANNEL_STREAM_WINDOW},
		{NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, CHANNEL_MAX_HEADER_BYTES},
	};
	int ng = nghttp2_submit_settings(ch->session, NGHTTP2_FLAG_NONE, settings,
					 ARRAY_SIZE(settings));

	if (ng == 0)
		ng = nghttp2_session_set_local_window_size(ch->session, NGHTTP2_FLAG_NONE, 0,
							   CHANNEL_CONNECTION_WINDOW);
	return ng ? error_trace(header_error(ng)) : 0;
}

/* Signals are the business of the program's own threads. */
static int thread_start(struct channel *ch)
{
	sigset_t all, old;
	pthread_attr_t attr;
	int r;

	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&ch->thread, &attr, thread_main, ch);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return error_trace(-r);
}

/* A channel without its thread */
static struct channel *channel_destroy(struct channel *ch)
{
	nghttp2_session_del(ch->session);
	fifo_deinit(&ch->out);
	fd_close(ch->fd);
	fd_close(ch->wake_fd);
	pthread_mutex_destroy(&ch->lock);
	sparse_free(ch, sizeof(*ch));
	return NULL;
}

static int channel_start(struct channel *ch, const struct fifo *rest)
{
	int r;

	if (ch->wake_fd < 0)
		return error_errno();
	r = session_create(ch);
	if (r == 0)
		r = session_settings(ch);
	if (r == 0)
		r = channel_receive(ch, fifo_front(rest), rest->len);
	if (r == 0)
		r = channel_flush(ch);
	if (r == 0)
		r = thread_start(ch);
	return error_trace(r);
}

int channel_dial(const char *socket_path)
{
	return handshake_dial(socket_path);
}

int channel_connect(const char *socket_path, int first_fd, int alive_fd, uint64_t deadline_ns,
		    struct channel **ret)
{
	struct channel *ch = sparse_alloc(sizeof(*ch));
	struct fifo rest = {0};
	int r;

	if (!ch) {
		fd_close(first_fd);
		return error_trace(-ENOMEM);
	}
	ch->refs = 1;
	pthread_mutex_init(&ch->lock, NULL);
	frame_parser_init(&ch->parser);
	ch->fd = -1;
	ch->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = handshake_connect(socket_path, first_fd, alive_fd, deadline_ns, &ch->fd, &rest);
	if (r == 0)
		r = channel_start(ch, &rest);
	fifo_deinit(&rest);
	if (r < 0)
		channel_destroy(ch);
	else
		*ret = ch;
	return error_trace(r);
}

struct channel *channel_ref(struct channel *ch)
{
	atomic_fetch_add(&ch->refs, 1);
	return ch;
}

struct channel *channel_free(struct channel *ch)
{
	if (!ch || atomic_fetch_sub(&ch->refs, 1) != 1)
		return NULL;
	pthread_mutex_lock(&ch->lock);
	assert(!ch->streams);
	ch->closing = true;
	pthread_mutex_unlock(&ch->lock);
	channel_kick(ch);
	pthread_join(ch->thread, NULL);
	return channel_destroy(ch);
}

void channel_cut(struct channel *ch)
{
	LOCK_SCOPE(&ch->lock);
	channel_break(ch);
	channel_kick(ch);
}

void channel_shutdown(struct channel *ch)
{
	LOCK_SCOPE(&ch->lock);
	channel_break(ch);
	(void)shutdown(ch->fd, SHUT_RDWR); /* not connected any more: as good */
	channel_kick(ch);
}

struct channel *channel_close(struct channel *ch)
{
	if (ch)
		channel_shutdown(ch);
	return channel_free(ch);
}

bool channel_is_open(struct channel *ch)
{
	LOCK_SCOPE(&ch->lock);
	return !ch->broken;
}

unsigned channel_active_streams(struct channel *ch)
{
	LOCK_SCOPE(&ch->lock);
	return ch->n_streams;
}

/* --- streams -----------------------------------------------------------------------------------
 */

static struct channel_stream *stream_new(struct channel *ch)
{
	struct channel_stream *s = calloc(1, sizeof(*s));
	pthread_condattr_t attr;

	if (!s)
		return NULL;
	s->ch = ch;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->changed, &attr);
	pthread_condattr_destroy(&attr);
	return s;
}

static void stream_free(struct channel_stream *s)
{
	header_list_deinit(&s->headers);
	fifo_deinit(&s->in);
	pthread_cond_destroy(&s->changed);
	free(s);
}

static void stream_link(struct channel_stream *s)
{
	struct channel *ch = s->ch;

	s->next = ch->streams;
	s->prev = &ch->streams;
	if (s->next)
		s->next->prev = &s->next;
	ch->streams = s;
	ch->n_streams++;
}

static void stream_unlink(struct channel_stream *s)
{
	*s->prev = s->next;
	if (s->next)
		s->next->prev = s->prev;
	s->ch->n_streams--;
}

/* Wait for the stream to change. Return: 0; -ETIMEDOUT */
static int stream_wait(struct channel_stream *s, uint64_t deadline_ns)
{
	struct timespec ts = {.tv_sec = (time_t)(deadline_ns / NSEC_PER_SEC),
			      .tv_nsec = (long)(deadline_ns % NSEC_PER_SEC)};

	if (deadline_ns == DEADLINE_NEVER)
		return -pthread_cond_wait(&s->changed, &s->ch->lock);
	return -pthread_cond_timedwait(&s->changed, &s->ch->lock, &ts);
}

static bool stream_is_over(const struct channel_stream *s)
{
	return s->closed || s->cancelled || s->ch->broken;
}

/* Why a wait has ended without what it waited for. @r: of stream_wait() */
static int stream_error(const struct channel_stream *s, int r)
{
	if (s->ch->broken)
		return -EPIPE;
	return s->cancelled ? -ECANCELED : s->closed ? -ECONNRESET : error_trace(r);
}

static int stream_submit(struct channel_stream *s, const char *method, const char *path,
			 const struct channel_header *headers, size_t n_headers, bool end)
{
	nghttp2_data_provider provider = {.read_callback = on_read};
	nghttp2_nv nv[PSEUDO_HEADERS + OPEN_HEADERS] = {
		header_nv(":method", method),
		header_nv(":scheme", "http"),
		header_nv(":authority", "agent"),
		header_nv(":path", path),
	};

	for (size_t i = 0; i < n_headers; i++)
		nv[PSEUDO_HEADERS + i] = header_nv(headers[i].name, headers[i].value);
	s->id = nghttp2_submit_request(s->ch->session, NULL, nv, PSEUDO_HEADERS + n_headers,
				       end ? NULL : &provider, s);
	return s->id < 0 ? error_trace(header_error(s->id)) : 0;
}

int channel_stream_open(struct channel *ch, const char *method, const char *path,
			const struct channel_header *headers, size_t n_headers, bool end,
			struct channel_stream **ret)
{
	struct channel_stream *s;
	int r;

	if (n_headers > OPEN_HEADERS)
		return error_trace(-E2BIG);
	LOCK_SCOPE(&ch->lock);
	if (ch->broken)
		return -EPIPE;
	if (ch->n_streams >= CHANNEL_MAX_STREAMS)
		return -EAGAIN;
	s = stream_new(ch);
	if (!s)
		return error_trace(-ENOMEM);
	r = stream_submit(s, method, path, headers, n_headers, end);
	if (r < 0) {
		stream_free(s);
		return error_trace(r);
	}
	s->out_end = end;
	stream_link(s);
	channel_pump(ch);
	*ret = s;
	return 0;
}

int channel_stream_write(struct channel_stream *s, const void *data, size_t len, bool end,
			 uint64_t deadline_ns)
{
	struct channel *ch = s->ch;
	int r = 0;

	LOCK_SCOPE(&ch->lock);
	assert(!s->out_end && s->out_len == 0);
	if (ch->broken)
		return -EPIPE;
	if (s->closed)
		return -ECONNRESET;
	if (s->cancelled)
		return -ECANCELED;
	s->out = data;
	s->out_len = len;
	s->out_end = end;
	(void)nghttp2_session_resume_data(ch->session, s->id); /* fails when it does not wait */
	channel_pump(ch);
	while (r == 0 && s->out_len && !stream_is_over(s))
		r = stream_wait(s, deadline_ns);
	if (s->out_len == 0)
		return 0;
	s->out_len = 0; /* the caller's memory is the caller's again */
	s->out = NULL;
	return stream_error(s, r);
}

int channel_stream_head(struct channel_stream *s, uint64_t deadline_ns, int *ret_status)
{
	struct channel *ch = s->ch;
	int r = 0;

	LOCK_SCOPE(&ch->lock);
	while (r == 0 && !s->head_done && !stream_is_over(s))
		r = stream_wait(s, deadline_ns);
	if (s->head_done) {
		*ret_status = s->status;
		return 0;
	}
	return stream_error(s, r);
}

const char *channel_stream_header(struct channel_stream *s, const char *name)
{
	LOCK_SCOPE(&s->ch->lock);
	return s->head_done ? header_list_find(&s->headers, name) : NULL;
}

void channel_stream_each_header(struct channel_stream *s,
				void (*visit)(void *userdata, const char *name, const char *value),
				void *userdata)
{
	LOCK_SCOPE(&s->ch->lock);
	for (size_t i = 0; s->head_done && i < s->headers.n; i++)
		visit(userdata, s->headers.entries[i].name, s->headers.entries[i].value);
}

ssize_t channel_stream_read(struct channel_stream *s, void *buf, size_t len, uint64_t deadline_ns)
{
	struct channel *ch = s->ch;
	size_t n;
	int r = 0;

	assert(len > 0);
	LOCK_SCOPE(&ch->lock);
	while (r == 0 && s->in.len == 0 && !s->in_end && !stream_is_over(s))
		r = stream_wait(s, deadline_ns);
	n = fifo_take(&s->in, buf, len);
	if (n == 0)
		return s->in_end ? 0 : stream_error(s, r);
	if (!ch->broken) {
		(void)nghttp2_session_consume(ch->session, s->id, n); /* fails for what is gone */
		channel_pump(ch);
	}
	return (ssize_t)n;
}

void channel_stream_cancel(struct channel_stream *s)
{
	LOCK_SCOPE(&s->ch->lock);
	s->cancelled = true;
	pthread_cond_broadcast(&s->changed);
}

struct channel_stream *channel_stream_close(struct channel_stream *s)
{
	struct channel *ch;

	if (!s)
		return NULL;
	ch = s->ch;
	pthread_mutex_lock(&ch->lock);
	if (!ch->broken) {
		(void)nghttp2_session_set_stream_user_data(ch->session, s->id, NULL);
		(void)nghttp2_session_consume(ch->session, s->id, s->in.len);
		if (!s->closed && nghttp2_submit_rst_stream(ch->session, NGHTTP2_FLAG_NONE, s->id,
							    NGHTTP2_CANCEL))
			channel_break(ch); /* no memory; half a stream cannot stay behind */
		channel_pump(ch);
	}
	stream_unlink(s);
	pthread_mutex_unlock(&ch->lock);
	stream_free(s);
	return NULL;
}

/* Return: 0; -EFBIG; what channel_stream_read() gives */
static int call_read_body(struct channel_stream *s, uint64_t deadline_ns, struct buf *body)
{
	size_t start = body->len;
	char chunk[4096];
	ssize_t n;

	while ((n = channel_stream_read(s, chunk, sizeof(chunk), deadline_ns)) > 0) {
		if (body->len - start + (size_t)n > CALL_BODY_MAX)
			return error_trace(-EFBIG);
		n = buf_append(body, chunk, (size_t)n);
		if (n < 0)
			return error_trace((int)n);
	}
	return (int)n;
}

int channel_call(struct channel *ch, const char *method, const char *path, const char *content_type,
		 const void *body, size_t len, uint64_t deadline_ns, int *ret_status,
		 struct buf *ret_body)
{
	_cleanup_(channel_stream_closep) struct channel_stream *s = NULL;
	const struct channel_header header = {"content-type", content_type};
	int r, status;

	r = channel_stream_open(ch, method, path, &header, content_type ? 1 : 0, len == 0, &s);
	if (r == 0 && len)
		r = channel_stream_write(s, body, len, true, deadline_ns);
	if (r == 0 || r == -ECONNRESET) /* it may have answered without reading to the end */
		r = s ? channel_stream_head(s, deadline_ns, &status) : r;
	if (r == 0)
		r = call_read_body(s, deadline_ns, ret_body);
	if (r == 0)
		*ret_status = status;
	return error_trace(r);
}
