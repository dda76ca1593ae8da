/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * server.h - the guest's end of the byte stream: HTTP/2 requests in, responses out
 *
 * Does no I/O. Its owner, a single-threaded event loop, feeds it what the port gave
 * (server_receive()), and writes out what it wants to send (server_output(), server_output_done()).
 * Every call may produce output: look after each of them.
 *
 * Sessions. Until a HELLO arrives everything is discarded. A HELLO ends the session before it:
 * every stream is closed (ops->closed), pending output is dropped, a reply is sent, a new HTTP/2
 * session starts. ops->session tells. server_seal() ends a session from this side: new requests are
 * refused at once, the other streams are reset, and when the last response has been handed to the
 * port everything is discarded until the next HELLO: what a snapshot froze in a buffer is never
 * executed.
 *
 * Streams. ops->request, then ops->body any number of times, then ops->body_end; responses may
 * begin at any time. A `struct server_stream` lives until ops->closed returns. Bodies are under
 * flow control: the peer may send STREAM_WINDOW bytes that server_stream_consumed() has not given
 * back.
 *
 * Limits: 256 streams; 64 KiB of headers per request; output is buffered per stream without a limit
 * of its own, so a producer stops while server_stream_buffered() is large and goes on at
 * ops->writable.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "channel/header.h"
#include "channel/limits.h"

struct server;
struct server_stream;

struct server_ops {
	/* a new session has begun; the streams of the old one are closed already */
	void (*session)(void *userdata);
	/* the head is complete */
	void (*request)(void *userdata, struct server_stream *s);
	/* part of the body; give it back with server_stream_consumed() when it is used */
	void (*body)(void *userdata, struct server_stream *s, const void *data, size_t len);
	void (*body_end)(void *userdata, struct server_stream *s);
	/* buffered output has fallen below a mark after server_stream_want_writable() */
	void (*writable)(void *userdata, struct server_stream *s);
	/* gone, for whatever reason; do not touch it after returning */
	void (*closed)(void *userdata, struct server_stream *s);
};

#define SERVER_LOW_WATER (128u * 1024)

/** server_new() - discarding until the first HELLO. Return: 0; -ENOMEM */
int server_new(const struct server_ops *ops, void *userdata, struct server **ret);
struct server *server_free(struct server *sv);
DEFINE_CLEANUP(struct server *, server_free)

/** server_receive() - bytes from the port, of any length. Return: 0; -ENOMEM */
int server_receive(struct server *sv, const void *data, size_t len);

/**
 * server_output() - bytes that should go to the port now
 * @ret: valid until the next call of any server function
 * Return: how many; 0: nothing
 */
size_t server_output(struct server *sv, const char **ret);

/** server_output_done() - @len of those bytes have been written */
void server_output_done(struct server *sv, size_t len);

/**
 * server_refuse() - from now until the next HELLO new requests are reset with REFUSED_STREAM
 */
void server_refuse(struct server *sv);

/** server_seal() - end the session once the response on @last has been handed out completely */
void server_seal(struct server *sv, struct server_stream *last);

/** server_is_sealed() - is everything being discarded? */
bool server_is_sealed(const struct server *sv);

const char *server_stream_method(const struct server_stream *s);
/** server_stream_path() - with the query */
const char *server_stream_path(const struct server_stream *s);
/** server_stream_header() - a request's header by lower-case name; NULL when absent */
const char *server_stream_header(const struct server_stream *s, const char *name);

/** server_stream_headers() - all of a request's headers; valid as long as the stream */
const struct header_list *server_stream_headers(const struct server_stream *s);

void server_stream_set_userdata(struct server_stream *s, void *userdata);
void *server_stream_userdata(const struct server_stream *s);

/** server_stream_consumed() - @len bytes of the body are used: the peer may send as many more */
void server_stream_consumed(struct server_stream *s, size_t len);

/** server_stream_respond() - send the head; once per stream. Return: 0; -ENOMEM */
int server_stream_respond(struct server_stream *s, int status, const struct header *headers,
			  size_t n_headers);

/** server_stream_write() - queue part of the response's body. Return: 0; -ENOMEM */
int server_stream_write(struct server_stream *s, const void *data, size_t len);

/*
 * Where a body comes from that is made elsewhere: its bytes go from there straight into the frames.
 * Both are called with nghttp2 at work: they must not call the server.
 */
struct server_source {
	/* the bytes that follow each other from the first; none: wait for server_stream_poke() */
	size_t (*peek)(void *userdata, const char **ret);
	void (*consume)(void *userdata, size_t len);
	void *userdata;
};

/** server_stream_set_source() - send what @source gives behind what is queued; NULL: no more */
void server_stream_set_source(struct server_stream *s, const struct server_source *source);

/** server_stream_poke() - the source has something now */
void server_stream_poke(struct server_stream *s);

/** server_stream_end() - the body ends after what is queued and what the source has now */
void server_stream_end(struct server_stream *s);

/** server_stream_reset() - give up on it: the peer sees a reset, not an end */
void server_stream_reset(struct server_stream *s);

/** server_stream_buffered() - response bytes queued and not yet taken by HTTP/2 */
size_t server_stream_buffered(const struct server_stream *s);

/** server_stream_want_writable() - call ops->writable once, when less than SERVER_LOW_WATER waits */
void server_stream_want_writable(struct server_stream *s);

/** server_stream_want_writable_below() - the same, when less than @mark bytes wait */
void server_stream_want_writable_below(struct server_stream *s, size_t mark);
