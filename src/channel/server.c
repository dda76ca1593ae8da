/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three layers in one place: frames (channel/frame.h), HELLO, and an nghttp2 server session that
 * exists only between a HELLO and the next HELLO, seal or protocol error.
 *
 *     DISCARD --HELLO--> OPEN --refuse--> REFUSING --seal--> SEALING --drained--> DISCARD
 *        ^                 |                                    (a HELLO always leads to OPEN)
 *        +--- bad frame ---+
 *
 * A dropped frame inside a session means that HTTP/2 bytes are missing: the session is over. No
 * error is reported: the host's next HELLO repairs everything.
 *
 * The session is destroyed only from server_receive() and server_output(), after nghttp2 has
 * returned, never inside one of its callbacks; callbacks and owners only set flags.
 */
#include "channel/server.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nghttp2/nghttp2.h>

#include "base/error.h"
#include "channel/fifo.h"
#include "channel/frame.h"

/* a chunk, the data frame that overruns it, and the framing of both */
#define OUTPUT_RESERVE (CHANNEL_OUTPUT_CHUNK + 18u * 1024)

enum server_state {
	SERVER_DISCARD,	 /* no session; waiting for HELLO */
	SERVER_OPEN,	 /* serving */
	SERVER_REFUSING, /* no new streams */
	SERVER_SEALING,	 /* only the last response is still going out */
};

struct server {
	const struct server_ops *ops;
	void *userdata;
	enum server_state state;
	struct frame_parser parser;
	nghttp2_session *session; /* NULL in SERVER_DISCARD */
	nghttp2_session *spare;   /* made while there is time, for the next HELLO; may be NULL */
	struct fifo out;	  /* framed bytes for the port */
	struct server_stream *streams;
	bool sweep; /* some stream waits for ops->writable */
};

struct server_stream {
	struct server *sv;
	struct server_stream *next, **prev;
	int32_t id;
	void *userdata;
	char *method;
	char *path;
	struct header_list headers;
	struct fifo out;
	bool announced; /* ops->request was called, so ops->closed must be */
	bool responded;
	struct server_source source; /* peek is NULL without one */
	bool ended;		     /* nothing will be appended to out */
	bool want_writable;
	size_t writable_below;
};

/* --- streams -----------------------------------------------------------------------------------
 */

static struct server_stream *stream_new(struct server *sv, int32_t id)
{
	struct server_stream *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->sv = sv;
	s->id = id;
	s->next = sv->streams;
	s->prev = &sv->streams;
	if (s->next)
		s->next->prev = &s->next;
	sv->streams = s;
	return s;
}

static void stream_free(struct server_stream *s)
{
	if (s->announced)
		s->sv->ops->closed(s->sv->userdata, s);
	*s->prev = s->next;
	if (s->next)
		s->next->prev = s->prev;
	header_list_deinit(&s->headers);
	fifo_deinit(&s->out);
	free(s->method);
	free(s->path);
	free(s);
}

static void session_end(struct server *sv)
{
	if (sv->session)
		nghttp2_session_del(sv->session);
	sv->session = NULL;
	sv->state = SERVER_DISCARD;
	while (sv->streams)
		stream_free(sv->streams);
	sv->sweep = false;
}

/* --- nghttp2 callbacks -------------------------------------------------------------------------
 */

static int on_begin_headers(nghttp2_session *ng, const nghttp2_frame *frame, void *userdata)
{
	struct server *sv = userdata;
	struct server_stream *s;

	if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
		return 0;
	if (sv->state != SERVER_OPEN) {
		(void)nghttp2_submit_rst_stream(ng, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
						NGHTTP2_REFUSED_STREAM); /* best effort */
		return 0;
	}
	s = stream_new(sv, frame->hd.stream_id);
	if (!s)
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	nghttp2_session_set_stream_user_data(ng, frame->hd.stream_id, s);
	return 0;
}

static int stream_header(struct server_stream *s, const uint8_t *name, size_t name_len,
			 const uint8_t *value, size_t value_len)
{
	char **pseudo = NULL;

	if (name_len == 7 && !memcmp(name, ":method", 7))
		pseudo = &s->method;
	else if (name_len == 5 && !memcmp(name, ":path", 5))
		pseudo = &s->path;
	if (!pseudo)
		return header_list_add(&s->headers, name, name_len, value, value_len);
	if (*pseudo || value_len > CHANNEL_MAX_HEADER_BYTES)
		return -E2BIG;
	*pseudo = strndup((const char *)value, value_len);
	return *pseudo ? 0 : -ENOMEM;
}

