/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-loader.c - the loader, every test with both back ends
 *
 * The files are real and so are the reads. The linker replaces pread64() and the calls of liburing
 * (--wrap, meson.build), which pass through to the real ones, and on the way may
 *
 * - be a slow disk: one read after the other, first come first served, each takes a while;
 * - change what the kernel answered: errors, half of the bytes.
 */
#include "pager/loader.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/ioprio.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/test.h"
#include "pager/loader-io.h"

#define FILE_BYTES (5u * LOADER_READ_BYTES + 1234u) /* the last block is not whole */
#define WAIT_MS	   20000u

/* ---- the disk ---------------------------------------------------------------------------------
 */

static struct disk {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	unsigned next, serving; /* tickets */
	unsigned most_ahead;	/* reads that a demand read found before it, at most */
	atomic_uint background_ms, demand_ms;
	atomic_uint n_background, n_demand; /* served */
	atomic_uint n_now, n_most;	    /* background reads in it, or waiting for it */
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

static bool is_background(uint32_t len)
{
	return len > LOADER_ROOM(LOADER_DEMAND_BYTES);
}

static void take_ticket(bool background)
{
	LOCK_SCOPE(&disk.lock);
	unsigned mine = disk.next++;

	if (!background)
		disk.most_ahead = MAX(disk.most_ahead, mine - disk.serving);
	while (disk.serving != mine)
		pthread_cond_wait(&disk.cond, &disk.lock);
}

static void give_ticket(void)
{
	LOCK_SCOPE(&disk.lock);

	disk.serving++;
	pthread_cond_broadcast(&disk.cond);
}

static void enter(void)
{
	unsigned now = atomic_fetch_add(&disk.n_now, 1) + 1, most = atomic_load(&disk.n_most);

	while (now > most && !atomic_compare_exchange_weak(&disk.n_most, &most, now))
		continue;
}

static void disk_read(uint32_t len)
{
	bool background = is_background(len);
	unsigned ms = background ? disk.background_ms : disk.demand_ms;

	if (background)
		enter();
	if (ms) {
		take_ticket(background);
		clock_sleep_ms(ms);
		give_ticket();
	}
	if (background)
		atomic_fetch_sub(&disk.n_now, 1);
	atomic_fetch_add(background ? &disk.n_background : &disk.n_demand, 1);
}

/* ---- what goes wrong --------------------------------------------------------------------------
 */

static struct {
	atomic_int error; /* of the next @times reads; 0: half of the bytes */
	atomic_int times;
	atomic_int fd;	     /* only of this one; -1: of any */
	atomic_int refuse;   /* entering a ring fails with this */
	atomic_int no_rings; /* io_uring_queue_init() fails after so many; negative: does not */
} fault = {.fd = -1, .no_rings = -1};

static bool strikes(int fd)
{
	if (atomic_load(&fault.fd) >= 0 && atomic_load(&fault.fd) != fd)
		return false;
	for (int n = atomic_load(&fault.times); n > 0;)
		if (atomic_compare_exchange_weak(&fault.times, &n, n - 1))
			return true;
	return false;
}

static int64_t strike(int64_t n)
{
	int error = atomic_load(&fault.error);

	return error ? error : n > 1 ? n / 2 : n;
}

ssize_t __real_pread64(int fd, void *buf, size_t len, off_t offset);
ssize_t __wrap_pread64(int fd, void *buf, size_t len, off_t offset);
ssize_t __wrap_pread64(int fd, void *buf, size_t len, off_t offset)
{
	ssize_t n;

	disk_read((uint32_t)len);
	n = __real_pread64(fd, buf, len, offset);
	if (!strikes(fd))
		return n;
	n = strike(n);
	if (n >= 0)
		return n;
	errno = (int)-n;
	return -1;
}

int __real_io_uring_submit_and_wait(struct io_uring *ring, unsigned n);
int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned n);
int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned n)
{
	int r = atomic_load(&fault.refuse);

	return r ? r : __real_io_uring_submit_and_wait(ring, n);
}

int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);

/* Wait for the read to be complete, and change its result. */
static void strike_completion(struct io_uring *ring, uint64_t of)
{
	for (;;) {
		struct io_uring_cqe *cqe;
		unsigned head;

		io_uring_for_each_cqe(ring, head, cqe)
		{
			if (cqe->user_data != of)
				continue;
			cqe->res = (int)strike(cqe->res);
			return;
		}
		assert_true(__real_io_uring_submit_and_wait(ring, 1) >= 0);
	}
}

int __wrap_io_uring_submit(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = &ring->sq.sqes[(ring->sq.sqe_tail - 1) & ring->sq.ring_mask];
	bool read = sqe->opcode == IORING_OP_READ;
	uint64_t of = sqe->user_data;
	int fd = sqe->fd, r = atomic_load(&fault.refuse);

	if (r)
		return r;
	if (read)
		disk_read(sqe->len);
	r = __real_io_uring_submit(ring);
	if (read && r == 1 && strikes(fd))
		strike_completion(ring, of);
	return r;
}

