/* SPDX-License-Identifier: Apache-2.0 */
#include "api/proxy.h"

#include <errno.h>
#include <string.h>

#include "api/proxy-internal.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"

#define OPEN_TRIES 3

int proxy_write(struct proxy *p, const void *data, size_t len, bool end)
{
	int r;

	if (p->ended)
		return 0;
	peer_guest(p->peer, p->stream);
	r = channel_stream_write(p->stream, data, len, end, deadline_after_ms(PROXY_WRITE_MS));
	peer_work(p->peer);
	p->ended |= end;
	return r;
}

ssize_t proxy_read(struct proxy *p, void *buf, size_t len, uint64_t deadline_ns)
{
	ssize_t n;

	peer_guest(p->peer, p->stream);
	n = channel_stream_read(p->stream, buf, len, deadline_ns);
	peer_send(p->peer);
	return n;
}

int proxy_queue(struct proxy *p, int status, struct MHD_Response *m)
{
	int r;

	if (!m)
		return -ENOMEM;
	r = MHD_queue_response(p->connection, (unsigned)status, m) == MHD_YES ? 0 : -EIO;
	MHD_destroy_response(m);
	peer_send(p->peer);
	return r;
}

/* Connections are reset first when it falls asleep. */
static bool is_running(struct proxy *p)
{
	struct sandbox_info info;
	bool running;

	if (sandbox_info(p->host, p->target.sandbox_id, NULL, &info) < 0)
		return false;
	running = info.state == SANDBOX_RUNNING;
	sandbox_info_deinit(&info);
	return running;
}

int proxy_failed(struct proxy *p, int r, struct problem *problem)
{
	if (r == -ECONNRESET && !is_running(p))
		r = -EPIPE;
	if (r == -EPIPE) /* it fell asleep or died: the text that clients match */
		problem_set(problem, 502, "The sandbox was not found");
	if (r == -ECONNRESET)
		problem_set(problem, 502, "port %u of sandbox %s closed the connection",
			    p->target.port, p->target.sandbox_id);
	if (r == -ETIMEDOUT)
		problem_set(problem, 504, "port %u of sandbox %s did not answer in time",
			    p->target.port, p->target.sandbox_id);
	problem_errno(problem, r, "port %u of sandbox %s", p->target.port, p->target.sandbox_id);
	return error_trace(r);
}

/* To its agent, or through it to a port. */
static int open_stream(struct proxy *p, const struct proxy_request *q, struct problem *problem)
{
	int r = proxy_lease(p, q, problem);

	if (r < 0)
		return r;
	r = p->is_agent ? proxy_agent_begin(p, q, problem) : proxy_port_begin(p, q, problem);
	if (r == -EAGAIN)
		problem_set(problem, 429, "too many requests to sandbox %s are under way",
			    p->target.sandbox_id);
	return r < 0 ? proxy_failed(p, r, problem) : 0;
}

static void close_stream(struct proxy *p)
{
	p->stream = channel_stream_close(p->stream);
	sandbox_lease_return(&p->lease);
}

/* One that falls asleep before it has heard anything of the request is woken for it. */
static int begin(struct proxy *p, const struct proxy_request *q, struct problem *problem)
{
	if (p->is_raw && p->target.port == TARGET_AGENT_PORT) {
		problem_set(problem, 403, "port %d is the agent's: use its HTTP API",
			    TARGET_AGENT_PORT);
		return -EACCES;
	}
	if (peer_claim(p->peer) < 0) { /* before it waits for a wake */
		problem_set(problem, 429, "too many requests to sandboxes are under way");
		return -EAGAIN;
	}
	for (int i = 0;; i++) {
		struct problem one = PROBLEM_INIT;
		int r = open_stream(p, q, &one);

		if (r == 0)
			return 0;
		if (i == OPEN_TRIES || !proxy_fell_asleep(p, r)) {
			*problem = one;
			return r;
		}
		close_stream(p);
	}
}

int proxy_begin(const struct proxy_request *q, struct problem *problem, struct proxy **ret)
{
	struct proxy *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	p->host = q->host;
	p->connection = q->connection;
	p->peer = peer_of(q->connection);
	p->target = q->target;
	p->is_raw = q->raw;
	p->is_agent = !q->raw && q->target.port == TARGET_AGENT_PORT;
	r = begin(p, q, problem);
	if (r < 0) {
		proxy_free(p);
		return error_trace(r);
	}
	*ret = p;
	return 0;
}

/* Who stopped reading says why in its answer, which is sent when the client has said all: so the rest
 * is dropped. Not for ever, and not when nobody is left who could answer. */
int proxy_body(struct proxy *p, const void *data, size_t len, struct problem *problem)
{
	int r = 0;

	if (!p->broken)
		r = p->is_agent ? proxy_write(p, data, len, false) : proxy_port_body(p, data, len);
	if (r < 0 && (r != -ECONNRESET || !is_running(p)))
		return proxy_failed(p, r, problem);
	p->broken |= r < 0;
	p->dropped += p->broken ? len : 0;
	if (p->dropped <= PROXY_DROP_MAX)
		return 0;
	problem_set(problem, 413, "port %u of sandbox %s does not read the body", p->target.port,
		    p->target.sandbox_id);
	return -EPIPE;
}

int proxy_finish(struct proxy *p, struct problem *problem)
{
	return p->is_agent ? proxy_agent_finish(p, problem) : proxy_port_finish(p, problem);
}

void proxy_release(struct proxy *p)
{
	if (!p->is_agent)
		proxy_port_end(p);
	peer_work(p->peer);
	peer_unclaim(p->peer);
	p->stream = channel_stream_close(p->stream);
	sandbox_lease_return(&p->lease);
	http1_deinit(&p->http);
}

void proxy_free(struct proxy *p)
{
	if (!p)
		return;
	proxy_release(p);
	free(p);
}
