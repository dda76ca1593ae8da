/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/connect-proto.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/str.h"

#define ENVELOPE_HEAD	    5u
#define FLAG_END	    0x02
#define KEEPALIVE_DEFAULT_S 90ull
#define KEEPALIVE_MAX_S	    3600ull
#define TIMEOUT_MAX_MS	    9999999999ull /* the protocol allows ten digits */

static const struct {
	const char *name;
	int status;
} codes[] = {
	[CONNECT_INVALID_ARGUMENT] = {"invalid_argument", 400},
	[CONNECT_UNAUTHENTICATED] = {"unauthenticated", 401},
	[CONNECT_PERMISSION_DENIED] = {"permission_denied", 403},
	[CONNECT_NOT_FOUND] = {"not_found", 404},
	[CONNECT_ALREADY_EXISTS] = {"already_exists", 409},
	[CONNECT_FAILED_PRECONDITION] = {"failed_precondition", 400},
	[CONNECT_RESOURCE_EXHAUSTED] = {"resource_exhausted", 429},
	[CONNECT_INTERNAL] = {"internal", 500},
	[CONNECT_UNAVAILABLE] = {"unavailable", 503},
	[CONNECT_DEADLINE_EXCEEDED] = {"deadline_exceeded", 504},
};

__attribute__((format(printf, 2, 0))) static json_t *error_object(enum connect_code code,
								  const char *fmt, va_list ap)
{
	char message[512];

	(void)vsnprintf(message, sizeof(message), fmt, ap); /* cut is better than nothing */
	return json_pack("{s:s, s:o}", "code", codes[code].name, "message", request_text(message));
}

int connect_status(enum connect_code code)
{
	return codes[code].status;
}

char *connect_error_text(enum connect_code code, const char *fmt, va_list ap)
{
	json_t *e = error_object(code, fmt, ap);
	char *text = json_dumps(e, JSON_COMPACT);

	json_decref(e);
	return text;
}

/* --- unary -------------------------------------------------------------------------------------
 */

int connect_unary_parse(struct request *rq, json_t **ret)
{
	json_error_t e;
	json_t *o = json_loadb(rq->body.data ?: "", rq->body.len, 0, &e);

	if (!json_is_object(o)) {
		json_decref(o);
		connect_unary_fail(rq, CONNECT_INVALID_ARGUMENT,
				   "the body is not a JSON object%s%s", e.text[0] ? ": " : "",
				   e.text);
		return -EBADMSG;
	}
	*ret = o;
	return 0;
}

void connect_unary_reply(struct request *rq, json_t *body)
{
	request_reply_json(rq, 200, body);
}

void connect_unary_fail(struct request *rq, enum connect_code code, const char *fmt, ...)
{
	va_list ap;
	json_t *e;

	va_start(ap, fmt);
	e = error_object(code, fmt, ap);
	va_end(ap);
	request_reply_json(rq, codes[code].status, e);
}

/* --- streams -----------------------------------------------------------------------------------
 */

static void envelope_send(struct request *rq, uint8_t flags, const char *json, size_t len)
{
	const uint8_t head[ENVELOPE_HEAD] = {flags, (uint8_t)(len >> 24), (uint8_t)(len >> 16),
					     (uint8_t)(len >> 8), (uint8_t)len};

	if (server_stream_write(rq->stream, head, sizeof(head)) < 0 ||
	    server_stream_write(rq->stream, json, len) < 0)
		server_stream_reset(rq->stream);
}

int connect_envelope_parse(const char *data, size_t len, const char **ret, size_t *ret_len)
{
	const uint8_t *p = (const uint8_t *)data;
	size_t n;

	if (len < ENVELOPE_HEAD || p[0] != 0)
		return -EBADMSG;
	n = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];
	if (n != len - ENVELOPE_HEAD)
		return -EBADMSG;
	*ret = data + ENVELOPE_HEAD;
	*ret_len = n;
	return 0;
}

int connect_stream_begin(struct request *rq, json_t **ret)
{
	const struct header h = {"content-type", "application/connect+json"};
	json_error_t e = {.text = "not one uncompressed envelope"};
	const char *text;
	size_t len;
	json_t *o = NULL;

	if (server_stream_respond(rq->stream, 200, &h, 1) < 0) {
		server_stream_reset(rq->stream);
		return -EBADMSG;
	}
	if (connect_envelope_parse(rq->body.data, rq->body.len, &text, &len) == 0)
		o = json_loadb(text, len, 0, &e);
	if (!json_is_object(o)) {
		json_decref(o);
		connect_stream_fail(rq, CONNECT_INVALID_ARGUMENT, "bad request message: %s",
				    e.text[0] ? e.text : "not an object");
		return -EBADMSG;
	}
	*ret = o;
	return 0;
}

void connect_stream_send(struct request *rq, const char *json, size_t len)
{
	envelope_send(rq, 0, json, len);
}

void connect_stream_end(struct request *rq)
{
	envelope_send(rq, FLAG_END, "{}", 2);
	server_stream_end(rq->stream);
}

void connect_stream_fail(struct request *rq, enum connect_code code, const char *fmt, ...)
{
	_cleanup_free_ char *text = NULL;
	json_t *e;
	va_list ap;

	va_start(ap, fmt);
	e = json_pack("{s:o}", "error", error_object(code, fmt, ap));
	va_end(ap);
	text = json_dumps(e, JSON_COMPACT);
	json_decref(e);
	if (!text) {
		server_stream_reset(rq->stream);
		return;
	}
	envelope_send(rq, FLAG_END, text, strlen(text));
	server_stream_end(rq->stream);
}

void connect_stream_fail_with(struct request *rq, const char *error, size_t len)
{
	_cleanup_buf_ struct buf b = {0};

	if (buf_append(&b, "{\"error\":", 9) < 0 || buf_append(&b, error, len) < 0 ||
	    buf_append(&b, "}", 1) < 0) {
		server_stream_reset(rq->stream);
		return;
	}
	envelope_send(rq, FLAG_END, b.data, b.len);
	server_stream_end(rq->stream);
}

uint64_t connect_keepalive_ms(struct request *rq)
{
	const char *text = server_stream_header(rq->stream, "keepalive-ping-interval");
	uint64_t s;

	if (!text || str_to_u64(text, &s) < 0 || !s)
		s = KEEPALIVE_DEFAULT_S;
	return MIN(s, KEEPALIVE_MAX_S) * 1000;
}

int connect_timeout_ms(struct request *rq, uint64_t *ret)
{
	const char *text = server_stream_header(rq->stream, "connect-timeout-ms");

	*ret = 0;
	if (!text)
		return 0;
	return str_to_u64(text, ret) < 0 || *ret > TIMEOUT_MAX_MS ? -EINVAL : 0;
}
