/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * proxy.h - requests to a sandbox, carried to the agent in it and back
 *
 * Both bodies are streamed with back-pressure: nothing but one buffer each way is held here. While
 * a request is under way it holds a lease on the sandbox's channel; a sandbox that goes to sleep
 * breaks the stream, and the client sees its connection end.
 */
#include <microhttpd.h>

#include "base/problem.h"
#include "sandbox/host.h"

#define PROXY_AGENT_PORT "49983" /* envd's: the services of the sandbox itself */

struct proxy;

/** proxy_begin() - headers are there: lease, open the stream. @sandbox_id, @port: from the headers
 */
int proxy_begin(struct host *host, struct MHD_Connection *connection, const char *method,
		const char *url, const char *sandbox_id, const char *port, struct problem *problem,
		struct proxy **ret);

/** proxy_body() - part of the request's body */
int proxy_body(struct proxy *p, const void *data, size_t len);

/** proxy_finish() - the request is complete: queue the response. Consumes @p */
int proxy_finish(struct proxy *p, struct MHD_Connection *connection, struct problem *problem);

void proxy_free(struct proxy *p);