int __real_io_uring_queue_init(unsigned n, struct io_uring *ring, unsigned flags);
int __wrap_io_uring_queue_init(unsigned n, struct io_uring *ring, unsigned flags);
int __wrap_io_uring_queue_init(unsigned n, struct io_uring *ring, unsigned flags)
{
	int left = atomic_load(&fault.no_rings);

	if (left == 0)
		return -ENOMEM;
	if (left > 0)
		atomic_store(&fault.no_rings, left - 1);
	return __real_io_uring_queue_init(n, ring, flags);
}

/* ---- a file, a loader and a source ------------------------------------------------------------
 */

struct rig {
	enum loader_backend backend;
	char path[64];
	int fd, direct_fd;
	uint8_t *bytes;
	struct loader *loader;

	/* the source: reads of the file from the front, @n_left of them */
	atomic_int n_left;
	atomic_uint n_pulled, n_asked, n_in_next;
	bool no_read;	    /* work without a read */
	atomic_uint n_hold; /* done() of background reads waits while not 0 */
	atomic_uint n_background_done, n_background_in_done, n_background_bad;

	atomic_uint n_done, n_bad, n_in_done;
	atomic_int last_result;
	atomic_uint n_meet;	    /* demand: done() waits until so many are in it; 0: does not */
	atomic_uint n_seen_at_done; /* reads that the disk had served, when done() came second */
	pthread_t submitter;
};

static bool reached(atomic_uint *what, unsigned n)
{
	for (uint64_t end = deadline_after_ms(WAIT_MS); !deadline_passed(end);) {
		if (atomic_load(what) >= n)
			return true;
		clock_sleep_ms(1);
	}
	return false;
}

static void check_data(struct rig *rig, const struct load *l, const uint8_t *data)
{
	if ((uintptr_t)data % 4096 != l->offset % 4096 ||
	    memcmp(data, rig->bytes + l->offset, l->len) != 0)
		atomic_fetch_add(&rig->n_bad, 1);
}

static void background_done(struct load *l, struct load_buffers *b, const uint8_t *data, int result)
{
	struct rig *rig = l->owner;

	atomic_fetch_add(&rig->n_background_in_done, 1);
	if (result || (uintptr_t)b->out % 4096 || (uintptr_t)b->check % 4096)
		atomic_fetch_add(&rig->n_background_bad, 1);
	else if (l->len)
		check_data(rig, l, data);
	while (atomic_load(&rig->n_hold))
		clock_sleep_ms(1);
	loader_put(rig->loader, l); /* does nothing */
	atomic_fetch_add(&rig->n_background_done, 1);
}

static bool next(void *ctx, struct load *l)
{
	struct rig *rig = ctx;
	bool more;

	if (atomic_fetch_add(&rig->n_in_next, 1))
		atomic_fetch_add(&rig->n_bad, 1);
	atomic_fetch_add(&rig->n_asked, 1);
	more = atomic_load(&rig->n_left) > 0;
	if (more) {
		unsigned i = atomic_fetch_add(&rig->n_pulled, 1) % 5;

		atomic_fetch_sub(&rig->n_left, 1);
		*l = (struct load){.fd = rig->fd,
				   .direct_fd = rig->direct_fd,
				   .offset = (uint64_t)i * LOADER_READ_BYTES,
				   .len = rig->no_read ? 0 : LOADER_READ_BYTES,
				   .priority = i % 2 ? LOAD_WORKING_SET : LOAD_GRADUATION,
				   .done = background_done,
				   .owner = rig};
	}
	atomic_fetch_sub(&rig->n_in_next, 1);
	return more;
}

static void start(struct rig *rig, unsigned n_demand, unsigned n_background)
{
	struct loader_options options = {.n_demand = n_demand,
					 .n_background = n_background,
					 .backend = rig->backend,
					 .next = next,
					 .ctx = rig};
	struct loader_stats stats;

	assert_int_equal(loader_new(&options, &rig->loader), 0);
	loader_stats(rig->loader, &stats);
	assert_string_equal(stats.backend, rig->backend == LOADER_THREADS ? "threads" : "io_uring");
}

