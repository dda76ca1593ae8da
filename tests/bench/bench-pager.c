/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench-pager - the pager against loops that do nothing but the work
 *
 *     bench-pager WHAT --control SOCKET --image DIR --pages N [--mode MODE] [--rounds N]
 *
 *     warm         touching every page of an image that is resident; against a plain mapping
 *     resident     a fault of a page that is resident, in copy mode; against poll, read,
 * UFFDIO_COPY cached       the same of a frame that only the page cache has fill         loading
 * all of an image; against UFFDIO_COPYs of 2 MiB fill-cached  the same into a VM's own memory, of
 * an image that only the page cache has unpack       the same of a compressed image; against
 * decompression on all cores demand       faults while everything is loaded in the background;
 * against faults alone
 *
 * The pager is one that runs already, with --linger 0 for cached, unpack and demand. Measured and
 * raw rounds take turns, each measured one in a process of its own, for a session lasts as long as
 * its process. What counts is the median of the rounds' ratios. Prints one JSON object per figure,
 * as bench-layer does.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "bench-pager-raw.h"
#include "trace.h"
#include "vm-client.h"

#define MAX_ROUNDS  64u
#define FAULT_NS    2500u /* a touch below that asked nobody */
#define FRAME_PAGES 16u
#define LOAD_MS	    120000u

struct bench {
	const char *control, *image, *mode;
	uint64_t n_pages;
	unsigned rounds;
	unsigned think_us; /* between two touches */
};

/* What a measured process leaves for its parent; in shared memory. */
struct outcome {
	int status; /* 0; 1: it failed */
	uint64_t ns;
	uint64_t faults, bytes_read;
	uint32_t n;
	uint32_t samples[]; /* of touches, in ns */
};

/* ---- printing ---------------------------------------------------------------------------------
 */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *v, unsigned n)
{
	qsort(v, n, sizeof(*v), compare);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static void print(const char *metric, const char *unit, double *v, unsigned n, const char *from,
		  const char *to)
{
	double m = median(v, n);

	(void)printf(
		"{\"metric\": \"%s\", \"value\": %.6g, \"unit\": \"%s\", \"min\": %.6g, "
		"\"median\": %.6g, \"max\": %.6g, \"n\": %u, \"from\": \"%s\", \"to\": \"%s\"}\n",
		metric, m, unit, v[0], m, v[n - 1], n, from, to);
	(void)fflush(stdout);
}

static int compare_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* Of the samples of at least @least ns. */
static double percentile(struct outcome *o, double share, uint32_t least)
{
	uint32_t first = 0;

	qsort(o->samples, o->n, sizeof(o->samples[0]), compare_u32);
	while (first < o->n && o->samples[first] < least)
		first++;
	if (first == o->n)
		return 0;
	return o->samples[first +
			  MIN(o->n - first - 1, (uint32_t)((double)(o->n - first) * share))];
}

/* ---- touching ---------------------------------------------------------------------------------
 */

static uint64_t touch(const uint8_t *p)
{
	uint64_t start = clock_now_ns();

	(void)*(const volatile uint8_t *)p;
	return clock_now_ns() - start;
}

/* One page of each frame, in random order; memory in one piece. */
static void touch_frames(const struct bench *b, const uint8_t *memory, struct outcome *o)
{
	uint64_t n = b->n_pages / FRAME_PAGES, us;
	_cleanup_(trace_freep) struct trace *t = NULL;

	raw_require(trace_new("frames", b->n_pages, 1, 0, 1, &t) == 0, "a trace");
	for (uint64_t i = 0; i < n; i++) {
		uint64_t ns = touch(memory + trace_next(t, &us) * DORM_PAGE_SIZE);

		o->samples[o->n++] = (uint32_t)MIN(ns, (uint64_t)UINT32_MAX);
		if (b->think_us)
			(void)usleep(b->think_us);
	}
}

static uint64_t touch_all(const uint8_t *memory, uint64_t n_pages)
{
	uint64_t start = clock_now_ns();

	for (uint64_t i = 0; i < n_pages; i++)
		(void)*(const volatile uint8_t *)(memory + i * DORM_PAGE_SIZE);
	return clock_now_ns() - start;
}

/* ---- a measured process -----------------------------------------------------------------------
 */

typedef void work_fn(const struct bench *b, struct vm_client *c, struct outcome *o);

static struct outcome *new_outcome(const struct bench *b)
{
	struct outcome *o = mmap(NULL, sizeof(*o) + b->n_pages * sizeof(o->samples[0]),
				 PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	raw_require(o != MAP_FAILED, "memory");
	return o;
}

static uint64_t number(const json_t *stats, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(stats, name));
}

static void be_a_vm(const struct bench *b, const char *load, work_fn *work, struct outcome *o)
{
	struct vm_client_options options = {.control = b->control,
					    .session = "bench",
					    .image = b->image,
					    .n_pages = b->n_pages,
					    .mode = b->mode,
					    .load = load};
	struct problem problem = PROBLEM_INIT;
	struct vm_client c;
	json_auto_t *stats = NULL;
	int r = vm_client_attach(&options, &problem, &c);

	if (r) {
		(void)fprintf(stderr, "bench-pager: %s\n", problem.message);
		o->status = 1;
		return;
	}
	work(b, &c, o);
	stats = vm_client_stats(b->control, "bench");
	o->faults = number(stats, "faults");
	o->bytes_read = number(stats, "bytes_read");
}

/* The pager notices the end of a process a moment later. */
static void wait_until_gone(const struct bench *b)
{
	for (int i = 0; i < 5000; i++) {
		json_auto_t *reply = NULL;

		raw_require(vm_client_call(b->control, json_pack("{s:s}", "op", "stats"), NULL, 0,
					   NULL, &reply, NULL) == 0,
			    "asking the pager");
		if (json_array_size(json_object_get(json_object_get(reply, "stats"), "sessions")) ==
		    0)
			return;
		clock_sleep_ms(2);
	}
	raw_require(false, "waiting for the end of a session");
}

/* Return: 0 in a new process; 1 in this one, when that has ended. */
static int in_a_child(struct outcome *o)
{
	pid_t pid = fork();
	int status;

	raw_require(pid >= 0, "a process");
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		*o = (struct outcome){0};
		return 0;
	}
	raw_require(waitpid(pid, &status, 0) == pid && status == 0, "the measured process");
	return 1;
}

