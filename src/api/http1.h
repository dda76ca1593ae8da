/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * http1.h - HTTP/1 as a client speaks it: the head of a request, and reading one response
 *
 * A server in a guest is not trusted. The reader takes its bytes as they come, in pieces of any
 * size, and tells one thing after the other:
 *
 *     http1_init()  ->  http1_next() ... HTTP1_HEAD, HTTP1_BODY any number of times, HTTP1_END
 *                                   HTTP1_MORE: all that was given is used, give the next piece
 *
 * An interim response (100 to 199, but not 101) is a HTTP1_HEAD of its own, after which the reader
 * waits for the next head. After a 101 there is no end: what follows belongs to another protocol
 * and is left to the caller.
 *
 * Memory: the head alone is kept, at most HTTP1_HEAD_MAX bytes in one allocation; bodies are handed
 * on from the caller's own buffer. Chunk extensions and trailers are read and dropped.
 *
 * Strict where two readers could disagree about where a message ends (Content-Length,
 * Transfer-Encoding, chunk sizes, stray CRs, NULs, folded lines, space before a colon), lenient
 * only in taking a bare LF for a line's end (RFC 9112, 2.2) and in a missing reason phrase.
 *
 * Source: RFC 9112 (messages), RFC 9110 (fields).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define HTTP1_HEAD_MAX	  (48u * 1024)
#define HTTP1_FIELDS_MAX  128u
#define HTTP1_INTERIM_MAX 16u
#define HTTP1_LINE_MAX	  8192u /* of a chunk's size line or a trailer */

enum http1_event {
	HTTP1_MORE,
	HTTP1_HEAD,
	HTTP1_BODY,
	HTTP1_END,
};

/* How the end of the body is known. */
enum http1_framing {
	HTTP1_NONE,    /* there is no body */
	HTTP1_LENGTH,  /* `left` bytes */
	HTTP1_CHUNKED, /* chunks */
	HTTP1_CLOSE,   /* until the connection ends */
};

struct http1_field {
	const char *name;  /* as it came */
	const char *value; /* without white space around it */
};

struct http1 {
	/* of the latest head; valid until the next one */
	int status;
	int minor; /* HTTP/1.minor */
	enum http1_framing framing;
	bool has_length; /* a Content-Length was given; for HEAD and 304 there is no body all the
			    same */
	uint64_t length;
	struct http1_field fields[HTTP1_FIELDS_MAX];
	size_t n_fields;
	/* the reader's */
	bool to_head;
	int state;
	unsigned interim;
	uint64_t left;
	size_t line; /* bytes of the line so far */
	bool line_cr, line_hex;
	struct buf head;
	const char *error; /* what was wrong, for people */
};

/** http1_init() - for the response to one request; @to_head: to a HEAD request */
void http1_init(struct http1 *p, bool to_head);
void http1_deinit(struct http1 *p);

/**
 * http1_next() - take some of @data
 * @ret_used: how much was used; with HTTP1_MORE all of it
 * @ret_body, @ret_len: with HTTP1_BODY, part of @data
 * Return: enum http1_event; -EBADMSG with p->error; -EMSGSIZE for a head that is too large; -ENOMEM
 */
int http1_next(struct http1 *p, const char *data, size_t len, size_t *ret_used,
	       const char **ret_body, size_t *ret_len);

/**
 * http1_eof() - the connection has ended
 * Return: 0 when that is the end of the response; -EBADMSG with p->error when it was cut off
 */
int http1_eof(struct http1 *p);

/** http1_find() - the first field of that name, in any case; NULL */
const char *http1_find(const struct http1 *p, const char *name);

/** http1_has_token() - is @token in the comma-separated list @value? Case does not count */
bool http1_has_token(const char *value, const char *token);

/** http1_is_token() - a name of a method or field: not empty, no separators (RFC 9110, 5.6.2) */
bool http1_is_token(const char *s);

/** http1_is_value() - may stand in a line of a head: no CR, LF, NUL or other control characters */
bool http1_is_value(const char *s);

/**
 * http1_put_request() - "METHOD TARGET HTTP/1.1"
 * Return: 0; -EINVAL when either could not be told apart from what follows; -ENOMEM
 */
int http1_put_request(struct buf *b, const char *method, const char *target);

/** http1_put_field() - "NAME: VALUE". Return: 0; -EINVAL; -ENOMEM */
int http1_put_field(struct buf *b, const char *name, const char *value);

/** http1_put_end() - the empty line. Return: 0; -ENOMEM */
int http1_put_end(struct buf *b);
