/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* proxy-internal.h - what proxy.c, proxy-agent.c and proxy-port.c share */
#include "api/http1.h"
#include "api/proxy.h"
#include "base/buf.h"
#include "sandbox/sandbox.h"

#define PROXY_HEAD_MS	 65000	/* the agent's head; longer than any start of a process */
#define PROXY_WRITE_MS	 60000	/* a guest that does not read */
#define PROXY_SILENCE_MS 600000 /* of a server, before its head or between two bytes */
#define PROXY_CHUNK	 32768u
#define PROXY_DROP_MAX	 (64ull << 20) /* of a body that nobody reads any more */

struct proxy {
	struct host *host;
	struct MHD_Connection *connection;
	struct peer *peer;
	struct target target;
	struct sandbox_lease lease;
	struct channel_stream *stream;
	bool is_agent, is_raw;
	bool broken; /* the guest stopped reading: its answer says why */
	uint64_t dropped; /* of the body, since then */
	bool ended;  /* the stream's request has ended */
	/* to a port */
	bool chunked; /* the request's body */
	bool upgrade; /* asked for */
	struct http1 http;
	size_t in_at, in_len; /* of `in`, not yet parsed */
	char in[PROXY_CHUNK];
};

/** proxy_write() - to the guest, watching the client */
int proxy_write(struct proxy *p, const void *data, size_t len, bool end);

/** proxy_read() - as channel_stream_read(), watching the client */
ssize_t proxy_read(struct proxy *p, void *buf, size_t len, uint64_t deadline_ns);

/** proxy_queue() - @m is consumed; NULL: -ENOMEM */
int proxy_queue(struct proxy *p, int status, struct MHD_Response *m);

/** proxy_failed() - describe why a stream gave no answer. Return: @r */
int proxy_failed(struct proxy *p, int r, struct problem *problem);

/** proxy_release() - give back all that it holds of others; proxy_free() may follow much later */
void proxy_release(struct proxy *p);

/* proxy-wake.c */

/** proxy_lease() - fills p->lease; wakes a sandbox that is to be woken by requests, and waits.
 *  Return: 0; negative errno with @problem */
int proxy_lease(struct proxy *p, const struct proxy_request *q, struct problem *problem);

/** proxy_fell_asleep() - @r: why nothing came through. Was that a sleep which a request ends? */
bool proxy_fell_asleep(const struct proxy *p, int r);

/* proxy-agent.c */
int proxy_agent_begin(struct proxy *p, const struct proxy_request *q, struct problem *problem);
int proxy_agent_finish(struct proxy *p, struct problem *problem);

/* proxy-port.c */
int proxy_port_begin(struct proxy *p, const struct proxy_request *q, struct problem *problem);
int proxy_port_body(struct proxy *p, const void *data, size_t len);
int proxy_port_finish(struct proxy *p, struct problem *problem);
/** proxy_port_end() - when its response is complete the server sees an end, not a reset */
void proxy_port_end(struct proxy *p);

/* proxy-head.c */

/**
 * proxy_is_forwarded() - may a field go from one connection to the next?
 * @connection: value of the message's Connection field, which names more that may not; or NULL
 */
bool proxy_is_forwarded(const char *name, const char *connection);

/** proxy_head() - the whole head of a request to a port. Return: 0; -EINVAL, -E2BIG with @problem
 */
int proxy_head(struct proxy *p, const struct proxy_request *q, struct problem *problem,
	       struct buf *ret);

/** proxy_path() - the path and query of @uri, which may be absolute */
const char *proxy_path(const char *uri);