static int on_header(nghttp2_session *ng, const nghttp2_frame *frame, const uint8_t *name,
		     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
		     void *userdata)
{
	struct server_stream *s = nghttp2_session_get_stream_user_data(ng, frame->hd.stream_id);
	int r;

	if (!s || s->announced) /* refused; or a trailer: nobody asked for it */
		return 0;
	r = stream_header(s, name, name_len, value, value_len);
	if (r == -ENOMEM)
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	return r < 0 ? NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE : 0;
}

static int on_frame_recv(nghttp2_session *ng, const nghttp2_frame *frame, void *userdata)
{
	struct server *sv = userdata;
	struct server_stream *s = nghttp2_session_get_stream_user_data(ng, frame->hd.stream_id);

	if (!s || (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA))
		return 0;
	if (frame->hd.type == NGHTTP2_HEADERS && !s->announced) {
		s->announced = true;
		sv->ops->request(sv->userdata, s);
	}
	if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
		sv->ops->body_end(sv->userdata, s);
	return 0;
}

static int on_data_chunk(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *data,
			 size_t len, void *userdata)
{
	struct server *sv = userdata;
	struct server_stream *s = nghttp2_session_get_stream_user_data(ng, id);

	if (s)
		sv->ops->body(sv->userdata, s, data, len);
	else
		(void)nghttp2_session_consume(ng, id,
					      len); /* fails only for a stream that is gone */
	return 0;
}

static int on_stream_close(nghttp2_session *ng, int32_t id, uint32_t code, void *userdata)
{
	struct server_stream *s = nghttp2_session_get_stream_user_data(ng, id);

	if (s)
		stream_free(s);
	return 0;
}

/* What goes out next; from the queue, or when that is empty, the source. */
static size_t stream_front(struct server_stream *s, const char **ret)
{
	*ret = NULL;
	if (s->out.len) {
		*ret = fifo_front(&s->out);
		return s->out.len;
	}
	return s->source.peek ? s->source.peek(s->source.userdata, ret) : 0;
}

/* nghttp2 asks how much; the bytes themselves follow in on_send_data(), and are never its own. */
static ssize_t on_read(nghttp2_session *ng, int32_t id, uint8_t *buf, size_t len, uint32_t *flags,
		       nghttp2_data_source *source, void *userdata)
{
	struct server_stream *s = source->ptr;
	const char *front;
	size_t n = MIN(stream_front(s, &front), len);

	*flags |= NGHTTP2_DATA_FLAG_NO_COPY;
	if (n == 0 && s->ended)
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	else if (n == 0)
		return NGHTTP2_ERR_DEFERRED;
	else if (n == s->out.len && s->ended && !s->source.peek)
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	return (ssize_t)n;
}

static int on_send_data(nghttp2_session *ng, nghttp2_frame *frame, const uint8_t *head, size_t len,
			nghttp2_data_source *source, void *userdata)
{
	struct server *sv = userdata;
	struct server_stream *s = source->ptr;
	const char *front;
	int r = frame_put_data(&sv->out, head, 9); /* a frame of its own: they are cheap */

	if (len) {
		(void)stream_front(s, &front); /* at least what on_read() saw */
		r = r < 0 ? r : frame_put_data(&sv->out, front, len);
		if (s->out.len)
			fifo_consume(&s->out, len);
		else
			s->source.consume(s->source.userdata, len);
	}
	if (r < 0)
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	/* enough: otherwise one call would go on until every stream's window is full */
	return sv->out.len < CHANNEL_OUTPUT_CHUNK ? 0 : NGHTTP2_ERR_PAUSE;
}

static int callbacks_new(nghttp2_session_callbacks **ret)
{
	if (nghttp2_session_callbacks_new(ret))
		return error_trace(-ENOMEM);
	nghttp2_session_callbacks_set_on_begin_headers_callback(*ret, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback(*ret, on_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(*ret, on_frame_recv);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(*ret, on_data_chunk);
	nghttp2_session_callbacks_set_on_stream_close_callback(*ret, on_stream_close);
	nghttp2_session_callbacks_set_send_data_callback(*ret, on_send_data);
	return 0;
}

/* --- sessions ----------------------------------------------------------------------------------
 */

static int session_settings(nghttp2_session *session)
{
	const nghttp2_settings_entry settings[] = {
		{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, CHANNEL_MAX_STREAMS},
		{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, CHANNEL_UPLOAD_WINDOW},
		{NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, CHANNEL_MAX_HEADER_BYTES},
	};
	int ng = nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings,
					 ARRAY_SIZE(settings));

	if (ng == 0)
		ng = nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0,
							   CHANNEL_CONNECTION_WINDOW);
	return ng ? error_trace(header_error(ng)) : 0;
}