static void measure(const struct bench *b, const char *load, work_fn *work, struct outcome *o)
{
	if (in_a_child(o) == 0) {
		be_a_vm(b, load, work, o);
		_exit(0);
	}
	raw_require(o->status == 0, "a session, and what was to be loaded for it");
	wait_until_gone(b);
}

static void work_touch_all(const struct bench *b, struct vm_client *c, struct outcome *o)
{
	o->ns = touch_all(vm_client_page(c, 0), b->n_pages);
}

static void work_touch_frames(const struct bench *b, struct vm_client *c, struct outcome *o)
{
	touch_frames(b, vm_client_page(c, 0), o);
}

/* Return: 1 done, 0 not yet; -1 failed */
static int loaded(const struct bench *b, uint64_t *ret_pages)
{
	json_auto_t *stats = vm_client_stats(b->control, "bench");
	const json_t *load = json_object_get(stats, "load");
	const char *state = json_string_value(json_object_get(load, "state"));

	if (!load)
		return -1;
	*ret_pages = number(load, "pages_done");
	if (state && !strcmp(state, "failed"))
		return -1;
	return state && !strcmp(state, "done");
}

static void work_wait_loaded(const struct bench *b, struct vm_client *c, struct outcome *o)
{
	uint64_t start = clock_now_ns(), pages, deadline = deadline_after_ms(LOAD_MS);
	int r;

	while ((r = loaded(b, &pages)) == 0 && !deadline_passed(deadline))
		clock_sleep_ms(1);
	o->ns = clock_now_ns() - start;
	o->status = r > 0 ? 0 : 1;
}

