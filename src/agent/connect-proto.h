/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * connect-proto.h - the Connect protocol as the E2B clients use it: JSON only, unary and server
 * streams
 *
 * Unary: the body is JSON; an error is a non-200 status with {"code": "not_found", "message"}.
 * Server stream: request and response are envelopes, one flag byte and a 4-byte big-endian length
 * before each JSON; the last one has flag 0x02, and carries the error if there is one: the status
 * is always 200. Source: https://connectrpc.com/docs/protocol
 */
#include <stdarg.h>

#include "agent/router.h"

enum connect_code {
	CONNECT_INVALID_ARGUMENT,
	CONNECT_UNAUTHENTICATED,
	CONNECT_PERMISSION_DENIED,
	CONNECT_NOT_FOUND,
	CONNECT_ALREADY_EXISTS,
	CONNECT_FAILED_PRECONDITION,
	CONNECT_RESOURCE_EXHAUSTED,
	CONNECT_INTERNAL,
	CONNECT_UNAVAILABLE,
	CONNECT_DEADLINE_EXCEEDED,
};

/** connect_status() - the HTTP status of a unary error */
int connect_status(enum connect_code code);

/** connect_error_text() - {"code", "message"}: fresh memory; NULL without memory */
char *connect_error_text(enum connect_code code, const char *fmt, va_list ap)
	__attribute__((format(printf, 2, 0)));

/** connect_unary_parse() - the request's message. Return: 0; or -EBADMSG, already answered */
int connect_unary_parse(struct request *rq, json_t **ret);

/** connect_unary_reply() - success; @body: consumed */
void connect_unary_reply(struct request *rq, json_t *body);

void connect_unary_fail(struct request *rq, enum connect_code code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/**
 * connect_stream_begin() - send the head and parse the one message of the request
 * Return: 0; or -EBADMSG, already ended with an error
 */
int connect_stream_begin(struct request *rq, json_t **ret);

/** connect_stream_send() - one message; resets the stream when memory is short */
void connect_stream_send(struct request *rq, const char *json, size_t len);

/** connect_stream_end() - the last envelope, without an error; release the request after it */
void connect_stream_end(struct request *rq);

/** connect_stream_fail() - the last envelope, with an error */
void connect_stream_fail(struct request *rq, enum connect_code code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/** connect_stream_fail_with() - the same with a complete error object, {"code", "message"} */
void connect_stream_fail_with(struct request *rq, const char *error, size_t len);

/**
 * connect_envelope_parse() - the payload of the one envelope that fills @data
 * Return: 0; -EBADMSG: cut, compressed, or followed by something
 */
int connect_envelope_parse(const char *data, size_t len, const char **ret, size_t *ret_len);

/** connect_keepalive_ms() - after so much silence a stream wants a keep-alive: of
 *  Keepalive-Ping-Interval, otherwise 90 seconds */
uint64_t connect_keepalive_ms(struct request *rq);

/** connect_timeout_ms() - Connect-Timeout-Ms; 0: none. Return: 0; -EINVAL */
int connect_timeout_ms(struct request *rq, uint64_t *ret);
