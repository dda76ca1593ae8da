/* SPDX-License-Identifier: Apache-2.0 */
#include "channel/handshake.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/id.h"
#include "channel/frame.h"

#define PATIENCE_FIRST_MS 250u
#define PATIENCE_MAX_MS	  1000u
#define CONNECT_PAUSE_MS  5u
#define SCAN_LEN	  65536u

struct handshake {
	int fd;
	int alive_fd;
	uint64_t deadline_ns; /* of this attempt */
	struct hello hello;
	struct fifo out;
	size_t kept; /* bytes at the front of scan that may be the beginning of the reply */
	uint8_t *scan;
};

/* Non-blocking: a VMM whose one connection is taken would let connect(2) wait in its backlog. */
int handshake_dial(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	_cleanup_fd_ int fd = -1;

	if (strlen(path) >= sizeof(sa.sun_path))
		return error_trace(-ENAMETOOLONG);
	memcpy(sa.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_errno();
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return -errno;
	return take_fd(fd);
}

static bool connect_may_work_later(int r)
{
	return r == -ENOENT || r == -ECONNREFUSED || r == -EAGAIN || r == -EINTR;
}

/* Wait for @events. Return: revents; 0 at the attempt's deadline; -ECONNRESET; negative errno */
static int handshake_wait(struct handshake *h, short events)
{
	struct pollfd p[2] = {{.fd = h->fd, .events = events},
			      {.fd = h->alive_fd, .events = POLLIN}};
	int n;

	do {
		n = poll(p, 2, deadline_poll_ms(h->deadline_ns));
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return error_errno();
	if (p[1].revents)
		return -ECONNRESET;
	return p[0].revents;
}

static int handshake_send(struct handshake *h)
{
	while (h->out.len) {
		ssize_t n = send(h->fd, fifo_front(&h->out), h->out.len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		fifo_consume(&h->out, (size_t)n);
	}
	return 0;
}

/* Return: 1 when the reply was found; 0 not yet; negative errno */
static int handshake_scan(struct handshake *h, struct fifo *rest)
{
	ssize_t n = read(h->fd, h->scan + h->kept, SCAN_LEN - h->kept);
	uint8_t version;
	size_t len, end;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -EPIPE;
	len = h->kept + (size_t)n;
	if (hello_find_reply(h->scan, len, h->hello.nonce, &version, &end)) {
		if (version != HELLO_VERSION)
			return error_trace(-EPROTONOSUPPORT);
		n = fifo_append(rest, h->scan + end, len - end);
		return n < 0 ? (int)n : 1;
	}
	h->kept = MIN(len, (size_t)HELLO_FRAME_LEN - 1);
	memmove(h->scan, h->scan + len - h->kept, h->kept);
	return 0;
}

static int handshake_prepare(struct handshake *h)
{
	static const uint8_t marker[FRAME_MARKER_LEN];
	int r;

	h->hello.version = HELLO_VERSION;
	id_random(h->hello.nonce, sizeof(h->hello.nonce));
	h->kept = 0;
	fifo_deinit(&h->out);
	r = fifo_append(&h->out, marker, sizeof(marker));
	if (r == 0)
		r = hello_put(&h->out, FRAME_HELLO, &h->hello);
	return r;
}

/* Return: 1 agreed; 0 no answer in time, or hung up on; negative errno */
static int handshake_attempt(struct handshake *h, struct fifo *rest)
{
	int r = handshake_prepare(h);

	while (r == 0) {
		int events = handshake_wait(h, (short)(POLLIN | (h->out.len ? POLLOUT : 0)));

		if (events <= 0)
			return events;
		if (events & (POLLOUT | POLLERR | POLLHUP))
			r = handshake_send(h);
		if (r == 0 && events & (POLLIN | POLLERR | POLLHUP))
			r = handshake_scan(h, rest);
	}
	return r == -EPIPE || r == -ECONNRESET ? 0 : r;
}

/* A moment without a connection. Return: 0; -ECONNRESET; negative errno */
static int handshake_pause(struct handshake *h, uint64_t deadline_ns)
{
	h->fd = -1;
	h->deadline_ns = deadline_min(deadline_ns, deadline_after_ms(CONNECT_PAUSE_MS));
	return handshake_wait(h, 0);
}

int handshake_connect(const char *path, int first_fd, int alive_fd, uint64_t deadline_ns,
		      int *ret_fd, struct fifo *ret_rest)
{
	_cleanup_free_ uint8_t *scan = malloc(SCAN_LEN);
	struct handshake h = {.fd = -1, .alive_fd = alive_fd, .scan = scan};
	unsigned patience_ms = PATIENCE_FIRST_MS;
	int r = scan ? 0 : -ENOMEM;

	while (r == 0) {
		_cleanup_fd_ int fd = first_fd >= 0 ? take_fd(first_fd) : handshake_dial(path);
		uint64_t begin_ns = clock_now_ns();

		if (fd < 0 && !connect_may_work_later(fd)) {
			r = fd;
			break;
		}
		if (fd >= 0) {
			h.fd = fd;
			h.deadline_ns = deadline_min(deadline_ns, deadline_after_ms(patience_ms));
			r = handshake_attempt(&h, ret_rest);
			if (r > 0)
				*ret_fd = take_fd(fd);
		}
		if (r == 0 && deadline_passed(deadline_ns))
			r = -ETIMEDOUT;
		if (r == 0 && clock_now_ns() - begin_ns >= PATIENCE_FIRST_MS * NSEC_PER_MSEC)
			patience_ms = MIN(patience_ms * 2, PATIENCE_MAX_MS);
		else if (r == 0) /* refused or hung up on: not at full speed */
			r = handshake_pause(&h, deadline_ns);
	}
	fifo_deinit(&h.out);
	fd_close(first_fd); /* still there when memory ran out */
	return r > 0 ? 0 : error_trace(r);
}