/* From the end, where background loading comes last; one page of each frame. */
static void work_demand(const struct bench *b, struct vm_client *c, struct outcome *o)
{
	uint64_t end = clock_now_ns() + 800000000, pages;

	if (loaded(b, &pages) < 0) {
		o->status = 1;
		return;
	}
	for (uint64_t i = b->n_pages / FRAME_PAGES; i-- > 0 && clock_now_ns() < end;) {
		uint64_t ns = touch(vm_client_page(c, i * FRAME_PAGES + i % FRAME_PAGES));

		o->samples[o->n++] = (uint32_t)MIN(ns, (uint64_t)UINT32_MAX);
		(void)usleep(200);
	}
}

/* ---- the figures ------------------------------------------------------------------------------
 */

static void raw_touch_all(const struct bench *b, int fd, struct outcome *o)
{
	uint64_t len = b->n_pages * DORM_PAGE_SIZE;
	uint8_t *p;

	if (in_a_child(o))
		return;
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	raw_require(p != MAP_FAILED, "a mapping");
	(void)madvise(p, len, MADV_NOHUGEPAGE);
	o->ns = touch_all(p, b->n_pages);
	_exit(0);
}

static void bench_warm(const struct bench *b)
{
	struct outcome *o = new_outcome(b);
	double ours[MAX_ROUNDS], raw[MAX_ROUNDS], ratio[MAX_ROUNDS], events[MAX_ROUNDS];
	int fd = raw_memfd(b->n_pages * DORM_PAGE_SIZE);

	measure(b, NULL, work_touch_all, o); /* fills the memory */
	measure(b, NULL, work_touch_all, o); /* and learns which pages are zero */
	for (unsigned r = 0; r < b->rounds; r++) {
		measure(b, NULL, work_touch_all, o);
		ours[r] = (double)o->ns / (double)b->n_pages;
		events[r] = (double)o->faults;
		raw_touch_all(b, fd, o);
		raw[r] = (double)o->ns / (double)b->n_pages;
		ratio[r] = ours[r] / raw[r];
	}
	print("warm_events", "events", events, b->rounds, "a session of a resident image",
	      "every page was touched");
	print("warm_ns_per_page", "ns", ours, b->rounds, "first page touched", "last page touched");
	print("warm_raw_ns_per_page", "ns", raw, b->rounds, "first page touched",
	      "last page touched, in a plain MAP_PRIVATE mapping of a populated memfd");
	print("warm_ratio", "x", ratio, b->rounds, "warm_ns_per_page", "warm_raw_ns_per_page");
}

/* The minimal handler once; leaves samples in @o. */
static void raw_faults(const struct bench *b, const uint8_t *source, struct outcome *o)
{
	uint8_t *p;
	pid_t pid;
	int uffd;

	if (in_a_child(o))
		return;
	p = raw_registered(b->n_pages * DORM_PAGE_SIZE, false, &uffd);
	pid = raw_handler(uffd, p, source);
	touch_frames(b, p, o);
	kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
	_exit(0);
}