static int session_create(struct server *sv, nghttp2_session **ret)
{
	nghttp2_session_callbacks *callbacks = NULL;
	nghttp2_option *option = NULL;
	nghttp2_session *session = NULL;
	int r;

	r = callbacks_new(&callbacks);
	if (r < 0)
		return r;
	r = -ENOMEM;
	if (!nghttp2_option_new(&option)) {
		nghttp2_option_set_no_auto_window_update(option, 1);
		/* The host may end as many streams as it likes; by default 1000 in a row, and then
		 * more than 33 in a second, would end the session with all the others. */
		nghttp2_option_set_stream_reset_rate_limit(option, UINT64_MAX / 2, UINT64_MAX / 2);
		if (!nghttp2_session_server_new2(&session, callbacks, sv, option))
			r = session_settings(session);
		nghttp2_option_del(option);
	}
	nghttp2_session_callbacks_del(callbacks);
	if (r < 0)
		nghttp2_session_del(session);
	else
		*ret = session;
	return error_trace(r);
}

/* Everything of before is void; the reply is the first thing that leaves. */
static int session_begin(struct server *sv, const struct hello *peer)
{
	struct hello reply = *peer;
	int r;

	session_end(sv);
	fifo_deinit(&sv->out);
	reply.version = HELLO_VERSION;
	r = hello_put(&sv->out, FRAME_HELLO_REPLY, &reply);
	if (r < 0)
		return error_trace(r);
	if (peer->version != HELLO_VERSION)
		return 0; /* the reply says what we speak; the host must say HELLO in that */
	if (!sv->spare) {
		r = session_create(sv, &sv->spare);
		if (r < 0)
			return error_trace(r);
	}
	sv->session = take_ptr(sv->spare);
	sv->state = SERVER_OPEN;
	sv->ops->session(sv->userdata);
	return 0;
}

static int server_frame(struct server *sv)
{
	const struct frame_parser *p = &sv->parser;
	struct hello h;

	if (p->type == FRAME_HELLO && hello_parse(p->payload, p->len, &h) == 0)
		return session_begin(sv, &h);
	if (p->type == FRAME_DATA && sv->session &&
	    nghttp2_session_mem_recv(sv->session, p->payload, p->len) < 0)
		session_end(sv);
	return 0;
}

int server_receive(struct server *sv, const void *data, size_t len)
{
	const uint8_t *p = data;
	enum frame_result result;

	while ((result = frame_next(&sv->parser, &p, &len)) != FRAME_MORE) {
		int r = 0;

		if (result == FRAME_READY)
			r = server_frame(sv);
		else
			session_end(sv);
		if (r < 0)
			return error_trace(r);
	}
	return 0;
}

/* --- output ------------------------------------------------------------------------------------
 */

static void server_fill(struct server *sv)
{
	while (sv->session && sv->out.len < CHANNEL_OUTPUT_CHUNK) {
		const uint8_t *data;
		ssize_t n = nghttp2_session_mem_send(sv->session, &data);

		if (n == 0)
			return;
		/* once, and not doubled again and again */
		if (n > 0 && sv->out.len == 0)
			(void)fifo_reserve(&sv->out, OUTPUT_RESERVE); /* append() tries again */
		if (n < 0 || frame_put_data(&sv->out, data, (size_t)n) < 0)
			session_end(sv);
	}
}

/*
 * Called with nghttp2 at rest, so that the owner may do anything. The flag goes first and the
 * search starts anew after each call: any stream may be gone.
 */
static void server_sweep(struct server *sv)
{
	struct server_stream *s;

	if (!sv->sweep)
		return;
	sv->sweep = false;
	for (s = sv->streams; s;) {
		if (!s->want_writable) {
			s = s->next;
		} else if (s->out.len >= s->writable_below) {
			sv->sweep = true;
			s = s->next;
		} else {
			s->want_writable = false;
			sv->ops->writable(sv->userdata, s);
			s = sv->streams;
		}
	}
}

/* Drained: every byte of the last response has gone to the port, and its stream is closed. */
static void server_finish_seal(struct server *sv)
{
	if (sv->state == SERVER_SEALING && sv->out.len == 0 && !sv->streams &&
	    !nghttp2_session_want_write(sv->session))
		session_end(sv);
}

size_t server_output(struct server *sv, const char **ret)
{
	server_fill(sv);
	server_sweep(sv);
	if (sv->out.len == 0)
		server_fill(sv); /* what the sweep produced */
	server_finish_seal(sv);
	*ret = fifo_front(&sv->out);
	return sv->out.len;
}