static int setup(void **state)
{
	struct rig *rig = calloc(1, sizeof(*rig));
	uint64_t x = 88172645463325252ull;

	assert_non_null(rig);
	rig->backend = *(enum loader_backend *)*state;
	rig->bytes = malloc(FILE_BYTES + 8);
	assert_non_null(rig->bytes);
	for (uint32_t i = 0; i < FILE_BYTES; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(rig->bytes + i, &x, 8);
	}
	(void)snprintf(rig->path, sizeof(rig->path), "/tmp/dorm-test-loader.XXXXXX");
	rig->fd = mkostemp(rig->path, O_CLOEXEC);
	assert_true(rig->fd >= 0);
	assert_int_equal(fd_write_full(rig->fd, rig->bytes, FILE_BYTES), 0);
	assert_int_equal(fsync(rig->fd), 0);
	rig->direct_fd = open(rig->path, O_RDONLY | O_DIRECT | O_CLOEXEC); /* or -1 */
	rig->submitter = pthread_self();
	disk.background_ms = disk.demand_ms = 0;
	disk.most_ahead = 0;
	atomic_store(&disk.n_background, 0);
	atomic_store(&disk.n_demand, 0);
	atomic_store(&disk.n_now, 0);
	atomic_store(&disk.n_most, 0);
	*state = rig;
	if (rig->backend == LOADER_IO_URING && loader_io_uring_probe() < 0) {
		(void)fprintf(stderr, "io_uring: %s\n", strerror(-loader_io_uring_probe()));
		return 0; /* need_backend() skips */
	}
	return 0;
}

static int teardown(void **state)
{
	struct rig *rig = *state;

	atomic_store(&fault.times, 0);
	atomic_store(&fault.fd, -1);
	atomic_store(&fault.refuse, 0);
	atomic_store(&fault.no_rings, -1);
	atomic_store(&rig->n_hold, 0);
	rig->loader = loader_free(rig->loader);
	(void)unlink(rig->path);
	close(rig->fd);
	fd_close(rig->direct_fd);
	free(rig->bytes);
	free(rig);
	return 0;
}

static struct rig *need_backend(void **state)
{
	struct rig *rig = *state;

	if (rig->backend == LOADER_IO_URING && loader_io_uring_probe() < 0)
		skip();
	return rig;
}

/* ---- demand -----------------------------------------------------------------------------------
 */

static void demand_done(struct load *l, struct load_buffers *b, const uint8_t *data, int result)
{
	struct rig *rig = l->owner;
	unsigned meet = atomic_load(&rig->n_meet);

	atomic_store(&rig->last_result, result);
	if (result == 0)
		check_data(rig, l, data);
	if ((result == -ECANCELED) != (b == NULL) || (result == 0) != (data != NULL) ||
	    pthread_equal(pthread_self(), rig->submitter) != (result == -ECANCELED))
		atomic_fetch_add(&rig->n_bad, 1);
	if (atomic_fetch_add(&rig->n_in_done, 1) == 1)
		atomic_store(&rig->n_seen_at_done, atomic_load(&disk.n_demand));
	if (meet && !reached(&rig->n_in_done, meet))
		atomic_fetch_add(&rig->n_bad, 1);
	l->arg[0] = clock_now_ns();
	loader_put(rig->loader, l);
	atomic_fetch_add(&rig->n_done, 1);
}

static struct load *slot(struct rig *rig, bool direct, uint64_t offset, uint32_t len)
{
	struct load *l = loader_get(rig->loader);

	assert_non_null(l);
	l->fd = rig->fd;
	l->direct_fd = direct ? rig->direct_fd : -1;
	l->offset = offset;
	l->len = len;
	l->done = demand_done;
	l->owner = rig;
	return l;
}

static void demand(struct rig *rig, bool direct, uint64_t offset, uint32_t len)
{
	loader_submit(rig->loader, slot(rig, direct, offset, len));
}

/* One read from begin to end. Return: its result */
static int demand_now(struct rig *rig, bool direct, uint64_t offset, uint32_t len)
{
	unsigned n = atomic_load(&rig->n_done) + 1;

	demand(rig, direct, offset, len);
	assert_true(reached(&rig->n_done, n));
	assert_int_equal(atomic_load(&rig->n_bad), 0);
	return atomic_load(&rig->last_result);
}

static uint64_t random_below(uint64_t *seed, uint64_t n)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return (*seed >> 33) % n;
}

static void test_demand(void **state)
{
	struct rig *rig = need_backend(state);
	struct loader_stats stats;
	uint64_t seed = 3, bytes = 0;
	unsigned n = 0;

	start(rig, 2, 2);
	while (n < 400) {
		uint32_t len = 1 + (uint32_t)random_below(&seed, LOADER_DEMAND_BYTES);

		if (n % 100 == 0)
			assert_true(reached(&rig->n_done, n));
		demand(rig, n % 3, random_below(&seed, FILE_BYTES - len), len);
		bytes += len;
		n++;
	}
	assert_true(reached(&rig->n_done, n));
	/* the very end of the file, and whole blocks */
	assert_int_equal(demand_now(rig, true, FILE_BYTES - 1, 1), 0);
	assert_int_equal(demand_now(rig, false, FILE_BYTES - 7000, 7000), 0);
	assert_int_equal(demand_now(rig, true, FILE_BYTES - 7000, 7000), 0);
	assert_int_equal(demand_now(rig, true, 8192, LOADER_DEMAND_BYTES), 0);
	loader_stats(rig->loader, &stats);
	assert_int_equal(stats.by[LOAD_DEMAND].reads, n + 4);
	assert_int_equal(stats.by[LOAD_DEMAND].failed, 0);
	assert_int_equal(stats.by[LOAD_DEMAND].bytes, bytes + 14001 + LOADER_DEMAND_BYTES);
	assert_int_equal(stats.by[LOAD_DEMAND].direct, rig->direct_fd < 0 ? 0 : 266 + 3);
	assert_int_equal(stats.by[LOAD_WORKING_SET].reads, 0);
	assert_int_equal(stats.slots_used, 0);
	assert_true(stats.slots_most >= 1 && stats.slots_most <= 101);
	assert_true(histogram_percentile(&stats.by[LOAD_DEMAND].read_ns, 50) > 0);
	assert_true(histogram_percentile(&stats.by[LOAD_DEMAND].queue_ns, 99) > 0);
}

