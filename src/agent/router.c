/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/router.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/caller.h"
#include "base/error.h"
#include "base/str.h"
#include "base/utf8.h"

#define MAX_TABLES 16

struct router {
	struct agent *agent;
	struct {
		const struct route *routes;
		size_t n;
	} tables[MAX_TABLES];
	size_t n_tables;
};

int router_new(struct agent *a, struct router **ret)
{
	struct router *r = calloc(1, sizeof(*r));

	if (!r)
		return error_trace(-ENOMEM);
	r->agent = a;
	*ret = r;
	return 0;
}

struct router *router_free(struct router *r)
{
	free(r);
	return NULL;
}

int router_add(struct router *r, const struct route *routes, size_t n)
{
	if (r->n_tables == MAX_TABLES)
		return error_trace(-ENOSPC);
	r->tables[r->n_tables].routes = routes;
	r->tables[r->n_tables++].n = n;
	return 0;
}

/* --- answers -----------------------------------------------------------------------------------
 */

void request_keep(struct request *rq, void *keeper, void (*closed)(struct request *rq),
		  void (*writable)(struct request *rq))
{
	rq->keeper = keeper;
	rq->closed = closed;
	rq->writable = writable;
}

void request_consumed(struct request *rq, size_t len)
{
	server_stream_consumed(rq->stream, len);
}

void request_drop_body(struct request *rq)
{
	rq->route = NULL;
	rq->on_body = NULL;
	rq->on_body_end = NULL;
	buf_deinit(&rq->body);
}

const char *request_header(const struct request *rq, const char *name)
{
	return server_stream_header(rq->stream, name);
}

static int digit(char c)
{
	static const char digits[] = "0123456789abcdef";
	const char *at = c ? strchr(digits, tolower((unsigned char)c)) : NULL;

	return at ? (int)(at - digits) : -1;
}

/* "a%20b" or "a+b" of @len bytes. Return: fresh memory; NULL: no memory, a NUL, or a bad escape */
static char *query_decode(const char *text, size_t len)
{
	_cleanup_free_ char *out = malloc(len + 1);
	size_t n = 0;

	for (size_t i = 0; out && i < len; i++) {
		char c = text[i] == '+' ? ' ' : text[i];

		if (c == '%') {
			int high = i + 2 < len ? digit(text[i + 1]) : -1;
			int low = i + 2 < len ? digit(text[i + 2]) : -1;

			if (high < 0 || low < 0 || !(high | low))
				return NULL;
			c = (char)(high << 4 | low);
			i += 2;
		}
		out[n++] = c;
	}
	if (out)
		out[n] = 0;
	return take_ptr(out);
}

char *request_query(const struct request *rq, const char *name)
{
	const char *at = strchr(server_stream_path(rq->stream), '?');
	size_t want = strlen(name);

	while (at) {
		const char *pair = at + 1;
		size_t len = strcspn(pair, "&");

		if (len > want && !strncmp(pair, name, want) && pair[want] == '=')
			return query_decode(pair + want + 1, len - want - 1);
		at = pair[len] ? pair + len : NULL;
	}
	return NULL;
}

void request_release(struct request *rq)
{
	request_keep(rq, NULL, NULL, NULL);
}

/* Out of memory in the middle of an answer: a reset says so more honestly than a short one. */
void request_reply(struct request *rq, int status, const char *content_type, const void *body,
		   size_t len)
{
	const struct header h = {"content-type", content_type};

	if (server_stream_respond(rq->stream, status, &h, content_type ? 1 : 0) < 0 ||
	    server_stream_write(rq->stream, body, len) < 0)
		server_stream_reset(rq->stream);
	else
		server_stream_end(rq->stream);
}

void request_reply_json(struct request *rq, int status, json_t *body)
{
	_cleanup_free_ char *text = json_dumps(body, JSON_COMPACT);

	json_decref(body);
	if (text)
		request_reply(rq, status, "application/json", text, strlen(text));
	else
		server_stream_reset(rq->stream);
}

json_t *request_text(const char *text)
{
	_cleanup_free_ char *utf8 = utf8_from(text);

	return json_string(utf8 ? utf8 : "(out of memory)");
}

