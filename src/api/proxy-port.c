/* SPDX-License-Identifier: Apache-2.0 */
/* proxy-port.c - HTTP/1.1 to a server on a port of the guest, and raw connections to one */
#include "api/proxy-internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "api/tunnel.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/str.h"

#define DIAL_MS 10000 /* the agent gives up before */

/* --- the connection -----------------------------------------------------------------------------
 */

static int dial_refused(struct proxy *p, int status, struct problem *problem)
{
	switch (status) {
	case 502:
		problem_set(problem, 502, "The sandbox is running but port is not open");
		return -ECONNREFUSED;
	case 429:
		problem_set(problem, 429, "too many connections to sandbox %s are open",
			    p->target.sandbox_id);
		return -EAGAIN;
	case 503:
		problem_set(problem, 409, "The sandbox is changing state");
		return -EBUSY;
	case 504:
		problem_set(problem, 504, "port %u of sandbox %s does not accept connections",
			    p->target.port, p->target.sandbox_id);
		return -ETIMEDOUT;
	default:
		problem_set(problem, 502, "sandbox %s cannot connect to its port %u",
			    p->target.sandbox_id, p->target.port);
		return -EIO;
	}
}

static int dial(struct proxy *p, struct problem *problem)
{
	char path[32];
	int r, status = 0;

	(void)snprintf(path, sizeof(path), "/connect/%u", p->target.port); /* fits */
	r = channel_stream_open(p->lease.channel, "POST", path, NULL, 0, false, &p->stream);
	if (r < 0)
		return r;
	peer_guest(p->peer, p->stream);
	r = channel_stream_head(p->stream, deadline_after_ms(DIAL_MS), &status);
	peer_work(p->peer);
	if (r < 0)
		return proxy_failed(p, r, problem);
	return status == 200 ? 0 : dial_refused(p, status, problem);
}

static int check_access(struct proxy *p, const struct proxy_request *q, struct problem *problem)
{
	const char *want = p->lease.traffic_token;
	const char *got = MHD_lookup_connection_value(q->connection, MHD_HEADER_KIND,
						      "E2b-Traffic-Access-Token");

	if (!want[0] || (got && str_equal_secret(want, got)))
		return 0;
	problem_set(problem, 403, "the header e2b-traffic-access-token is missing or wrong");
	return -EACCES;
}

int proxy_port_begin(struct proxy *p, const struct proxy_request *q, struct problem *problem)
{
	_cleanup_buf_ struct buf head = {0};
	int r = 0;

	if (!p->is_raw)
		r = check_access(p, q, problem);
	if (r == 0 && !p->is_raw)
		r = proxy_head(p, q, problem, &head);
	if (r == 0)
		r = dial(p, problem);
	if (r < 0 || p->is_raw)
		return r;
	http1_init(&p->http, !strcmp(q->method, "HEAD"));
	if (proxy_write(p, head.data, head.len, false) < 0)
		p->broken = true; /* its answer, or that there is none, tells */
	return 0;
}

int proxy_port_body(struct proxy *p, const void *data, size_t len)
{
	char size[24];
	int n = snprintf(size, sizeof(size), "%zx\r\n", len), r = 0;

	if (p->is_raw)
		return -EINVAL;
	if (p->chunked)
		r = proxy_write(p, size, (size_t)n, false);
	if (r == 0)
		r = proxy_write(p, data, len, false);
	if (r == 0 && p->chunked)
		r = proxy_write(p, "\r\n", 2, false);
	return r;
}

/* --- the response -------------------------------------------------------------------------------
 */

/* More of what the server says into `in`, when all of it is used. Return: bytes; 0 at its end */
static ssize_t fill(struct proxy *p)
{
	ssize_t n;

	if (p->in_at < p->in_len)
		return (ssize_t)(p->in_len - p->in_at);
	n = proxy_read(p, p->in, sizeof(p->in), deadline_after_ms(PROXY_SILENCE_MS));
	p->in_at = 0;
	p->in_len = n > 0 ? (size_t)n : 0;
	return n;
}

/* The next event of the response. Return: enum http1_event, never HTTP1_MORE; negative errno */
static int next_event(struct proxy *p, const char **ret_body, size_t *ret_len)
{
	for (;;) {
		size_t used = 0;
		ssize_t n;
		int r = http1_next(&p->http, p->in + p->in_at, p->in_len - p->in_at, &used,
				   ret_body, ret_len);

		p->in_at += used;
		if (r != HTTP1_MORE)
			return r;
		n = fill(p);
		if (n < 0)
			return (int)n;
		if (n == 0)
			return http1_eof(&p->http) < 0 ? -EBADMSG : HTTP1_END;
	}
}

