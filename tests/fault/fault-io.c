/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault-io - a disk that fails: loaded into dorm-pager (LD_PRELOAD) for tests
 *
 * Reads of layers (files below a directory "layers"), by whatever call, fail or wait as
 * DORM_FAULT_IO says: one or several of, separated by commas,
 *
 *     eio@N  short@N  again@N      the N-th read, counted from 1; short gives a third of what was
 *                                  asked for, again is EAGAIN for a read that must not wait (and
 *                                  nothing for others: a file never answers that)
 *     eio%N  short%N  again%N      every N-th
 *     delay=MS                     every read takes so much longer
 *     enomem@N  enomem%N           UFFDIO_COPY answers ENOMEM
 *     busy@N  busy%N               UFFDIO_COPY answers EAGAIN, as if the mappings changed
 *     nouring                      io_uring_queue_init() answers EPERM, as where it is switched off
 *
 * DORM_FAULT_IO_WHEN names a file: only while it exists is anything counted or changed. Short reads
 * through O_DIRECT stay multiples of 4096. A read that must not wait (RWF_NOWAIT) is not delayed:
 * it answers EAGAIN instead, for a slow disk has nothing in the page cache.
 *
 * Reads of an io_uring are changed in the submission queue: a failing one becomes an IORING_OP_NOP
 * with the wanted result (Linux 6.10; before that a NOP's result is 0, which is an early end).
 */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#if FAULT_IO_URING
#include <liburing.h>
#ifndef IORING_NOP_INJECT_RESULT
#define IORING_NOP_INJECT_RESULT (1u << 0)
#endif
#endif

enum fault { NONE, EIO_FAULT, SHORT, AGAIN, ENOMEM_FAULT, BUSY, N_FAULTS };

static const char *const names[N_FAULTS] = {"", "eio", "short", "again", "enomem", "busy"};

/* What was asked for; written once, by the constructor. */
static struct {
	uint64_t at[N_FAULTS];
	uint64_t every[N_FAULTS];
	uint64_t delay_ms;
	bool no_uring;
	const char *when;
} plan;

static uint64_t n_reads, n_copies; /* atomic */

#define EXPORT __attribute__((visibility("default")))
#define REAL(_name)                                                                                \
	static __typeof__(&(_name)) real;                                                          \
	if (!real)                                                                                 \
	real = (__typeof__(&(_name)))dlsym(RTLD_NEXT, #_name)

static void understand(const char *word)
{
	char name[16];
	unsigned long long n;
	char how;

	if (sscanf(word, "delay=%llu", &n) == 1)
		plan.delay_ms = n;
	else if (!strcmp(word, "nouring"))
		plan.no_uring = true;
	else if (sscanf(word, "%15[a-z]%c%llu", name, &how, &n) == 3)
		for (int i = 1; i < N_FAULTS; i++)
			if (!strcmp(name, names[i]))
				*(how == '@' ? &plan.at[i] : &plan.every[i]) = n;
}

__attribute__((constructor)) static void begin(void)
{
	const char *text = getenv("DORM_FAULT_IO");
	char *copy = text ? strdup(text) : NULL, *rest = copy, *word;

	plan.when = getenv("DORM_FAULT_IO_WHEN");
	while (rest && (word = strsep(&rest, ",")))
		understand(word);
	free(copy);
}

static bool is_on(void)
{
	int e = errno;
	bool on = !plan.when || access(plan.when, F_OK) == 0;

	errno = e;
	return on;
}

static bool is_layer(int fd)
{
	char link[64], path[PATH_MAX];
	ssize_t n;

	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n <= 0)
		return false;
	path[n] = 0;
	return strstr(path, "/layers/") != NULL;
}

static bool is_struck(enum fault f, uint64_t n)
{
	return (plan.at[f] && plan.at[f] == n) || (plan.every[f] && n % plan.every[f] == 0);
}

static enum fault fault_of_read(void)
{
	uint64_t n = __atomic_add_fetch(&n_reads, 1, __ATOMIC_RELAXED);

	for (enum fault f = EIO_FAULT; f <= AGAIN; f++)
		if (is_struck(f, n))
			return f;
	return NONE;
}

static void wait_for_disk(void)
{
	struct timespec t = {.tv_sec = (time_t)(plan.delay_ms / 1000),
			     .tv_nsec = (long)(plan.delay_ms % 1000 * 1000000)};

	(void)nanosleep(&t, NULL);
}

/* Return: bytes to read; -1 with errno: do not */
static ssize_t strike(int fd, size_t len, bool must_not_wait)
{
	if (!is_on() || !is_layer(fd))
		return (ssize_t)len;
	if (must_not_wait && plan.delay_ms) {
		errno = EAGAIN;
		return -1;
	}
	wait_for_disk();
	switch (fault_of_read()) {
	case EIO_FAULT:
		errno = EIO;
		return -1;
	case AGAIN:
		errno = EAGAIN;
		return must_not_wait ? -1 : (ssize_t)len;
	case SHORT:
		return len >= 3 * 4096 ? (ssize_t)(len / 3 & ~4095ull) : (ssize_t)(len + 2) / 3;
	default:
		return (ssize_t)len;
	}
}

EXPORT ssize_t pread(int fd, void *buf, size_t len, off_t offset)
{
	REAL(pread);
	ssize_t n = strike(fd, len, false);

	return n < 0 ? n : real(fd, buf, (size_t)n, offset);
}

EXPORT ssize_t pread64(int fd, void *buf, size_t len, off64_t offset)
{
	REAL(pread64);
	ssize_t n = strike(fd, len, false);

	return n < 0 ? n : real(fd, buf, (size_t)n, offset);
}

static size_t len_of(const struct iovec *iov, int n)
{
	size_t len = 0;

	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	return len;
}

/* A short one: only the first buffer, and of that a part. */
static const struct iovec *cut(const struct iovec *iov, int *n, size_t len, struct iovec *out)
{
	if (len == len_of(iov, *n))
		return iov;
	*out = (struct iovec){.iov_base = iov[0].iov_base,
			      .iov_len = iov[0].iov_len < len ? iov[0].iov_len : len};
	*n = 1;
	return out;
}

EXPORT ssize_t preadv(int fd, const struct iovec *iov, int n, off_t offset)
{
	REAL(preadv);
	struct iovec one;
	ssize_t len = strike(fd, len_of(iov, n), false);

	if (len < 0)
		return len;
	iov = cut(iov, &n, (size_t)len, &one);
	return real(fd, iov, n, offset);
}

EXPORT ssize_t preadv64(int fd, const struct iovec *iov, int n, off64_t offset)
{
	REAL(preadv64);
	struct iovec one;
	ssize_t len = strike(fd, len_of(iov, n), false);

	if (len < 0)
		return len;
	iov = cut(iov, &n, (size_t)len, &one);
	return real(fd, iov, n, offset);
}

EXPORT ssize_t preadv2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
	REAL(preadv2);
	struct iovec one;
	ssize_t len = strike(fd, len_of(iov, n), flags & RWF_NOWAIT);

	if (len < 0)
		return len;
	iov = cut(iov, &n, (size_t)len, &one);
	return real(fd, iov, n, offset, flags);
}