void request_fail(struct request *rq, int status, const char *fmt, ...)
{
	char message[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(message, sizeof(message), fmt, ap); /* cut is better than nothing */
	va_end(ap);
	request_reply_json(
		rq, status,
		json_pack("{s:i, s:o}", "code", status, "message", request_text(message)));
}

/* --- streams -----------------------------------------------------------------------------------
 */

static bool path_is(const char *path, const struct route *route)
{
	size_t n = strlen(route->path);

	return !strncmp(path, route->path, n) &&
	       (route->flags & ROUTE_PREFIX || path[n] == 0 || path[n] == '?');
}

/* Return: the route; NULL with @ret_status 404 or 405 */
static const struct route *router_find(struct router *r, const char *method, const char *path,
				       bool client, int *ret_status)
{
	*ret_status = 404;
	for (size_t t = 0; t < r->n_tables; t++) {
		for (size_t i = 0; i < r->tables[t].n; i++) {
			const struct route *route = &r->tables[t].routes[i];

			if (!path_is(path, route) || (client && !(route->flags & ROUTE_CLIENT)))
				continue;
			if (!strcmp(method, route->method))
				return route;
			*ret_status = 405;
		}
	}
	return NULL;
}

static void on_session(void *userdata)
{
	/* the old session's requests were closed one by one; nothing else belongs to a session */
}

static void on_request(void *userdata, struct server_stream *s)
{
	struct agent *a = userdata;
	const char *method = server_stream_method(s), *path = server_stream_path(s);
	struct request *rq = calloc(1, sizeof(*rq));
	const struct route *route;
	int status;

	server_stream_set_userdata(s, rq);
	if (!rq) {
		server_stream_reset(s);
		return;
	}
	rq->agent = a;
	rq->stream = s;
	route = router_find(a->router, method, path, caller_is_client(rq), &status);
	if (!route) {
		request_fail(rq, status, "%s: %.200s %.200s",
			     status == 404 ? "no such route" : "method not allowed", method, path);
	} else if (!(route->flags & ROUTE_OPEN) && !caller_has_token(rq)) {
		request_fail(rq, 401, CALLER_NO_TOKEN);
	} else if (route->flags & ROUTE_NEEDS_READY && !a->ready) {
		request_reply_json(rq, 503,
				   json_pack("{s:s, s:s}", "code", "unavailable", "message",
					     "the sandbox has not been initialised since it "
					     "started or slept"));
	} else {
		rq->route = route;
		if (route->flags & ROUTE_STREAM)
			route->handle(rq);
	}
}

static void on_body(void *userdata, struct server_stream *s, const void *data, size_t len)
{
	struct request *rq = server_stream_userdata(s);

	if (rq && rq->route && rq->on_body) {
		rq->on_body(rq, data, len);
		return;
	}
	server_stream_consumed(s, len);
	if (!rq || !rq->route || rq->route->flags & ROUTE_STREAM)
		return;
	if (rq->body.len + len > REQUEST_BODY_MAX) {
		request_drop_body(rq);
		request_fail(rq, 413, "the body is larger than %u bytes", REQUEST_BODY_MAX);
	} else if (buf_append(&rq->body, data, len) < 0) {
		request_drop_body(rq);
		request_fail(rq, 503, "out of memory for the body");
	}
}

static void on_body_end(void *userdata, struct server_stream *s)
{
	struct request *rq = server_stream_userdata(s);

	if (!rq || !rq->route)
		return;
	if (!(rq->route->flags & ROUTE_STREAM))
		rq->route->handle(rq);
	else if (rq->on_body_end)
		rq->on_body_end(rq);
}

static void on_writable(void *userdata, struct server_stream *s)
{
	struct request *rq = server_stream_userdata(s);

	if (rq && rq->writable)
		rq->writable(rq);
}

static void on_closed(void *userdata, struct server_stream *s)
{
	struct request *rq = server_stream_userdata(s);

	if (!rq)
		return;
	if (rq->closed)
		rq->closed(rq);
	buf_deinit(&rq->body);
	free(rq);
}

const struct server_ops router_ops = {
	.session = on_session,
	.request = on_request,
	.body = on_body,
	.body_end = on_body_end,
	.writable = on_writable,
	.closed = on_closed,
};