/* As much of a body as fits; what is over stays in `in`. */
static ssize_t read_body(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct proxy *p = cls;
	const char *body = NULL;
	size_t used = 0, len = 0;
	ssize_t n;
	int r;

	for (;;) {
		r = http1_next(&p->http, p->in + p->in_at, MIN(p->in_len - p->in_at, max), &used,
			       &body, &len);
		p->in_at += used;
		if (r == HTTP1_BODY) {
			memcpy(buf, body, len);
			peer_send(p->peer);
			return (ssize_t)len;
		}
		if (r == HTTP1_END)
			break;
		n = r < 0 ? r : fill(p);
		if (n < 0)
			return MHD_CONTENT_READER_END_WITH_ERROR;
		if (n == 0 && http1_eof(&p->http) < 0)
			return MHD_CONTENT_READER_END_WITH_ERROR;
		if (n == 0)
			break;
	}
	peer_send(p->peer);
	return MHD_CONTENT_READER_END_OF_STREAM;
}

void proxy_port_end(struct proxy *p)
{
	const char *body;
	size_t used, len;

	if (p->stream && !p->is_raw && http1_next(&p->http, "", 0, &used, &body, &len) == HTTP1_END)
		(void)proxy_write(p, NULL, 0, true); /* if it is there no more: as good */
}

static struct MHD_Response *make_response(struct proxy *p)
{
	const struct http1 *h = &p->http;
	const char *connection = http1_find(h, "connection");
	struct MHD_Response *m;
	uint64_t size = MHD_SIZE_UNKNOWN;

	if (h->has_length)
		size = h->length;
	if (h->status == 204 || h->status == 304 || size == 0)
		m = MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
	else
		m = MHD_create_response_from_callback(size, PROXY_CHUNK, read_body, p, NULL);
	for (size_t i = 0; m && i < h->n_fields; i++)
		if (proxy_is_forwarded(h->fields[i].name, connection))
			(void)MHD_add_response_header(m, h->fields[i].name,
						      h->fields[i].value); /* MHD refuses what is
									      malformed */
	return m;
}

/* --- other protocols ----------------------------------------------------------------------------
 */

/* In the connection's own thread; MHD has sent the head. */
static void run_tunnel(void *cls, struct MHD_Connection *connection, void *req_cls,
		       const char *extra, size_t extra_len, MHD_socket fd,
		       struct MHD_UpgradeResponseHandle *urh)
{
	const union MHD_ConnectionInfo *tls =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
	const union MHD_ConnectionInfo *socket =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	gnutls_session_t session = tls ? tls->tls_session : NULL;
	struct proxy *p = cls;

	/* With TLS @fd is one end of a socket pair that libmicrohttpd 0.9.75 would empty 8 bytes at
	 * a time, having no memory left for more: around it, to the client itself. */
	if (session)
		fd = socket->connect_fd;
	peer_tunnel(p->peer);
	(void)tunnel_run(fd, session, p->stream, extra, extra_len, p->in + p->in_at,
			 p->in_len - p->in_at); /* whoever is at either end has seen it */
	proxy_release(p);
	peer_upgrade_ended(p->peer, urh);
}

static struct MHD_Response *make_switch(struct proxy *p)
{
	struct MHD_Response *m = MHD_create_response_for_upgrade(run_tunnel, p);
	const struct http1 *h = &p->http;

	if (m && p->is_raw)
		(void)MHD_add_response_header(m, "Upgrade", "tcp");
	for (size_t i = 0; m && !p->is_raw && i < h->n_fields; i++)
		if (!strcasecmp(h->fields[i].name, "upgrade") ||
		    proxy_is_forwarded(h->fields[i].name, http1_find(h, "connection")))
			(void)MHD_add_response_header(m, h->fields[i].name, h->fields[i].value);
	return m;
}

/* Skips interim responses. Return: 0; negative errno */
static int read_head(struct proxy *p)
{
	const char *body;
	size_t len;
	int r;

	do {
		r = next_event(p, &body, &len);
	} while (r == HTTP1_HEAD && p->http.status < 200 && p->http.status != 101);
	if (r >= 0 && r != HTTP1_HEAD)
		r = -EBADMSG;
	if (r == 0 + HTTP1_HEAD && p->http.status == 101 && !p->upgrade) {
		p->http.error = "it switches to a protocol that nobody asked for";
		r = -EBADMSG;
	}
	return r < 0 ? r : 0;
}

int proxy_port_finish(struct proxy *p, struct problem *problem)
{
	int r;

	if (p->is_raw)
		return proxy_queue(p, 101, make_switch(p));
	if (p->chunked && !p->broken && proxy_write(p, "0\r\n\r\n", 5, false) < 0)
		p->broken = true;
	r = read_head(p);
	if (r == -EBADMSG || r == -EMSGSIZE)
		problem_set(problem, 502, "the answer of port %u of sandbox %s is no good: %s",
			    p->target.port, p->target.sandbox_id,
			    p->http.error ?: "its head is too large");
	if (r < 0)
		return proxy_failed(p, r, problem);
	if (p->http.status == 101)
		return proxy_queue(p, 101, make_switch(p));
	return proxy_queue(p, p->http.status, make_response(p));
}