void server_output_done(struct server *sv, size_t len)
{
	fifo_consume(&sv->out, len);
}

/* --- owner's side ------------------------------------------------------------------------------
 */

int server_new(const struct server_ops *ops, void *userdata, struct server **ret)
{
	struct server *sv = calloc(1, sizeof(*sv));

	if (!sv)
		return error_trace(-ENOMEM);
	sv->ops = ops;
	sv->userdata = userdata;
	frame_parser_init(&sv->parser);
	(void)session_create(sv, &sv->spare); /* tried again when it is needed */
	*ret = sv;
	return 0;
}

struct server *server_free(struct server *sv)
{
	if (sv) {
		session_end(sv);
		nghttp2_session_del(sv->spare);
		fifo_deinit(&sv->out);
		free(sv);
	}
	return NULL;
}

void server_refuse(struct server *sv)
{
	if (sv->state == SERVER_OPEN)
		sv->state = SERVER_REFUSING;
}

void server_seal(struct server *sv, struct server_stream *last)
{
	if (!sv->session)
		return;
	sv->state = SERVER_SEALING;
	/* What comes next is a snapshot: whatever need not be done after each wake is done now. */
	if (!sv->spare)
		(void)session_create(sv, &sv->spare); /* tried again when it is needed */
	for (struct server_stream *s = sv->streams; s; s = s->next)
		if (s != last)
			server_stream_reset(s);
}

bool server_is_sealed(const struct server *sv)
{
	return sv->state == SERVER_DISCARD;
}

const char *server_stream_method(const struct server_stream *s)
{
	return s->method ? s->method : "";
}

const char *server_stream_path(const struct server_stream *s)
{
	return s->path ? s->path : "";
}

const char *server_stream_header(const struct server_stream *s, const char *name)
{
	return header_list_find(&s->headers, name);
}

const struct header_list *server_stream_headers(const struct server_stream *s)
{
	return &s->headers;
}

void server_stream_set_userdata(struct server_stream *s, void *userdata)
{
	s->userdata = userdata;
}

void *server_stream_userdata(const struct server_stream *s)
{
	return s->userdata;
}

void server_stream_consumed(struct server_stream *s, size_t len)
{
	if (s->sv->session) /* fails only if the stream is gone */
		(void)nghttp2_session_consume(s->sv->session, s->id, len);
}

int server_stream_respond(struct server_stream *s, int status, const struct header *headers,
			  size_t n_headers)
{
	nghttp2_data_provider provider = {.source.ptr = s, .read_callback = on_read};
	nghttp2_nv nv[1 + 16];
	char text[16];
	int ng;

	assert(!s->responded && n_headers <= 16);
	if (!s->sv->session)
		return -EPIPE;				  /* inside ops->closed */
	(void)snprintf(text, sizeof(text), "%d", status); /* always fits */
	nv[0] = header_nv(":status", text);
	for (size_t i = 0; i < n_headers; i++)
		nv[1 + i] = header_nv(headers[i].name, headers[i].value);
	ng = nghttp2_submit_response(s->sv->session, s->id, nv, 1 + n_headers, &provider);
	if (ng)
		return error_trace(header_error(ng));
	s->responded = true;
	return 0;
}

static void stream_resume(struct server_stream *s)
{
	if (s->responded && s->sv->session) /* an error means only that it was not waiting */
		(void)nghttp2_session_resume_data(s->sv->session, s->id);
}

int server_stream_write(struct server_stream *s, const void *data, size_t len)
{
	int r = fifo_append(&s->out, data, len);

	if (r == 0)
		stream_resume(s);
	return error_trace(r);
}

void server_stream_set_source(struct server_stream *s, const struct server_source *source)
{
	s->source = source ? *source : (struct server_source){0};
	stream_resume(s);
}

void server_stream_poke(struct server_stream *s)
{
	stream_resume(s);
}

void server_stream_end(struct server_stream *s)
{
	s->ended = true;
	stream_resume(s);
}

void server_stream_reset(struct server_stream *s)
{
	if (s->sv->session) /* best effort: memory is short if it fails */
		(void)nghttp2_submit_rst_stream(s->sv->session, NGHTTP2_FLAG_NONE, s->id,
						NGHTTP2_CANCEL);
}

size_t server_stream_buffered(const struct server_stream *s)
{
	return s->out.len;
}

void server_stream_want_writable_below(struct server_stream *s, size_t mark)
{
	s->want_writable = true;
	s->writable_below = mark;
	s->sv->sweep = true;
}

void server_stream_want_writable(struct server_stream *s)
{
	server_stream_want_writable_below(s, SERVER_LOW_WATER);
}