/* Two reads, two workers: no worker keeps for itself what an idle one could do. */
static void test_spread(void **state)
{
	struct rig *rig = need_backend(state);

	start(rig, 2, 2);
	for (unsigned i = 0; i < 20; i++) {
		atomic_store(&rig->n_in_done, 0);
		atomic_store(&rig->n_meet, 2);
		demand(rig, true, i * 100, 5000);
		demand(rig, true, i * 7000, 5000);
		assert_true(reached(&rig->n_done, 2 * i + 2));
		assert_int_equal(atomic_load(&rig->n_bad), 0);
	}
}

/* One worker: how many does it begin before it handles the second? */
static void test_depth(void **state)
{
	struct rig *rig = need_backend(state);
	unsigned seen;

	start(rig, 1, 2);
	disk.demand_ms = 100; /* so that all of them are queued meanwhile */
	for (unsigned i = 0; i < 20; i++)
		demand(rig, true, i * 9000, 9000);
	clock_sleep_ms(20);
	disk.demand_ms = 0;
	assert_true(reached(&rig->n_done, 20));
	seen = atomic_load(&rig->n_seen_at_done);
	if (rig->backend == LOADER_THREADS)
		assert_int_equal(seen, 2);
	else
		assert_true(seen >= 8);
	assert_int_equal(atomic_load(&rig->n_bad), 0);
}

static void test_pool(void **state)
{
	struct rig *rig = need_backend(state);
	struct load *slots[LOADER_SLOTS];
	struct loader_stats stats;

	start(rig, 2, 2);
	for (unsigned i = 0; i < LOADER_SLOTS; i++)
		slots[i] = slot(rig, i % 2, i * 4096, 4096);
	assert_null(loader_get(rig->loader));
	assert_null(loader_get(rig->loader));
	loader_put(rig->loader, slots[7]); /* need not be submitted */
	slots[7] = slot(rig, true, 7, 7);
	assert_null(loader_get(rig->loader));
	for (unsigned i = 0; i < LOADER_SLOTS; i++)
		loader_submit(rig->loader, slots[i]);
	assert_true(reached(&rig->n_done, LOADER_SLOTS));
	assert_int_equal(atomic_load(&rig->n_bad), 0);
	loader_stats(rig->loader, &stats);
	assert_int_equal(stats.slots_used, 0);
	assert_int_equal(stats.slots_most, LOADER_SLOTS);
	assert_int_equal(stats.slots_refused, 3);
	assert_int_equal(demand_now(rig, true, 0, 4096), 0);
}

/* ---- background -------------------------------------------------------------------------------
 */

static void test_background(void **state)
{
	struct rig *rig = need_backend(state);
	struct loader_stats stats;

	start(rig, 2, 3);
	atomic_store(&rig->n_left, 10);
	clock_sleep_ms(20);
	assert_int_equal(atomic_load(&rig->n_asked), 0); /* nobody has kicked */
	loader_kick(rig->loader);
	assert_true(reached(&rig->n_background_done, 10));
	assert_true(reached(&rig->n_asked, 11));
	clock_sleep_ms(20);
	assert_int_equal(atomic_load(&rig->n_asked), 11); /* it said that there is no more */
	atomic_store(&rig->n_left, 3);
	loader_kick(rig->loader);
	assert_true(reached(&rig->n_background_done, 13));
	assert_int_equal(atomic_load(&rig->n_bad), 0);
	assert_int_equal(atomic_load(&rig->n_background_bad), 0);
	loader_stats(rig->loader, &stats);
	assert_int_equal(stats.by[LOAD_GRADUATION].reads, 8); /* 0 2 4, twice, and 0 2 */
	assert_int_equal(stats.by[LOAD_WORKING_SET].reads, 5);
	assert_int_equal(stats.by[LOAD_WORKING_SET].bytes, 5 * LOADER_READ_BYTES);
	assert_int_equal(stats.by[LOAD_DEMAND].reads, 0);
	assert_int_equal(stats.n_background, 3);
}

