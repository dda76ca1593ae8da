/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loader-io-threads.c - reading with pread(), in the worker itself
 *
 * For kernels that do not let us have io_uring. A worker has one read under way, which it carries
 * out in wait(); more at the same time takes more workers.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "pager/loader-io.h"

struct loader_io {
	int wake_fd;
	struct loader_read *first; /* begun; at most .depth */
};

static int threads_new(int wake_fd, struct loader_io **ret)
{
	struct loader_io *io = calloc(1, sizeof(*io));

	if (!io)
		return -ENOMEM;
	io->wake_fd = wake_fd;
	*ret = io;
	return 0;
}

static struct loader_io *threads_free(struct loader_io *io)
{
	free(io);
	return NULL;
}

static void threads_begin(struct loader_io *io, struct loader_read *r)
{
	r->next = io->first;
	io->first = r;
}

static void wait_for_wake(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	if (poll(&p, 1, -1) < 0 && errno != EINTR)
		clock_sleep_ms(1); /* no memory: come back, but not at once */
}

static struct loader_read *threads_wait(struct loader_io *io, bool wake)
{
	struct loader_read *r = io->first;
	struct loader_step s;
	ssize_t n;

	if (!r) {
		wait_for_wake(io->wake_fd);
		return NULL;
	}
	do {
		s = loader_read_step(r);
		n = pread(s.fd, s.data, s.len, (off_t)s.offset);
	} while (!loader_read_stepped(r, n < 0 ? -errno : n));
	io->first = r->next;
	return r;
}

const struct loader_io_ops loader_io_threads = {
	.name = "threads",
	.depth = 1,
	.new = threads_new,
	.free = threads_free,
	.begin = threads_begin,
	.wait = threads_wait,
};
