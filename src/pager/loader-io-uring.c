/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loader-io-uring.c - reading with io_uring: one worker, several reads under way
 *
 * Each worker has a ring of its own, which no other thread touches. Every entry is submitted as
 * soon as it is made, so the kernel reads while the worker decodes what came before, and there is
 * never an entry that the kernel has not taken yet.
 *
 * While reads are under way, wait() also waits for wake_fd: by a poll request in the ring, which
 * reports once and is made again when needed. When nothing is under way it waits with poll(2): a
 * thread that sleeps in io_uring_enter() would count as waiting for a disk.
 *
 * That the kernel refuses an entry happens when a seccomp filter came later, or without memory.
 * Then the ring is not entered again: what the kernel has is waited for by looking at the
 * completion queue from time to time, and the worker reads everything else with pread().
 *
 * Source: io_uring(7), io_uring_enter(2).
 */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "pager/loader-io.h"

#define DEPTH	8u
#define ENTRIES (2 * DEPTH) /* the reads, and the poll request */

struct loader_io {
	struct io_uring ring;
	int wake_fd;
	bool armed;		 /* there is a poll request for wake_fd */
	bool broken;		 /* the ring is not to be entered any more */
	unsigned n_kernel;	 /* reads that the kernel has */
	struct loader_read *own; /* reads that it refused */
};

static int uring_new(int wake_fd, struct loader_io **ret)
{
	struct loader_io *io = calloc(1, sizeof(*io));
	int r;

	if (!io)
		return -ENOMEM;
	io->wake_fd = wake_fd;
	r = io_uring_queue_init(ENTRIES, &io->ring, 0);
	if (r < 0) {
		free(io);
		return error_trace(r);
	}
	*ret = io;
	return 0;
}

static struct loader_io *uring_free(struct loader_io *io)
{
	if (!io)
		return NULL;
	io_uring_queue_exit(&io->ring);
	free(io);
	return NULL;
}

/* Submit the one entry that was made. */
static bool submit(struct loader_io *io)
{
	int r;

	do
		r = io_uring_submit(&io->ring);
	while (r == -EINTR);
	io->broken = r != 1;
	return !io->broken;
}

static struct io_uring_sqe *new_entry(struct loader_io *io)
{
	return io->broken ? NULL : io_uring_get_sqe(&io->ring);
}

static void uring_begin(struct loader_io *io, struct loader_read *r)
{
	struct loader_step s = loader_read_step(r);
	struct io_uring_sqe *sqe = new_entry(io);

	if (sqe) {
		io_uring_prep_read(sqe, s.fd, s.data, s.len, s.offset);
		io_uring_sqe_set_data(sqe, r);
		if (submit(io)) {
			io->n_kernel++;
			return;
		}
	}
	r->next = io->own;
	io->own = r;
}

static void arm(struct loader_io *io)
{
	struct io_uring_sqe *sqe;

	if (io->armed)
		return;
	sqe = new_entry(io);
	if (!sqe)
		return;
	io_uring_prep_poll_add(sqe, io->wake_fd, POLLIN);
	io_uring_sqe_set_data(sqe, NULL);
	io->armed = submit(io);
}

static struct loader_read *read_own(struct loader_io *io)
{
	struct loader_read *r = io->own;
	struct loader_step s;
	ssize_t n;

	do {
		s = loader_read_step(r);
		n = pread(s.fd, s.data, s.len, (off_t)s.offset);
	} while (!loader_read_stepped(r, n < 0 ? -errno : n));
	io->own = r->next;
	return r;
}

/* A read that is complete, of what the kernel has reported; NULL: none yet */
static struct loader_read *reap(struct loader_io *io, bool *ret_woken)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&io->ring, &cqe) == 0) {
		struct loader_read *r = io_uring_cqe_get_data(cqe);
		int n = cqe->res;

		io_uring_cqe_seen(&io->ring, cqe);
		if (!r) {
			io->armed = false;
			*ret_woken = true;
			continue;
		}
		io->n_kernel--;
		if (loader_read_stepped(r, n))
			return r;
		uring_begin(io, r);
	}
	return NULL;
}

/* @ms: at most; -1: as long as it takes */
static void poll_wake(struct loader_io *io, bool wake, int ms, bool *ret_woken)
{
	struct pollfd p = {.fd = io->wake_fd, .events = POLLIN};
	int n = poll(&p, wake ? 1 : 0, ms);

	if (n < 0 && errno != EINTR)
		clock_sleep_ms(1); /* no memory: come back, but not at once */
	*ret_woken = n > 0;
}

static void sleep_on_ring(struct loader_io *io)
{
	int r = io_uring_submit_and_wait(&io->ring, 1);

	if (r < 0 && r != -EINTR && r != -EAGAIN)
		io->broken = true;
}

static struct loader_read *uring_wait(struct loader_io *io, bool wake)
{
	bool woken = false;

	for (;;) {
		struct loader_read *r = reap(io, &woken);

		if (r)
			return r;
		if (io->own)
			return read_own(io);
		if (woken && wake)
			return NULL;
		woken = false;
		if (io->n_kernel == 0)
			poll_wake(io, wake, -1, &woken);
		else if (io->broken)
			poll_wake(io, wake, 1, &woken);
		else {
			if (wake)
				arm(io);
			if (!io->broken)
				sleep_on_ring(io);
		}
	}
}

const struct loader_io_ops loader_io_uring = {
	.name = "io_uring",
	.depth = DEPTH,
	.new = uring_new,
	.free = uring_free,
	.begin = uring_begin,
	.wait = uring_wait,
};

/* ---- may we? ----------------------------------------------------------------------------------
 */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int answer;

/* Setting up is one permission (kernel.io_uring_disabled, limits), entering another (seccomp). */
static int try_ring(void)
{
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	int r = io_uring_queue_init(2, &ring, 0);

	if (r < 0)
		return r;
	io_uring_prep_nop(io_uring_get_sqe(&ring));
	r = io_uring_submit_and_wait(&ring, 1);
	if (r == 1)
		r = io_uring_peek_cqe(&ring, &cqe);
	else if (r >= 0)
		r = -EOPNOTSUPP;
	io_uring_queue_exit(&ring);
	return r;
}

static void ask(void)
{
	answer = try_ring();
}

int loader_io_uring_probe(void)
{
	(void)pthread_once(&once, ask); /* fails only for a once that is none */
	return answer;
}
