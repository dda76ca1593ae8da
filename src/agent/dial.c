/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The socket is watched edge-triggered, for reading and writing at once: every edge, and every
 * change on the stream's side, pumps both directions until something has had enough.
 *
 * A server may answer and close without having read everything (an early error of an HTTP server).
 * Writing then fails while its answer still waits to be read: what is left to write is dropped, and
 * the reading side alone says how the connection ended.
 */
#include "agent/dial.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "channel/fifo.h"

#define EDGES	      (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)
#define CHUNK	      32768u

#define DRAIN_STEP_MS 5u
#define DRAIN_MS      5000u

struct dial {
	struct dial_list *list;
	struct dial *next, **prev;
	struct request *rq;
	uint16_t port;
	int family; /* of the attempt under way: AF_INET, then AF_INET6 */
	int fd;	    /* -1: it has failed; the stream is only waiting to go */
	bool connected;
	struct loop_source *source;
	struct loop_timer timer;
	struct fifo out; /* for the socket */
	bool out_end;	 /* the request's body ends after that */
	bool out_shut;	 /* ... and the socket knows */
	bool out_dead;	 /* the socket takes no more */
	bool in_end;	 /* the socket gave its end of file */
	uint64_t moved_ns;
	uint64_t drain_ns; /* see on_drained() */
};

static struct loop *dial_loop(struct dial *d)
{
	return d->rq->agent->loop;
}

/* --- the end ------------------------------------------------------------------------------------
 */

static void dial_hang_up(struct dial *d, bool reset)
{
	const struct linger now = {.l_onoff = 1, .l_linger = 0};

	loop_timer_clear(&d->timer);
	d->source = loop_remove(d->source);
	if (d->fd >= 0 && reset)
		(void)setsockopt(d->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)); /* else a FIN */
	d->fd = fd_close(d->fd);
	if (d->out.len)
		request_consumed(d->rq, d->out.len);
	fifo_deinit(&d->out);
	d->out_dead = true;
}

/* Both ends see a reset. */
static void dial_abort(struct dial *d)
{
	dial_hang_up(d, true);
	server_stream_reset(d->rq->stream);
}

static void on_closed(struct request *rq)
{
	struct dial *d = rq->keeper;

	dial_hang_up(d, !d->out_end);
	*d->prev = d->next;
	if (d->next)
		d->next->prev = d->prev;
	d->list->n--;
	free(d);
}

/*
 * The socket was reset, and what came before that is still on its way: a reset of the stream would
 * overtake it. Looks again until it has gone, or its reader has had its time.
 */
static void on_drained(void *userdata)
{
	struct dial *d = userdata;

	if (server_stream_buffered(d->rq->stream) == 0 || deadline_passed(d->drain_ns))
		server_stream_reset(d->rq->stream);
	else
		loop_timer_set(dial_loop(d), &d->timer, deadline_after_ms(DRAIN_STEP_MS));
}

static void dial_was_reset(struct dial *d)
{
	dial_hang_up(d, true);
	d->timer.fire = on_drained;
	d->drain_ns = deadline_after_ms(DRAIN_MS);
	on_drained(d);
}

/* --- bytes --------------------------------------------------------------------------------------
 */

/* Return: false when there is no more to do now */
static bool dial_read_some(struct dial *d)
{
	char chunk[CHUNK];
	ssize_t n = read(d->fd, chunk, sizeof(chunk));

	if (n < 0 && errno == EINTR)
		return true;
	if (n < 0 && errno == EAGAIN)
		return false;
	if (n < 0) {
		dial_was_reset(d);
		return false;
	}
	if (n > 0 && server_stream_write(d->rq->stream, chunk, (size_t)n) < 0) {
		dial_abort(d);
		return false;
	}
	d->moved_ns = clock_now_ns();
	if (n > 0)
		return true;
	d->in_end = true;
	server_stream_end(d->rq->stream);
	return false;
}

static void dial_read(struct dial *d)
{
	while (d->fd >= 0 && !d->in_end) {
		if (server_stream_buffered(d->rq->stream) >= DIAL_HIGH) {
			server_stream_want_writable(d->rq->stream);
			return;
		}
		if (!dial_read_some(d))
			return;
	}
}

static void dial_write(struct dial *d)
{
	while (d->fd >= 0 && d->out.len) {
		ssize_t n = send(d->fd, fifo_front(&d->out), d->out.len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0)
			d->out_dead = true;
		n = n < 0 ? (ssize_t)d->out.len : n;
		fifo_consume(&d->out, (size_t)n);
		request_consumed(d->rq, (size_t)n);
		d->moved_ns = clock_now_ns();
	}
	if (d->fd >= 0 && d->out_end && !d->out_shut) {
		d->out_shut = true;
		(void)shutdown(d->fd, SHUT_WR); /* not connected any more: reading will tell */
	}
}

static void dial_pump(struct dial *d)
{
	dial_write(d);
	dial_read(d);
}

static void on_socket(void *userdata, uint32_t events);

static void on_writable(struct request *rq)
{
	struct dial *d = rq->keeper;

	if (d->connected)
		dial_read(d);
}