EXPORT ssize_t preadv64v2(int fd, const struct iovec *iov, int n, off64_t offset, int flags)
{
	REAL(preadv64v2);
	struct iovec one;
	ssize_t len = strike(fd, len_of(iov, n), flags & RWF_NOWAIT);

	if (len < 0)
		return len;
	iov = cut(iov, &n, (size_t)len, &one);
	return real(fd, iov, n, offset, flags);
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	REAL(ioctl);
	void *arg;
	va_list ap;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (request == UFFDIO_COPY &&
	    (plan.at[ENOMEM_FAULT] || plan.every[ENOMEM_FAULT] || plan.at[BUSY] ||
	     plan.every[BUSY]) &&
	    is_on()) {
		uint64_t n = __atomic_add_fetch(&n_copies, 1, __ATOMIC_RELAXED);
		struct uffdio_copy *c = arg;

		if (is_struck(ENOMEM_FAULT, n) || is_struck(BUSY, n)) {
			errno = is_struck(BUSY, n) ? EAGAIN : ENOMEM;
			c->copy = -errno;
			return -1;
		}
	}
	return real(fd, request, arg);
}

#if FAULT_IO_URING
EXPORT int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
	REAL(io_uring_queue_init);
	return plan.no_uring ? -EPERM : real(entries, ring, flags);
}

EXPORT int io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
				      struct io_uring_params *p)
{
	REAL(io_uring_queue_init_params);
	return plan.no_uring ? -EPERM : real(entries, ring, p);
}

static void strike_sqe(struct io_uring_sqe *sqe)
{
	bool fixed = sqe->flags & IOSQE_FIXED_FILE;
	__u8 flags = sqe->flags;
	__u64 data = sqe->user_data;

	if (sqe->opcode != IORING_OP_READ && sqe->opcode != IORING_OP_READ_FIXED &&
	    sqe->opcode != IORING_OP_READV)
		return;
	if (!fixed && !is_layer(sqe->fd))
		return;
	wait_for_disk();
	switch (fault_of_read()) {
	case EIO_FAULT:
		memset(sqe, 0, sizeof(*sqe));
		sqe->opcode = IORING_OP_NOP;
		sqe->fd = -1;
		sqe->flags = flags & (__u8)~IOSQE_FIXED_FILE;
		sqe->user_data = data;
		sqe->rw_flags = IORING_NOP_INJECT_RESULT;
		sqe->len = (__u32)-EIO;
		break;
	case SHORT:
		if (sqe->opcode != IORING_OP_READV && sqe->len >= 3 * 4096)
			sqe->len = sqe->len / 3 & ~4095u;
		break;
	default:
		break;
	}
}

static void strike_ring(struct io_uring *ring)
{
	unsigned mask = *ring->sq.kring_mask;

	if (!is_on())
		return;
	for (unsigned i = ring->sq.sqe_head; i != ring->sq.sqe_tail; i++)
		strike_sqe(&ring->sq.sqes[i & mask]);
}

EXPORT int io_uring_submit(struct io_uring *ring)
{
	REAL(io_uring_submit);
	strike_ring(ring);
	return real(ring);
}

EXPORT int io_uring_submit_and_wait(struct io_uring *ring, unsigned wait_nr)
{
	REAL(io_uring_submit_and_wait);
	strike_ring(ring);
	return real(ring, wait_nr);
}

EXPORT int io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
					    unsigned wait_nr, struct __kernel_timespec *ts,
					    sigset_t *sigmask)
{
	REAL(io_uring_submit_and_wait_timeout);
	strike_ring(ring);
	return real(ring, cqe, wait_nr, ts, sigmask);
}
#endif