static void bench_faults(const struct bench *b, const char *name, bool resident)
{
	uint64_t len = b->n_pages * DORM_PAGE_SIZE;
	struct outcome *o = new_outcome(b), *raw_o = new_outcome(b);
	double p50[MAX_ROUNDS], p99[MAX_ROUNDS], raw50[MAX_ROUNDS], raw99[MAX_ROUNDS];
	double ratio50[MAX_ROUNDS], ratio99[MAX_ROUNDS];
	int fd = raw_memfd(len);
	uint8_t *source = mmap(NULL, len, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
	char metric[64];

	raw_require(source != MAP_FAILED, "a mapping");
	if (resident) {
		struct bench shared = *b;

		shared.mode = "shared";
		measure(&shared, NULL, work_touch_all, o);
	}
	for (unsigned r = 0; r < b->rounds; r++) {
		measure(b, "demand", work_touch_frames, o);
		raw_faults(b, source, raw_o);
		p50[r] = percentile(o, 0.5, 0) / 1e3;
		p99[r] = percentile(o, 0.99, 0) / 1e3;
		raw50[r] = percentile(raw_o, 0.5, 0) / 1e3;
		raw99[r] = percentile(raw_o, 0.99, 0) / 1e3;
		ratio50[r] = p50[r] / raw50[r];
		ratio99[r] = p99[r] / raw99[r];
		if (resident && o->bytes_read)
			(void)fprintf(stderr, "bench-pager: %llu bytes of a resident image read\n",
				      (unsigned long long)o->bytes_read);
	}
#define PRINT(_what, _unit, _v, _from, _to)                                                        \
	(void)snprintf(metric, sizeof(metric), "%s_" _what, name);                                 \
	print(metric, _unit, _v, b->rounds, _from, _to)

	PRINT("p50_us", "us", p50, "a missing page is touched", "the touch is done");
	PRINT("p99_us", "us", p99, "a missing page is touched", "the touch is done");
	PRINT("raw_p50_us", "us", raw50, "a missing page is touched",
	      "the touch is done, by a loop of poll, read, UFFDIO_COPY");
	PRINT("raw_p99_us", "us", raw99, "a missing page is touched",
	      "the touch is done, by a loop of poll, read, UFFDIO_COPY");
	PRINT("p50_ratio", "x", ratio50, "p50_us", "raw_p50_us");
	PRINT("p99_ratio", "x", ratio99, "p99_us", "raw_p99_us");
#undef PRINT
	(void)munmap(source, len);
	close(fd);
}

static double gib_per_s(const struct bench *b, uint64_t ns)
{
	return (double)(b->n_pages * DORM_PAGE_SIZE) / (1ull << 30) / ((double)ns / 1e9);
}

static uint64_t raw_fill_ns(const struct bench *b, const uint8_t *source, bool shared)
{
	uint64_t len = b->n_pages * DORM_PAGE_SIZE, start, ns;
	int uffd;
	uint8_t *p = raw_registered(len, shared, &uffd);

	start = clock_now_ns();
	raw_fill(uffd, p, source, len);
	ns = clock_now_ns() - start;
	(void)munmap(p, len);
	close(uffd);
	return ns;
}

/*
 * In copy mode into a VM (graduation), from the resident memory or from what the page cache has;
 * otherwise into the resident memory (prefetch), from the page cache.
 */
static void bench_fill(const struct bench *b, bool cached)
{
	uint64_t len = b->n_pages * DORM_PAGE_SIZE;
	bool copy = b->mode && !strcmp(b->mode, "copy");
	struct outcome *o = new_outcome(b);
	double ours[MAX_ROUNDS], raw[MAX_ROUNDS], ratio[MAX_ROUNDS];
	const char *name = !copy ? "prefetch" : cached ? "graduation_cached" : "graduation";
	int fd = raw_memfd(len);
	uint8_t *source = mmap(NULL, len, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
	char metric[64];

	raw_require(source != MAP_FAILED, "a mapping");
	if (copy && !cached) {
		struct bench shared = *b;

		shared.mode = "shared";
		measure(&shared, "full", work_wait_loaded, o);
	}
	for (unsigned r = 0; r < b->rounds; r++) {
		measure(b, "full", work_wait_loaded, o);
		ours[r] = gib_per_s(b, o->ns);
		raw[r] = gib_per_s(b, raw_fill_ns(b, source, !copy));
		ratio[r] = ours[r] / raw[r];
	}
	(void)snprintf(metric, sizeof(metric), "%s_gib_per_s", name);
	print(metric, "GiB/s", ours, b->rounds, "the memory was handed over",
	      copy && !cached ? "all of it is loaded; the image was resident"
			      : "all of it is loaded; layers in the page cache, not compressed");
	(void)snprintf(metric, sizeof(metric), "%s_raw_gib_per_s", name);
	print(metric, "GiB/s", raw, b->rounds, "first UFFDIO_COPY of 2 MiB", "last one");
	(void)snprintf(metric, sizeof(metric), "%s_ratio", name);
	print(metric, "x", ratio, b->rounds, "gib_per_s", "raw_gib_per_s");
	(void)munmap(source, len);
	close(fd);
}

static void bench_unpack(const struct bench *b)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	struct outcome *o = new_outcome(b);
	double ours[MAX_ROUNDS], raw[MAX_ROUNDS], ratio[MAX_ROUNDS];
	_cleanup_fd_ int dirfd = file_open_dir(AT_FDCWD, b->image);

	raw_require(dirfd >= 0 && image_open(dirfd, NULL, NULL, &image) == 0, "opening the image");
	for (unsigned r = 0; r < b->rounds; r++) {
		uint64_t start;

		measure(b, "full", work_wait_loaded, o);
		ours[r] = gib_per_s(b, o->ns);
		start = clock_now_ns();
		raw_decompress(image);
		raw[r] = gib_per_s(b, clock_now_ns() - start);
		ratio[r] = ours[r] / raw[r];
	}
	print("zstd_load_gib_per_s", "GiB/s", ours, b->rounds, "the memory was handed over",
	      "all of a zstd image is loaded");
	print("zstd_raw_gib_per_s", "GiB/s", raw, b->rounds, "first frame",
	      "all of them read and decompressed on all cores, and forgotten");
	print("zstd_ratio", "x", ratio, b->rounds, "zstd_load_gib_per_s", "zstd_raw_gib_per_s");
}

static void bench_demand(const struct bench *b)
{
	struct outcome *o = new_outcome(b);
	double busy[MAX_ROUNDS], quiet[MAX_ROUNDS], ratio[MAX_ROUNDS], n[MAX_ROUNDS];

	for (unsigned r = 0; r < b->rounds; r++) {
		measure(b, "full", work_demand, o);
		busy[r] = percentile(o, 0.99, FAULT_NS) / 1e3;
		n[r] = 0;
		for (uint32_t i = 0; i < o->n; i++)
			n[r] += o->samples[i] >= FAULT_NS;
		measure(b, "demand", work_demand, o);
		quiet[r] = percentile(o, 0.99, FAULT_NS) / 1e3;
		ratio[r] = quiet[r] > 0 ? busy[r] / quiet[r] : 0;
	}
	print("demand_faults_while_loading", "faults", n, b->rounds, "all was to be loaded",
	      "touches that had to wait, in each round");
	print("demand_p99_while_loading_us", "us", busy, b->rounds, "a missing page is touched",
	      "the touch is done, while all is loaded in the background");
	print("demand_p99_quiet_us", "us", quiet, b->rounds, "a missing page is touched",
	      "the touch is done, with nothing loaded in the background");
	print("demand_p99_ratio", "x", ratio, b->rounds, "demand_p99_while_loading_us",
	      "demand_p99_quiet_us");
}

static int run(const struct bench *b, const char *what)
{
	struct bench paced = *b;

	paced.think_us = 100;
	if (!strcmp(what, "warm")) {
		bench_warm(b);
	} else if (!strcmp(what, "resident")) {
		bench_faults(b, "resident", true);
		bench_faults(&paced, "resident_paced", true);
	} else if (!strcmp(what, "cached")) {
		bench_faults(b, "cached", false);
		bench_faults(&paced, "cached_paced", false);
	} else if (!strcmp(what, "fill")) {
		bench_fill(b, false);
	} else if (!strcmp(what, "fill-cached")) {
		bench_fill(b, true);
	} else if (!strcmp(what, "unpack")) {
		bench_unpack(b);
	} else if (!strcmp(what, "demand")) {
		bench_demand(b);
	} else {
		return 2;
	}
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"control", required_argument, NULL, 'c'}, {"image", required_argument, NULL, 'i'},
		{"pages", required_argument, NULL, 'n'},   {"mode", required_argument, NULL, 'm'},
		{"rounds", required_argument, NULL, 'r'},  {0}};
	struct bench b = {.rounds = 9};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'c')
			b.control = optarg;
		else if (option == 'i')
			b.image = optarg;
		else if (option == 'n')
			b.n_pages = strtoull(optarg, NULL, 10);
		else if (option == 'm')
			b.mode = optarg;
		else if (option == 'r')
			b.rounds = (unsigned)atoi(optarg);
		else
			return 2;
	}
	if (optind + 1 != argc || !b.control || !b.image || b.n_pages < FRAME_PAGES ||
	    b.rounds == 0 || b.rounds > MAX_ROUNDS) {
		(void)fprintf(stderr, "usage: bench-pager WHAT --control SOCKET --image DIR "
				      "--pages N [--mode MODE] [--rounds N]\n");
		return 2;
	}
	(void)signal(SIGPIPE, SIG_IGN);
	return run(&b, argv[optind]);
}
