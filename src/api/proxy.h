/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * proxy.h - requests to a sandbox: to its agent, to servers on its ports, and raw connections
 *
 *     port 49983   the agent's HTTP API, carried over the channel's HTTP/2 as it is
 *     any other    HTTP/1.1 over a connection that the agent makes to loopback in the guest, one
 * for each request ("Connection: close"); the client's own connection is kept alive. A 101 turns
 * both into raw bytes (api/tunnel.h) raw          only bytes, after our own 101
 *
 * Bodies are streamed both ways with back-pressure: one buffer each way is held here. The whole
 * request is taken before the response is begun; a server that answers without reading it all is
 * heard, and the rest of the body is dropped.
 *
 * What changes on the way, besides the fields that concern one connection: Host is the client's, or
 * network.maskRequestHost with ${PORT} replaced; X-Forwarded-For gets the client's address added,
 * X-Forwarded-Proto and X-Forwarded-Host are set unless somebody in front has. Trailers and interim
 * responses are dropped. A sandbox with private traffic answers 403 to requests for its ports
 * without the token in E2b-Traffic-Access-Token, which goes no further.
 *
 * A request to a sandbox that sleeps, and is to be woken by requests, waits until it runs
 * (proxy-wake.c, sandbox/resume.c).
 *
 * While a request is under way it holds a lease on the sandbox's channel; a sandbox that goes to
 * sleep breaks the stream, and the client sees its connection end.
 */
#include <microhttpd.h>

#include "api/peers.h"
#include "api/target.h"
#include "base/problem.h"
#include "sandbox/host.h"

struct proxy;

struct proxy_request {
	struct host *host;
	struct MHD_Connection *connection;
	struct target target;
	const char *method;
	const char *uri; /* as the client wrote it, escapes and query included */
	bool raw;
};

/** proxy_begin() - headers are there: lease, open the stream. All of @q is borrowed */
int proxy_begin(const struct proxy_request *q, struct problem *problem, struct proxy **ret);

/** proxy_body() - part of the request's body. Return: 0; negative errno with @problem when it makes no
 *  sense to send more of it */
int proxy_body(struct proxy *p, const void *data, size_t len, struct problem *problem);

/**
 * proxy_finish() - the request is complete: queue the response
 * @p: lives until proxy_free(), after MHD has completed the request
 */
int proxy_finish(struct proxy *p, struct problem *problem);

/** proxy_free() - @p may be NULL */
void proxy_free(struct proxy *p);
