/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/ports.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "agent/dial.h"
#include "agent/listeners.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/str.h"

#define CONNECT "/connect/"

struct ports {
	struct dial_list dials;
	bool quiet;
};

/* Return: 1 to 65535; 0 when the path does not say one */
static uint16_t path_port(const char *path)
{
	char digits[8];
	size_t len;
	uint64_t port;

	path += strlen(CONNECT);
	len = strcspn(path, "?");
	if (len == 0 || len >= sizeof(digits))
		return 0;
	memcpy(digits, path, len);
	digits[len] = 0;
	return str_to_u64(digits, &port) == 0 && port <= UINT16_MAX ? (uint16_t)port : 0;
}

static void refuse(struct request *rq, int status, const char *why)
{
	request_drop_body(rq);
	request_fail(rq, status, "%s", why);
}

static void handle_connect(struct request *rq)
{
	struct ports *p = rq->agent->ports;
	uint16_t port = path_port(server_stream_path(rq->stream));

	if (!port)
		refuse(rq, 400, "the port must be a number from 1 to 65535");
	else if (p->quiet)
		refuse(rq, 503, "the sandbox is about to sleep");
	else if (p->dials.n >= PORTS_MAX)
		refuse(rq, 429, "too many connections to ports of this sandbox are open");
	else if (dial_begin(&p->dials, rq, port) < 0)
		refuse(rq, 503, "out of memory for a connection");
}

static void handle_list(struct request *rq)
{
	json_t *ports = NULL;
	int r;

	if (rq->agent->ports->quiet) {
		request_fail(rq, 503, "the sandbox is about to sleep");
		return;
	}
	r = listeners_list(&ports);
	if (r < 0)
		request_fail(rq, 500, "listing the sockets: %s", strerrordesc_np(-r));
	else
		request_reply_json(rq, 200, json_pack("{s:o}", "ports", ports));
}

static const struct route routes[] = {
	{"POST", CONNECT, handle_connect, ROUTE_STREAM | ROUTE_PREFIX | ROUTE_NEEDS_READY},
	{"GET", "/ports", handle_list, ROUTE_NEEDS_READY},
};

int ports_add(struct router *r)
{
	return router_add(r, routes, ARRAY_SIZE(routes));
}

int ports_new(struct ports **ret)
{
	struct ports *p = calloc(1, sizeof(*p));

	if (!p)
		return error_trace(-ENOMEM);
	*ret = p;
	return 0;
}

struct ports *ports_free(struct ports *p)
{
	free(p);
	return NULL;
}

unsigned ports_quiesce(struct agent *a)
{
	uint64_t now_ns = clock_now_ns(), idle_ns = PORTS_IDLE_MS * NSEC_PER_MSEC;

	a->ports->quiet = true;
	return dial_close_idle(&a->ports->dials, now_ns > idle_ns ? now_ns - idle_ns : 0);
}

void ports_resume(struct agent *a)
{
	a->ports->quiet = false;
}
