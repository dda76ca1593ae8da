/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whoever fails first wakes the other: shutdown(SHUT_RD) of the socket ends a wait for the client
 * and tells it nothing yet, cancelling the stream ends a wait for the guest.
 */
#include "api/tunnel.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "api/tls.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/fd.h"

#define CHUNK	32768u
#define STACK	(CHUNK + (96u << 10))
#define LOOK_MS 10000u /* at whether the other direction has ended */

struct tunnel {
	int fd;
	gnutls_session_t tls; /* NULL: none. One thread receives, one sends: GnuTLS allows that */
	struct channel_stream *stream;
	const void *first;
	size_t n_first;
	_Atomic int error;    /* 0: none yet */
	atomic_bool up_ended; /* the client has said all */
	atomic_bool down_ended;
};

static void tunnel_fail(struct tunnel *t, int r)
{
	int none = 0;

	if (!atomic_compare_exchange_strong(&t->error, &none, r))
		return;
	channel_stream_cancel(t->stream);
	(void)shutdown(t->fd, SHUT_RD);
}

/* The client sees a reset if it is connected over TCP (connect(2), AF_UNSPEC), otherwise an end. */
static void hang_up(int fd)
{
	const struct sockaddr none = {.sa_family = AF_UNSPEC};

	if (connect(fd, &none, sizeof(none)) < 0)
		(void)shutdown(fd, SHUT_RDWR); /* not connected any more: as good */
}

/* Wait for the client. Return: 0; negative errno: it is over */
static int await_client(struct tunnel *t)
{
	uint64_t idle_ns = deadline_after_ms(TUNNEL_HALF_MS);

	for (;;) {
		int r = fd_poll(t->fd, POLLIN, deadline_after_ms(LOOK_MS));

		if (atomic_load(&t->error))
			return -ECANCELED;
		if (r != 0)
			return r < 0 ? r : 0;
		if (!atomic_load(&t->down_ended))
			idle_ns = deadline_after_ms(TUNNEL_HALF_MS);
		else if (deadline_passed(idle_ns))
			return -ETIMEDOUT;
	}
}

/* Without waiting. Return: as recv(2), with -EAGAIN when there is nothing yet */
static ssize_t receive(struct tunnel *t, void *buf, size_t len)
{
	ssize_t n;

	if (!t->tls) {
		n = recv(t->fd, buf, len, MSG_DONTWAIT);
		return n < 0 ? (errno == EINTR ? -EAGAIN : -errno) : n;
	}
	n = gnutls_record_recv(t->tls, buf, len);
	if (n >= 0)
		return n;
	if (n == GNUTLS_E_PREMATURE_TERMINATION) /* as if it had been said */
		return 0;
	return gnutls_error_is_fatal((int)n) ? -ECONNRESET : -EAGAIN;
}

static int send_all(struct tunnel *t, const void *data, size_t len)
{
	uint64_t deadline_ns = deadline_after_ms(TUNNEL_STALL_MS);

	return t->tls ? tls_write(t->tls, t->fd, data, len, deadline_ns)
		      : fd_write_deadline(t->fd, data, len, deadline_ns);
}

/* No more from us; not connected any more is as good. */
static void end_down(struct tunnel *t)
{
	if (t->tls)
		(void)gnutls_bye(t->tls, GNUTLS_SHUT_WR);
	(void)shutdown(t->fd, SHUT_WR);
}

/* Some bytes from the client to the guest. Return: > 0; 0 at their end; negative errno */
static ssize_t carry_up(struct tunnel *t)
{
	char chunk[CHUNK];
	ssize_t n = receive(t, chunk, sizeof(chunk));
	int r;

	if (n < 0 && n != -EAGAIN)
		return n;
	if (n < 0) {
		r = await_client(t);
		return r < 0 ? r : 1;
	}
	if (atomic_load(&t->error)) /* our own shutdown looks like the client's end */
		return -ECANCELED;
	r = channel_stream_write(t->stream, chunk, (size_t)n, n == 0,
				 deadline_after_ms(TUNNEL_STALL_MS));
	return r < 0 ? r : n;
}

static void *up_main(void *arg)
{
	struct tunnel *t = arg;
	ssize_t r = 1;

	(void)pthread_setname_np(pthread_self(), "tunnel"); /* only for people */
	if (t->n_first)
		r = channel_stream_write(t->stream, t->first, t->n_first, false,
					 deadline_after_ms(TUNNEL_STALL_MS));
	r = r < 0 ? r : 1;
	while (r > 0)
		r = carry_up(t);
	if (r < 0)
		tunnel_fail(t, (int)r);
	atomic_store(&t->up_ended, true);
	return NULL;
}

/* It has not only said all, it does not listen any more either; TCP cannot tell before it is told
 * something. */
static bool has_hung_up(int fd)
{
	return fd_poll(fd, 0, 0) > 0; /* only POLLHUP and POLLERR are always reported */
}

/* Some bytes from the guest to the client. Return: > 0; 0 at their end; negative errno */
static ssize_t carry_down(struct tunnel *t)
{
	uint64_t idle_ns = deadline_after_ms(TUNNEL_HALF_MS);
	char chunk[CHUNK];
	ssize_t n;
	int r;

	do {
		n = channel_stream_read(t->stream, chunk, sizeof(chunk),
					deadline_after_ms(LOOK_MS));
		if (!atomic_load(&t->up_ended))
			idle_ns = deadline_after_ms(TUNNEL_HALF_MS);
		else if (n == -ETIMEDOUT && has_hung_up(t->fd))
			return -ECONNRESET;
	} while (n == -ETIMEDOUT && !deadline_passed(idle_ns));
	if (n <= 0)
		return n;
	r = send_all(t, chunk, (size_t)n);
	return r < 0 ? r : n;
}

static int start_up(struct tunnel *t, pthread_t *ret)
{
	pthread_attr_t attr;
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(ret, &attr, up_main, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return -r;
}

int tunnel_run(int fd, gnutls_session_t tls, struct channel_stream *s, const void *first,
	       size_t n_first, const void *back, size_t n_back)
{
	struct tunnel t = {.fd = fd, .tls = tls, .stream = s, .first = first, .n_first = n_first};
	pthread_t up;
	ssize_t r = start_up(&t, &up);
	bool started = r == 0;

	if (r == 0 && n_back)
		r = send_all(&t, back, n_back);
	r = r < 0 ? r : 1;
	while (r > 0)
		r = carry_down(&t);
	if (r < 0)
		tunnel_fail(&t, (int)r);
	else
		end_down(&t);
	atomic_store(&t.down_ended, true);
	if (started)
		pthread_join(up, NULL);
	if (atomic_load(&t.error))
		hang_up(fd);
	return atomic_load(&t.error);
}