static void on_body(struct request *rq, const void *data, size_t len)
{
	struct dial *d = rq->keeper;

	if (d->out_dead) {
		request_consumed(rq, len);
	} else if (fifo_append(&d->out, data, len) < 0) {
		request_consumed(rq, len);
		dial_abort(d);
	} else if (d->connected) {
		dial_write(d);
	}
}

static void on_body_end(struct request *rq)
{
	struct dial *d = rq->keeper;

	d->out_end = true;
	if (d->connected)
		dial_write(d);
}

/* --- connecting ---------------------------------------------------------------------------------
 */

static void dial_fail(struct dial *d, int status, const char *why)
{
	dial_hang_up(d, true);
	request_fail(d->rq, status, "port %u: %s", d->port, why);
}

/*
 * A connect to a port in the range of ephemeral ports, on which nobody listens, can be given that
 * very port as its own, and then connects to itself (RFC 9293, 3.5, simultaneous open).
 */
static bool is_own_port(int fd)
{
	struct sockaddr_in6 own = {0};
	socklen_t len = sizeof(own);
	struct sockaddr_in6 peer = {0};
	socklen_t peer_len = sizeof(peer);

	return getsockname(fd, (struct sockaddr *)&own, &len) == 0 &&
	       getpeername(fd, (struct sockaddr *)&peer, &peer_len) == 0 &&
	       own.sin6_port == peer.sin6_port; /* at the same place for IPv4 */
}

static void dial_connected(struct dial *d)
{
	const int on = 1;

	if (is_own_port(d->fd)) {
		dial_fail(d, 502, "nobody listens");
		return;
	}
	loop_timer_clear(&d->timer);
	(void)setsockopt(d->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* slower without */
	d->connected = true;
	d->moved_ns = clock_now_ns();
	if (server_stream_respond(d->rq->stream, 200, NULL, 0) < 0)
		dial_abort(d);
	else
		dial_pump(d);
}

static int start_connect(struct dial *d)
{
	const struct sockaddr_in v4 = {.sin_family = AF_INET,
				       .sin_port = htons(d->port),
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const struct sockaddr_in6 v6 = {.sin6_family = AF_INET6,
					.sin6_port = htons(d->port),
					.sin6_addr = IN6ADDR_LOOPBACK_INIT};
	bool is_v6 = d->family == AF_INET6;

	d->fd = socket(d->family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
	if (d->fd < 0)
		return -errno;
	if (connect(d->fd, is_v6 ? (const struct sockaddr *)&v6 : (const struct sockaddr *)&v4,
		    is_v6 ? sizeof(v6) : sizeof(v4)) < 0)
		return -errno;
	return 0;
}

static void dial_attempt(struct dial *d);

/* @r: of an attempt that is over. A machine without IPv6 has refused, too. */
static void dial_attempt_failed(struct dial *d, int r)
{
	d->source = loop_remove(d->source);
	d->fd = fd_close(d->fd);
	if (d->family == AF_INET && r != -EMFILE && r != -ENOMEM) {
		d->family = AF_INET6;
		dial_attempt(d);
	} else if (r == -ECONNREFUSED || r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL) {
		dial_fail(d, 502, "nobody listens");
	} else {
		dial_fail(d, 503, strerrordesc_np(-r));
	}
}

static void dial_attempt(struct dial *d)
{
	int r = start_connect(d);

	if (r == 0 || r == -EINPROGRESS) {
		int added = loop_add(dial_loop(d), d->fd, EDGES, on_socket, d, &d->source);

		if (added < 0)
			dial_fail(d, 503, strerrordesc_np(-added));
		else if (r == 0)
			dial_connected(d);
	} else {
		dial_attempt_failed(d, r);
	}
}

static void on_socket(void *userdata, uint32_t events)
{
	struct dial *d = userdata;
	int error = 0;
	socklen_t len = sizeof(error);

	if (d->connected) {
		dial_pump(d);
		return;
	}
	if (getsockopt(d->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	if (error)
		dial_attempt_failed(d, -error);
	else if (events & EPOLLOUT)
		dial_connected(d);
}

static void on_limit(void *userdata)
{
	dial_fail(userdata, 504, "whoever listens there does not accept connections");
}

int dial_begin(struct dial_list *list, struct request *rq, uint16_t port)
{
	struct dial *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->list = list;
	d->rq = rq;
	d->port = port;
	d->family = AF_INET;
	d->fd = -1;
	d->timer = (struct loop_timer){.fire = on_limit, .userdata = d};
	d->moved_ns = clock_now_ns();
	d->next = list->first;
	d->prev = &list->first;
	if (d->next)
		d->next->prev = &d->next;
	list->first = d;
	list->n++;
	request_keep(rq, d, on_closed, on_writable);
	rq->on_body = on_body;
	rq->on_body_end = on_body_end;
	loop_timer_set(dial_loop(d), &d->timer, deadline_after_ms(DIAL_WAIT_MS));
	dial_attempt(d);
	return 0;
}

unsigned dial_close_idle(struct dial_list *list, uint64_t since_ns)
{
	unsigned n = 0;

	for (struct dial *d = list->first; d; d = d->next) {
		if (d->fd < 0 || d->moved_ns > since_ns)
			continue;
		dial_abort(d);
		n++;
	}
	return n;
}
