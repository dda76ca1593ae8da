/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench-loader.c - the pager's loader: how fast the background is, and what it costs a fault
 *
 * Throughput: an image of pages that do not compress, every frame read in order through the
 * loader's background and verified, against a loop of direct reads of the same size in one thread
 * and against reading the file when it is cached. They take turns; ratios are of the same round.
 *
 * Latency: single frames at random places, one after the other, read directly; from
 * loader_submit() to done(). Against pread() of the same frames in the thread that wants them; with
 * the loader idle, and with a background that never ends.
 *
 * Prints one JSON object per line, as bench-layer.
 *
 *     bench-loader [--dir DIR] [--size MIB] [--rounds N] [--faults N]
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/image.h"
#include "pager/loader.h"

#define MAX_ROUNDS 64u
#define MAX_FAULTS 100000u
#define MIB	   (1ull << 20)
#define DIR_NAME   "bench-loader.image"

struct bench {
	int dirfd;
	uint64_t size;
	unsigned rounds;
	unsigned n_faults;
	struct image *image;
	uint32_t n_frames;
	struct frame_extent first; /* descriptors, and where the frames begin */
	uint8_t *buffer;	   /* a MiB, and LOADER_READ_BYTES */
	struct loader *loader;
	const char *backend;

	/* the source */
	bool endless;
	bool stop;	     /* atomic */
	uint32_t next_frame; /* under the loader's turn */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	uint32_t n_verified; /* frames, under lock */
	bool demand_done;    /* under lock */
	uint64_t demand_ns;
};

