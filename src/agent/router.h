/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * router.h - from an HTTP/2 stream to the function that serves it
 *
 * Each part of the agent brings a table of routes and adds it at start. A request's body is
 * collected (at most REQUEST_BODY_MAX bytes), then the route's handler is called once. It answers
 * at once, or keeps the `struct request` and answers later; the request lives until its stream is
 * gone, and its closed() tells whoever kept it.
 *
 * A route with ROUTE_STREAM takes bodies of any size: its handler is called when the head is there,
 * and sets body() and body_end(). Each byte of the body counts against the stream's window until it
 * is given back with request_consumed(): a handler that cannot keep up just does not, and the
 * client waits.
 *
 * Who asks? The host's own requests (init, prepare) are trusted. What dormd carries for a client is
 * marked by it with CLIENT_HEADER, which no client can set or remove; a client gets only routes
 * with ROUTE_CLIENT, and has to show the sandbox's access token there unless the route checks
 * access by itself (ROUTE_OPEN).
 */
#include <stddef.h>

#include <jansson.h>

#include "agent/agent.h"
#include "base/buf.h"
#include "base/mem.h"

#define REQUEST_BODY_MAX (4u << 20)
#define CLIENT_HEADER	 "x-dorm-client"

struct request {
	struct agent *agent;
	struct server_stream *stream;
	const struct route *route; /* NULL: answered already, the body is thrown away */
	struct buf body;
	/* ROUTE_STREAM: set by the handler; both may be NULL */
	void (*on_body)(struct request *rq, const void *data, size_t len);
	void (*on_body_end)(struct request *rq);
	/* of whoever keeps it; NULL when nobody does */
	void *keeper;
	void (*closed)(struct request *rq);
	void (*writable)(struct request *rq);
};

enum route_flags {
	ROUTE_NEEDS_READY = 1 << 0, /* 503 until the sandbox was initialised */
	ROUTE_CLIENT = 1 << 1,	    /* for clients too; without it they get 404 */
	ROUTE_OPEN = 1 << 2,	    /* ... and without the access token: the handler looks at it */
	ROUTE_STREAM = 1 << 3,	    /* the handler is called at the head: see above */
	ROUTE_PREFIX = 1 << 4,	    /* the path is that of a directory, ending in "/" */
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

/** request_consumed() - ROUTE_STREAM: @len bytes of the body are used: as many more may come */
void request_consumed(struct request *rq, size_t len);

/** request_drop_body() - what is still to come of the body is thrown away as it arrives */
void request_drop_body(struct request *rq);

/** request_header() - by lower-case name; NULL when absent */
const char *request_header(const struct request *rq, const char *name);

/** request_query() - a query parameter, decoded: fresh memory, NULL when absent. One with a NUL in
 *  it counts as absent */
char *request_query(const struct request *rq, const char *name);

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

/** request_text() - JSON of text that may not be UTF-8: U+FFFD stands for what is not */
json_t *request_text(const char *text);