/* Work without a read has its turn, and then a worker and its buffers, like any other. */
static void test_no_read(void **state)
{
	struct rig *rig = need_backend(state);
	struct loader_stats stats;

	rig->no_read = true;
	start(rig, 1, 3);
	atomic_store(&rig->n_hold, 1);
	atomic_store(&rig->n_left, 6);
	loader_kick(rig->loader);
	assert_true(reached(&rig->n_background_in_done, 3)); /* at the same time */
	assert_int_equal(atomic_load(&rig->n_pulled), 3);
	atomic_store(&rig->n_hold, 0);
	assert_true(reached(&rig->n_background_done, 6));
	assert_int_equal(atomic_load(&rig->n_background_bad), 0);
	assert_int_equal(atomic_load(&disk.n_background), 0);
	loader_stats(rig->loader, &stats);
	assert_int_equal(stats.by[LOAD_GRADUATION].reads + stats.by[LOAD_WORKING_SET].reads, 0);
}

/* All workers decode; not one more read was begun than they are, and demand gets through. */
static void test_workers_busy(void **state)
{
	struct rig *rig = need_backend(state);

	start(rig, 1, 3);
	atomic_store(&rig->n_hold, 1);
	atomic_store(&rig->n_left, 1000);
	loader_kick(rig->loader);
	/* while the first is being decoded the next ones are read */
	assert_true(reached(&rig->n_background_in_done, 3));
	assert_int_equal(demand_now(rig, true, 77, 7777), 0);
	assert_int_equal(demand_now(rig, false, 77, 7777), 0);
	assert_int_equal(atomic_load(&rig->n_pulled), 3);
	atomic_store(&rig->n_left, 2);
	atomic_store(&rig->n_hold, 0);
	assert_true(reached(&rig->n_background_done, 5));
	assert_int_equal(atomic_load(&rig->n_bad), 0);
}

/* ... and the other way round */
static void test_demand_busy(void **state)
{
	struct rig *rig = need_backend(state);

	start(rig, 1, 2);
	atomic_store(&rig->n_meet, 2); /* the first one's done() waits for the second one's */
	demand(rig, true, 0, 100);
	atomic_store(&rig->n_left, 5);
	loader_kick(rig->loader);
	assert_true(reached(&rig->n_background_done, 5));
	assert_int_equal(atomic_load(&rig->n_done), 0);
	atomic_store(&rig->n_in_done, 2);
	assert_true(reached(&rig->n_done, 1));
}

/*
 * A disk that carries out one read after the other, and a background that never ends: a demand read
 * finds at most the one background read before it that is under way when it comes.
 */
static void test_overtake(void **state)
{
	struct rig *rig = need_backend(state);
	unsigned most_ahead;

	disk.background_ms = 30;
	disk.demand_ms = 1;
	start(rig, 2, 4);
	atomic_store(&rig->n_left, 100000);
	loader_kick(rig->loader);
	assert_true(reached(&disk.n_background, 2));
	for (unsigned i = 0; i < 10; i++) {
		clock_sleep_ms(7 * i % 31); /* come at different points of a read */
		assert_int_equal(demand_now(rig, i % 2, i * 4096, 4096), 0);
	}
	pthread_mutex_lock(&disk.lock);
	most_ahead = disk.most_ahead;
	pthread_mutex_unlock(&disk.lock);
	assert_int_equal(most_ahead, 1);
	atomic_store(&rig->n_left, 0);
	assert_int_equal(atomic_load(&rig->n_bad), 0);
}

/* The turn is what keeps the disk free: with a slow disk, never two in it. */
static void test_one_at_a_time(void **state)
{
	struct rig *rig = need_backend(state);

	disk.background_ms = 5;
	start(rig, 2, 4);
	atomic_store(&rig->n_left, 20);
	loader_kick(rig->loader);
	assert_true(reached(&rig->n_background_done, 20));
	assert_int_equal(atomic_load(&disk.n_most), 1);
}

/* ---- errors -----------------------------------------------------------------------------------
 */

static void inject(int error, int times, int fd)
{
	atomic_store(&fault.error, error);
	atomic_store(&fault.fd, fd);
	atomic_store(&fault.times, times);
}