static void require(bool ok, const char *what)
{
	if (ok)
		return;
	(void)fprintf(stderr, "bench-loader: %s failed: %s\n", what, strerror(errno));
	exit(1);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void print_value(const char *metric, const char *unit, double value, const double *sorted,
			unsigned n, const char *from, const char *to)
{
	double median = n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;

	(void)printf("{\"metric\": \"%s\", \"value\": %.6g, \"unit\": \"%s\", \"min\": %.6g, "
		     "\"median\": %.6g, \"max\": %.6g, \"n\": %u, \"from\": \"%s\", \"to\": "
		     "\"%s\"}\n",
		     metric, value, unit, sorted[0], median, sorted[n - 1], n, from, to);
	(void)fflush(stdout);
}

static void print(const char *metric, const char *unit, double *values, unsigned n,
		  const char *from, const char *to)
{
	qsort(values, n, sizeof(*values), compare);
	print_value(metric, unit, n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2,
		    values, n, from, to);
}

static uint64_t noise(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

/* ---- an image ---------------------------------------------------------------------------------
 */

static void make_image(struct bench *b)
{
	struct image_writer_options options = {.codec = IMAGE_CODEC_NONE};
	struct image_writer_stats stats;
	struct image_writer *w;
	struct image *zero;
	char id[IMAGE_ID_LEN + 1];
	uint64_t x = 88172645463325252ull;
	int fd;

	require(file_remove_tree(b->dirfd, DIR_NAME) == 0, "removing an image");
	require(mkdirat(b->dirfd, DIR_NAME, 0700) == 0, "mkdir");
	fd = file_open_dir(b->dirfd, DIR_NAME);
	require(image_open_zero(b->size / DORM_PAGE_SIZE, &zero) == 0, "an image of zeros");
	require(image_writer_new(fd, zero, -1, &options, NULL, &w) == 0, "an image writer");
	for (uint64_t at = 0; at < b->size; at += MIB) {
		for (uint64_t i = 0; i < MIB; i += 8)
			*(uint64_t *)(b->buffer + i) = noise(&x);
		require(image_writer_add(w, at / DORM_PAGE_SIZE, MIB / DORM_PAGE_SIZE, b->buffer,
					 NULL) == 0,
			"adding pages");
	}
	require(image_writer_commit(w, &stats, id, NULL) == 0, "committing");
	image_writer_free(w);
	image_unref(zero);
	require(image_open(fd, NULL, NULL, &b->image) == 0, "opening the image");
	close(fd);
	require(file_remove_tree(b->dirfd, DIR_NAME) == 0, "removing an image");
	b->n_frames = image_layer_frames(b->image, 0);
	image_frame_extent(b->image, 0, 0, &b->first);
	require(b->first.direct_fd >= 0, "opening with O_DIRECT");
	require((uint64_t)b->n_frames * IMAGE_FRAME_BYTES == b->size, "an image of full frames");
}

static void drop(struct bench *b)
{
	require(posix_fadvise(b->first.fd, 0, 0, POSIX_FADV_DONTNEED) == 0, "dropping the cache");
}

/* ---- the source -------------------------------------------------------------------------------
 */

static void verify(struct bench *b, struct load *l, uint8_t *data)
{
	uint32_t first = (uint32_t)l->arg[0], n = (uint32_t)l->arg[1], n_pages;

	for (uint32_t i = 0; i < n; i++) {
		uint8_t *frame = data + (uint64_t)i * IMAGE_FRAME_BYTES;

		require(image_decode_frame(b->image, 0, first + i, frame, frame, &n_pages, NULL) ==
				0,
			"verifying a frame");
	}
}

static void background_done(struct load *l, struct load_buffers *buffers, const uint8_t *data,
			    int result)
{
	struct bench *b = l->owner;

	errno = -result;
	require(result == 0, "reading in the background");
	verify(b, l, buffers->read + (data - buffers->read));
	pthread_mutex_lock(&b->lock);
	b->n_verified += (uint32_t)l->arg[1];
	pthread_cond_signal(&b->cond);
	pthread_mutex_unlock(&b->lock);
}

static bool next(void *ctx, struct load *l)
{
	struct bench *b = ctx;
	uint32_t n;

	if (b->endless && b->next_frame == b->n_frames)
		b->next_frame = 0;
	n = MIN(b->n_frames - b->next_frame, LOADER_READ_BYTES / (uint32_t)IMAGE_FRAME_BYTES);
	if (n == 0 || __atomic_load_n(&b->stop, __ATOMIC_ACQUIRE))
		return false;
	l->fd = b->first.fd;
	l->direct_fd = b->first.direct_fd;
	l->offset = b->first.offset + (uint64_t)b->next_frame * IMAGE_FRAME_BYTES;
	l->len = n * (uint32_t)IMAGE_FRAME_BYTES;
	l->done = background_done;
	l->owner = b;
	l->arg[0] = b->next_frame;
	l->arg[1] = n;
	b->next_frame += n;
	return true;
}

static void start(struct bench *b, enum loader_backend backend)
{
	struct loader_options options = {.backend = backend, .next = next, .ctx = b};

	b->next_frame = 0;
	b->n_verified = 0;
	b->stop = false;
	errno = -loader_new(&options, &b->loader);
	require(errno == 0, "starting a loader");
}

/* ---- throughput -------------------------------------------------------------------------------
 */

static double rate(const struct bench *b, uint64_t start_ns)
{
	return (double)b->size / 1e9 / ((double)(clock_now_ns() - start_ns) / 1e9);
}

static double through_loader(struct bench *b, enum loader_backend backend)
{
	uint64_t from;
	double result;

	b->endless = false;
	drop(b);
	start(b, backend);
	from = clock_now_ns();
	loader_kick(b->loader);
	pthread_mutex_lock(&b->lock);
	while (b->n_verified < b->n_frames)
		pthread_cond_wait(&b->cond, &b->lock);
	pthread_mutex_unlock(&b->lock);
	result = rate(b, from);
	b->loader = loader_free(b->loader);
	return result;
}

static double plainly(struct bench *b, int fd)
{
	uint64_t from = clock_now_ns();

	for (uint64_t at = 0; at < b->size; at += LOADER_READ_BYTES)
		require(fd_pread_full(fd, b->buffer, LOADER_READ_BYTES, b->first.offset + at) == 0,
			"reading");
	return rate(b, from);
}

/* The second time: the first one fills the cache. */
static double cached(struct bench *b)
{
	(void)plainly(b, b->first.fd);
	return plainly(b, b->first.fd);
}

static void metric(char out[64], const struct bench *b, const char *name)
{
	(void)snprintf(out, 64, "loader_%s_%s", b->backend, name);
}

static void bench_throughput(struct bench *b, enum loader_backend backend)
{
	double direct[MAX_ROUNDS], loader[MAX_ROUNDS], hot[MAX_ROUNDS], ratio[MAX_ROUNDS],
		hot_ratio[MAX_ROUNDS];
	char name[64];

	for (unsigned r = 0; r < b->rounds; r++) {
		bool first = r % 2; /* whoever comes first may have it harder */

		hot[r] = cached(b);
		drop(b);
		if (first)
			loader[r] = through_loader(b, backend);
		direct[r] = plainly(b, b->first.direct_fd);
		if (!first)
			loader[r] = through_loader(b, backend);
		ratio[r] = loader[r] / direct[r];
		hot_ratio[r] = loader[r] / hot[r];
	}
	metric(name, b, "direct_loop");
	print(name, "GB/s", direct, b->rounds, "O_DIRECT pread of 1 MiB in order, one thread",
	      "bytes in memory, not verified");
	metric(name, b, "cached_loop");
	print(name, "GB/s", hot, b->rounds, "pread of 1 MiB in order, all cached",
	      "bytes in memory, not verified");
	metric(name, b, "cold_read");
	print(name, "GB/s", loader, b->rounds, "loader_kick, nothing cached",
	      "every frame verified");
	metric(name, b, "cold_ratio");
	print(name, "ratio", ratio, b->rounds, "every frame through the background, verified",
	      "O_DIRECT pread loop, taking turns");
	metric(name, b, "cold_to_cached_ratio");
	print(name, "ratio", hot_ratio, b->rounds, "every frame through the background, verified",
	      "pread loop of the cached file, taking turns");
}

/* ---- latency ----------------------------------------------------------------------------------
 */

static void demand_done(struct load *l, struct load_buffers *buffers, const uint8_t *data,
			int result)
{
	struct bench *b = l->owner;
	uint64_t now = clock_now_ns();

	errno = -result;
	require(result == 0, "a demand read");
	pthread_mutex_lock(&b->lock);
	b->demand_ns = now - l->queued_ns;
	b->demand_done = true;
	pthread_cond_signal(&b->cond);
	pthread_mutex_unlock(&b->lock);
	loader_put(b->loader, l);
}

static double fault(struct bench *b, uint64_t offset)
{
	struct load *l = loader_get(b->loader);

	require(l, "getting a slot");
	l->fd = b->first.fd;
	l->direct_fd = b->first.direct_fd;
	l->offset = offset;
	l->len = (uint32_t)IMAGE_FRAME_BYTES;
	l->done = demand_done;
	l->owner = b;
	b->demand_done = false;
	loader_submit(b->loader, l);
	pthread_mutex_lock(&b->lock);
	while (!b->demand_done)
		pthread_cond_wait(&b->cond, &b->lock);
	pthread_mutex_unlock(&b->lock);
	return (double)b->demand_ns / 1e3;
}

static double read_here(struct bench *b, uint64_t offset)
{
	uint64_t from = clock_now_ns();

	require(fd_pread_full(b->first.direct_fd, b->buffer, IMAGE_FRAME_BYTES, offset) == 0,
		"reading");
	return (double)(clock_now_ns() - from) / 1e3;
}

static void print_latency(const struct bench *b, const char *what, double *us, const char *from,
			  const char *to)
{
	static const unsigned percent[] = {50, 99};
	char name[64], last[48];

	qsort(us, b->n_faults, sizeof(*us), compare);
	for (unsigned i = 0; i < 2; i++) {
		(void)snprintf(last, sizeof(last), "%s_p%u", what, percent[i]);
		metric(name, b, last);
		print_value(name, "us", us[(uint64_t)(b->n_faults - 1) * percent[i] / 100], us,
			    b->n_faults, from, to);
	}
}

static void bench_latency(struct bench *b, enum loader_backend backend, bool busy)
{
	double *here = calloc(b->n_faults, sizeof(*here)), *us = calloc(b->n_faults, sizeof(*us));
	uint64_t x = 88172645463325252ull, from = clock_now_ns();
	char name[64];

	require(here && us, "memory");
	drop(b);
	b->endless = true;
	start(b, backend);
	if (busy)
		loader_kick(b->loader);
	for (unsigned i = 0; i < b->n_faults; i++) {
		uint64_t offset = b->first.offset + noise(&x) % b->n_frames * IMAGE_FRAME_BYTES;

		if (!busy)
			here[i] = read_here(b, offset);
		us[i] = fault(b, b->first.offset + noise(&x) % b->n_frames * IMAGE_FRAME_BYTES);
	}
	__atomic_store_n(&b->stop, true, __ATOMIC_RELEASE);
	b->loader = loader_free(b->loader);
	if (busy) {
		double meanwhile = (double)b->n_verified * IMAGE_FRAME_BYTES / 1e9 /
				   ((double)(clock_now_ns() - from) / 1e9);

		metric(name, b, "background_meanwhile");
		print_value(name, "GB/s", meanwhile, &meanwhile, 1,
			    "the background, while demand reads follow each other",
			    "every frame verified");
	} else
		print_latency(b, "pread_here", here, "O_DIRECT pread of a frame",
			      "it has returned, in the same thread");
	print_latency(b, busy ? "demand_busy" : "demand_idle", us,
		      busy ? "loader_submit, the background reads all the time"
			   : "loader_submit, the loader is idle",
		      "done() is called");
	free(here);
	free(us);
}

/* ---- */

static uint64_t parse_number(const char *text, uint64_t max)
{
	uint64_t n;

	if (str_to_u64(text, &n) == 0 && n >= 1 && n <= max)
		return n;
	(void)fprintf(stderr, "bench-loader: \"%s\" is not a number from 1 to %llu\n", text,
		      (unsigned long long)max);
	exit(2);
}

static void parse(int argc, char **argv, struct bench *b)
{
	static const struct option options[] = {{"dir", required_argument, NULL, 'd'},
						{"size", required_argument, NULL, 's'},
						{"rounds", required_argument, NULL, 'n'},
						{"faults", required_argument, NULL, 'f'},
						{0}};
	const char *dir = ".";
	int c;

	*b = (struct bench){.size = 1024 * MIB,
			    .rounds = 5,
			    .n_faults = 2000,
			    .lock = PTHREAD_MUTEX_INITIALIZER,
			    .cond = PTHREAD_COND_INITIALIZER};
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'd')
			dir = optarg;
		else if (c == 's')
			b->size = parse_number(optarg, 1 << 20) * MIB;
		else if (c == 'n')
			b->rounds = (unsigned)parse_number(optarg, MAX_ROUNDS);
		else if (c == 'f')
			b->n_faults = (unsigned)parse_number(optarg, MAX_FAULTS);
		else
			exit(2);
	}
	b->dirfd = file_open_dir(AT_FDCWD, dir);
	require(b->dirfd >= 0, "opening the directory");
}

static void bench_backend(struct bench *b, enum loader_backend backend, const char *name)
{
	b->backend = name;
	bench_throughput(b, backend);
	bench_latency(b, backend, false);
	bench_latency(b, backend, true);
}

int main(int argc, char **argv)
{
	struct bench b;

	parse(argc, argv, &b);
	b.buffer = aligned_alloc(DORM_PAGE_SIZE, MAX(MIB, LOADER_READ_BYTES));
	require(b.buffer, "memory");
	make_image(&b);
	bench_backend(&b, LOADER_THREADS, "threads");
	bench_backend(&b, LOADER_IO_URING, "io_uring");
	image_unref(b.image);
	free(b.buffer);
	close(b.dirfd);
	return 0;
}
