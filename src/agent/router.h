/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * router.h - from an HTTP/2 stream to the function that serves it
 *
 * Each part of the agent brings a table of routes and adds it at start. A request's body is
 * collected (at most REQUEST_BODY_MAX bytes), then the route's handler is called once. It answers
 * at once, or keeps the `struct request` and answers later; the request lives until its stream is
 * gone, and request_on_closed() tells whoever kept it.
 */
#include <stddef.h>

#include <jansson.h>

#include "agent/agent.h"
#include "base/buf.h"
#include "base/mem.h"

#define REQUEST_BODY_MAX (4u << 20)

struct request {
	struct agent *agent;
	struct server_stream *stream;
	const struct route *route; /* NULL: answered already, the body is thrown away */
	struct buf body;
	/* of whoever keeps it; NULL when nobody does */
	void *keeper;
	void (*closed)(struct request *rq);
	void (*writable)(struct request *rq);
};

enum route_flags {
	ROUTE_NEEDS_READY = 1 << 0, /* 503 until the sandbox was initialised */
};

struct route {
	const char *method;
	const char *path;
	void (*handle)(struct request *rq);
	unsigned flags;
};

int router_new(struct agent *a, struct router **ret);
struct router *router_free(struct router *r);
DEFINE_CLEANUP(struct router *, router_free)

/** router_add() - @routes: borrowed for the life of the router */
int router_add(struct router *r, const struct route *routes, size_t n);

/** router_ops - what a server for this router calls; its userdata is the `struct agent` */
extern const struct server_ops router_ops;

/** request_keep() - be told when the stream is gone (then @rq must not be used) or wants more */
void request_keep(struct request *rq, void *keeper, void (*closed)(struct request *rq),
		  void (*writable)(struct request *rq));

/** request_release() - the keeper has no more interest; the answer still goes out */
void request_release(struct request *rq);

/** request_reply() - the whole answer; @body may be NULL */
void request_reply(struct request *rq, int status, const char *content_type, const void *body,
		   size_t len);

/** request_reply_json() - @body: consumed */
void request_reply_json(struct request *rq, int status, json_t *body);

/** request_fail() - {"code": status, "message"} */
void request_fail(struct request *rq, int status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/** request_text() - JSON of text that may not be UTF-8: then it says only that */
json_t *request_text(const char *text);