static void test_errors(void **state)
{
	struct rig *rig = need_backend(state);
	struct loader_stats stats;

	start(rig, 2, 2);
	for (unsigned direct = 0; direct < 2; direct++) {
		inject(-EIO, 1, -1);
		assert_int_equal(demand_now(rig, direct, 4096, 4096), -EIO);
		assert_int_equal(demand_now(rig, direct, 4096, 4096), 0);
		inject(-EINTR, 3, -1);
		assert_int_equal(demand_now(rig, direct, 4096, 4096), 0);
		inject(-EAGAIN, 3, -1);
		assert_int_equal(demand_now(rig, direct, 4096, 4096), 0);
		inject(-EINTR, 1 << 30, -1); /* for good: there is an end to patience */
		assert_int_equal(demand_now(rig, direct, 4096, 4096), -EINTR);
		inject(0, 0, -1);
	}
	loader_stats(rig->loader, &stats);
	assert_int_equal(stats.by[LOAD_DEMAND].failed, 4);
	assert_int_equal(stats.by[LOAD_DEMAND].reads, 6);
	inject(-EIO, 1, -1);
	atomic_store(&rig->n_left, 3);
	loader_kick(rig->loader);
	assert_true(reached(&rig->n_background_done, 3));
	assert_int_equal(atomic_load(&rig->n_background_bad), 1);
	loader_stats(rig->loader, &stats);
	assert_int_equal(stats.by[LOAD_GRADUATION].failed, 1);
}

/* Half of the bytes, and half of the rest: another step, until a block is not whole. */
static void test_short_reads(void **state)
{
	struct rig *rig = need_backend(state);

	start(rig, 1, 2);
	inject(0, 5, -1);
	assert_int_equal(demand_now(rig, false, 5000, 60000), 0);
	if (rig->direct_fd >= 0) {
		inject(0, 3, -1); /* of 16 blocks: 8, 4, 2 */
		assert_int_equal(demand_now(rig, true, 4096, 65536), 0);
		inject(0, 5, -1); /* ... 1, half a block: as at the end of a file */
		assert_int_equal(demand_now(rig, true, 4096, 65536), -EIO);
	}
	inject(0, 0, -1);
}

static void test_end_of_file(void **state)
{
	struct rig *rig = need_backend(state);

	start(rig, 1, 2);
	for (unsigned direct = 0; direct < 2; direct++) {
		assert_int_equal(demand_now(rig, direct, FILE_BYTES - 1, 2), -EIO);
		assert_int_equal(demand_now(rig, direct, FILE_BYTES - 6000, 6001), -EIO);
		assert_int_equal(demand_now(rig, direct, FILE_BYTES + 4096, 1), -EIO);
		assert_int_equal(demand_now(rig, direct, 1ull << 40, 65536), -EIO);
		assert_int_equal(demand_now(rig, direct, FILE_BYTES - 6000, 6000), 0);
	}
}

static void test_bad_loads(void **state)
{
	struct rig *rig = need_backend(state);
	int fd = rig->fd, closed = dup(rig->fd);

	start(rig, 1, 2);
	assert_int_equal(demand_now(rig, true, 0, 0), -EINVAL);
	assert_int_equal(demand_now(rig, true, 0, LOADER_DEMAND_BYTES + 1), -EINVAL);
	assert_int_equal(demand_now(rig, true, 0, UINT32_MAX), -EINVAL);
	assert_int_equal(demand_now(rig, true, UINT64_MAX, 1), -EINVAL);
	assert_int_equal(demand_now(rig, false, INT64_MAX, 4096), -EINVAL);
	close(closed);
	rig->fd = closed;
	assert_int_equal(demand_now(rig, false, 0, 4096), -EBADF);
	rig->fd = -1;
	assert_int_equal(demand_now(rig, false, 0, 4096), -EBADF);
	rig->fd = fd;
	assert_int_equal(demand_now(rig, false, 0, 4096), 0);
}

/* What has no O_DIRECT after all is read through the page cache. */
static void test_direct_fallback(void **state)
{
	struct rig *rig = need_backend(state);
	struct loader_stats stats;

	if (rig->direct_fd < 0)
		skip();
	start(rig, 1, 2);
	inject(-EINVAL, 1000, rig->direct_fd);
	assert_int_equal(demand_now(rig, true, 5000, 60000), 0);
	assert_int_equal(demand_now(rig, true, FILE_BYTES - 6000, 6000), 0);
	loader_stats(rig->loader, &stats);
	assert_int_equal(stats.by[LOAD_DEMAND].direct, 0);
	assert_int_equal(stats.by[LOAD_DEMAND].reads, 2);
	inject(0, 0, -1);
	assert_int_equal(demand_now(rig, true, 5000, 60000), 0);
	loader_stats(rig->loader, &stats);
	assert_int_equal(stats.by[LOAD_DEMAND].direct, 1);
}

/* ---- the kernel says no -----------------------------------------------------------------------
 */

/* A seccomp filter that comes later must not leave anybody waiting. */
static void test_ring_refused(void **state)
{
	struct rig *rig = need_backend(state);

	start(rig, 2, 2);
	assert_int_equal(demand_now(rig, true, 1, 1), 0);
	atomic_store(&rig->n_left, 1000);
	loader_kick(rig->loader);
	for (unsigned i = 0; i < 200; i++) {
		if (i == 50)
			atomic_store(&fault.refuse, -EPERM);
		demand(rig, i % 2, i * 5000, 5000);
	}
	assert_true(reached(&rig->n_done, 201));
	assert_int_equal(demand_now(rig, true, 1, 1), 0);
	atomic_store(&rig->n_left, 2);
	loader_kick(rig->loader);
	assert_int_equal(atomic_load(&rig->n_bad), 0);
	assert_int_equal(atomic_load(&rig->n_background_bad), 0);
}

static void test_no_rings(void **state)
{
	struct rig *rig = need_backend(state);
	struct loader_options options = {.backend = rig->backend};
	struct loader_stats stats;

	(void)loader_io_uring_probe(); /* has been allowed, but limits only permit so many */
	atomic_store(&fault.no_rings, 2);
	if (rig->backend == LOADER_IO_URING)
		assert_int_equal(loader_new(&options, &rig->loader), -ENOMEM);
	options.backend = LOADER_AUTO;
	atomic_store(&fault.no_rings, 2);
	assert_int_equal(loader_new(&options, &rig->loader), 0);
	loader_stats(rig->loader, &stats);
	assert_string_equal(stats.backend, "threads");
	assert_int_equal(demand_now(rig, true, 1, 1), 0);
}

/* ---- threads ----------------------------------------------------------------------------------
 */

/* Call @f with each thread of the loader and whether it is of the background. Return: how many */
static unsigned each_worker(void (*f)(int tid, bool background, uint64_t *sum), uint64_t *sum)
{
	DIR *d = opendir("/proc/self/task");
	unsigned n = 0;

	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));) {
		char path[300], name[32] = "";
		FILE *file;

		(void)snprintf(path, sizeof(path), "/proc/self/task/%s/comm", e->d_name);
		file = e->d_name[0] == '.' ? NULL : fopen(path, "re");
		if (!file)
			continue;
		assert_non_null(fgets(name, sizeof(name), file));
		(void)fclose(file);
		if (strncmp(name, "dorm-", 5) != 0)
			continue;
		f(atoi(e->d_name), strcmp(name, "dorm-load\n") == 0, sum);
		n++;
	}
	closedir(d);
	return n;
}

static void check_priority(int tid, bool background, uint64_t *sum)
{
	long io = syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid);

	assert_int_equal(getpriority(PRIO_PROCESS, (id_t)tid),
			 background ? getpriority(PRIO_PROCESS, 0) + 10
				    : getpriority(PRIO_PROCESS, 0));
	assert_true(io >= 0);
	if (background)
		assert_int_equal(io, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 7));
	*sum += background;
}

static void test_priorities(void **state)
{
	struct rig *rig = need_backend(state);
	uint64_t n = 0;

	if (getpriority(PRIO_PROCESS, 0) != 0)
		skip(); /* how many steps there are is another matter then */
	start(rig, 2, 3);
	atomic_store(&rig->n_hold, 1); /* all of them have begun to work */
	atomic_store(&rig->n_left, 3);
	loader_kick(rig->loader);
	assert_true(reached(&rig->n_background_in_done, 3));
	assert_int_equal(each_worker(check_priority, &n), 5);
	assert_int_equal(n, 3);
}

static void add_switches(int tid, bool background, uint64_t *sum)
{
	char path[64], line[128];
	unsigned long long n;
	FILE *file;

	(void)snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	file = fopen(path, "re");
	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "voluntary_ctxt_switches: %llu", &n) == 1 ||
		    sscanf(line, "nonvoluntary_ctxt_switches: %llu", &n) == 1)
			*sum += n;
	(void)fclose(file);
}

static void ignore(int tid, bool background, uint64_t *sum)
{
}

/* With nothing to do, no thread does anything: none of them is on a processor even once. */
static void test_idle(void **state)
{
	struct rig *rig = need_backend(state);
	uint64_t before = 0, after = 1;

	start(rig, 2, 3);
	for (unsigned i = 0; i < 50; i++)
		demand(rig, i % 2, i * 5000, 5000);
	atomic_store(&rig->n_left, 5);
	loader_kick(rig->loader);
	assert_true(reached(&rig->n_done, 50));
	assert_true(reached(&rig->n_asked, 6));
	assert_true(reached(&rig->n_background_done, 5));
	for (unsigned i = 0; before != after && i < 50; i++) { /* what is under way, at its pace */
		before = after = 0;
		assert_int_equal(each_worker(add_switches, &before), 5);
		clock_sleep_ms(400);
		assert_int_equal(each_worker(add_switches, &after), 5);
	}
	assert_int_equal(before, after);
	assert_int_equal(demand_now(rig, true, 1, 1), 0); /* and they are there when needed */
	after = 0;
	(void)each_worker(add_switches, &after);
	assert_true(after > before);
}

/* Everything that was submitted is done, the background stops, nothing is left. */
static void test_stop_busy(void **state)
{
	struct rig *rig = need_backend(state);
	struct load *late;
	unsigned pulled;

	disk.background_ms = 10;
	disk.demand_ms = 1;
	start(rig, 2, 3);
	atomic_store(&rig->n_left, 100000);
	loader_kick(rig->loader);
	assert_true(reached(&disk.n_background, 1));
	late = slot(rig, true, 5, 5);
	for (unsigned i = 0; i < 100; i++)
		demand(rig, i % 2, i * 5000, 5000);
	loader_quiesce(rig->loader);
	assert_int_equal(atomic_load(&rig->n_done), 100);
	pulled = atomic_load(&rig->n_pulled);
	assert_int_equal(atomic_load(&rig->n_background_done), pulled);
	assert_int_equal(atomic_load(&disk.n_now), 0);
	for (unsigned i = 0; each_worker(ignore, NULL) && i < 1000; i++)
		clock_sleep_ms(1); /* joined, and not quite gone */
	assert_int_equal(each_worker(ignore, NULL), 0);
	assert_null(loader_get(rig->loader));
	loader_submit(rig->loader, late);
	assert_int_equal(atomic_load(&rig->n_done), 101);
	assert_int_equal(atomic_load(&rig->last_result), -ECANCELED);
	loader_kick(rig->loader);
	loader_quiesce(rig->loader);
	assert_int_equal(atomic_load(&rig->n_pulled), pulled);
	assert_int_equal(atomic_load(&rig->n_bad), 0);
}

struct feeder {
	struct rig *rig;
	pthread_t thread;
	uint64_t seed;
	unsigned n;
};

static void *feed(void *userdata)
{
	struct feeder *f = userdata;

	while (f->n < 500) {
		struct load *l = loader_get(f->rig->loader);
		uint32_t len = 1 + (uint32_t)random_below(&f->seed, LOADER_DEMAND_BYTES);

		if (!l) {
			clock_sleep_ms(1);
			continue;
		}
		l->fd = f->rig->fd;
		l->direct_fd = f->n % 2 ? f->rig->direct_fd : -1;
		l->offset = random_below(&f->seed, FILE_BYTES - len);
		l->len = len;
		l->done = demand_done;
		l->owner = f->rig;
		loader_submit(f->rig->loader, l);
		loader_kick(f->rig->loader);
		f->n++;
	}
	return NULL;
}

/* Many at once, with a background; for the sanitizers above all. */
static void test_storm(void **state)
{
	struct rig *rig = need_backend(state);
	struct feeder feeders[4];
	struct loader_stats stats;

	start(rig, 2, 3);
	atomic_store(&rig->n_left, 50);
	for (unsigned i = 0; i < 4; i++) {
		feeders[i] = (struct feeder){.rig = rig, .seed = i};
		assert_int_equal(pthread_create(&feeders[i].thread, NULL, feed, &feeders[i]), 0);
	}
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_join(feeders[i].thread, NULL), 0);
	assert_true(reached(&rig->n_done, 2000));
	assert_true(reached(&rig->n_background_done, 50));
	assert_int_equal(atomic_load(&rig->n_bad), 0);
	loader_stats(rig->loader, &stats);
	assert_int_equal(stats.by[LOAD_DEMAND].reads, 2000);
	assert_int_equal(stats.slots_used, 0);
}

static void test_options(void **state)
{
	struct rig *rig = need_backend(state);
	struct loader_options options = {.backend = rig->backend, .n_demand = 1000};
	struct loader_stats stats;

	assert_int_equal(loader_new(&options, &rig->loader), -EINVAL);
	options = (struct loader_options){.backend = rig->backend};
	assert_int_equal(loader_new(&options, &rig->loader), 0);
	loader_kick(rig->loader); /* without a source there is nothing */
	assert_int_equal(demand_now(rig, true, 1, 1), 0);
	loader_stats(rig->loader, &stats);
	assert_int_equal(stats.n_demand, 2);
	assert_true(stats.n_background >= 2 && stats.n_background <= 16);
}

static enum loader_backend uring = LOADER_IO_URING, threads = LOADER_THREADS;

#define BOTH(_f)                                                                                   \
	{#_f " (io_uring)", _f, setup, teardown, &uring},                                          \
	{                                                                                          \
#_f " (threads)", _f, setup, teardown, &threads                                    \
	}

TEST_MAIN(BOTH(test_demand), BOTH(test_spread), BOTH(test_depth), BOTH(test_pool),
	  BOTH(test_background), BOTH(test_no_read), BOTH(test_workers_busy),
	  BOTH(test_demand_busy), BOTH(test_overtake), BOTH(test_one_at_a_time), BOTH(test_errors),
	  BOTH(test_short_reads), BOTH(test_end_of_file), BOTH(test_bad_loads),
	  BOTH(test_direct_fallback), BOTH(test_ring_refused), BOTH(test_no_rings),
	  BOTH(test_priorities), BOTH(test_idle), BOTH(test_stop_busy), BOTH(test_storm),
	  BOTH(test_options))
