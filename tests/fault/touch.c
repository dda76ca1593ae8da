/* SPDX-License-Identifier: Apache-2.0 */
#include "touch.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "trace.h"

#define BLOCK_PAGES 16u
#define MAX_THREADS 64u
#define MAX_SAMPLES (4u << 20)
#define MAX_STALLS  4096u
#define STALL_NS    1000000u

enum state { IMAGE, WRITTEN, REMOVED, DROPPED };

struct stall {
	uint64_t start_ns;
	uint64_t ns;
};

struct toucher {
	struct touch *t;
	const struct touch_options *o;
	struct trace *trace;
	pthread_t thread;
	unsigned index;
	uint64_t random;
	uint64_t start_ns, end_ns;
	uint64_t touching, since_ns; /* for touch_stuck(); atomic */
	uint32_t *samples;	     /* of latency, in ns */
	uint32_t n_samples;
	uint32_t n_stalls;
	struct stall *stalls;
	uint8_t *seen;
	uint64_t touches, checked, wrong, written, removed, wrong_gfn;
	uint64_t sink;
};

struct touch {
	struct vm_client *c;
	const struct oracle *oracle;
	uint32_t *pages; /* enum state in the low bits, version above; of the owner alone */
	uint64_t seed;
	unsigned n_threads, owned_percent;
	struct toucher *running[MAX_THREADS]; /* atomic */
};

struct touch *touch_new(struct vm_client *c, const struct oracle *o)
{
	struct touch *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->c = c;
	t->oracle = o;
	t->pages = calloc(c->options.n_pages, sizeof(*t->pages));
	if (t->pages)
		return t;
	free(t);
	return NULL;
}

struct touch *touch_free(struct touch *t)
{
	if (t)
		free(t->pages);
	free(t);
	return NULL;
}

/* ---- what a page must hold --------------------------------------------------------------------
 */

static bool is_zero(const uint8_t *p)
{
	return p[0] == 0 && memcmp(p, p + 1, DORM_PAGE_SIZE - 1) == 0;
}

static bool page_is_wrong(const struct touch *t, uint64_t gfn, const uint8_t *p)
{
	uint64_t want[DORM_PAGE_SIZE / 8];

	switch ((enum state)(t->pages[gfn] & 3)) {
	case IMAGE:
		return oracle_differs(t->oracle, gfn, p);
	case WRITTEN:
		oracle_written(t->seed, gfn, t->pages[gfn] >> 2, want);
		return memcmp(want, p, DORM_PAGE_SIZE) != 0;
	case REMOVED:
		return !is_zero(p);
	case DROPPED:
		return !is_zero(p) && oracle_differs(t->oracle, gfn, p);
	}
	return true;
}

uint64_t touch_compare(struct touch *t, uint64_t seed, uint64_t *ret_wrong_gfn)
{
	_cleanup_(trace_freep) struct trace *order = NULL;
	uint64_t wrong = 0, us;

	if (trace_new("shuffled", t->c->options.n_pages, seed, 0, 1, &order) < 0)
		return UINT64_MAX;
	for (uint64_t i = 0; i < t->c->options.n_pages; i++) {
		uint64_t gfn = trace_next(order, &us);

		if (!page_is_wrong(t, gfn, vm_client_page(t->c, gfn)))
			continue;
		if (wrong++ == 0)
			*ret_wrong_gfn = gfn;
	}
	return wrong;
}

/* -1: everybody's */
static int owner_of(const struct touch *t, uint64_t gfn)
{
	uint64_t h = oracle_hash(t->seed ^ 0x6f776e6572, gfn / BLOCK_PAGES);

	return h % 100 < t->owned_percent ? (int)((h >> 32) % t->n_threads) : -1;
}

/* ---- touching ---------------------------------------------------------------------------------
 */

static void note_stall(struct toucher *k, uint64_t start, uint64_t ns)
{
	if (ns >= STALL_NS && k->n_stalls < MAX_STALLS)
		k->stalls[k->n_stalls++] = (struct stall){.start_ns = start, .ns = ns};
}

static void note_time(struct toucher *k, uint64_t start, uint64_t ns)
{
	if (k->n_samples < MAX_SAMPLES)
		k->samples[k->n_samples++] = (uint32_t)MIN(ns, (uint64_t)UINT32_MAX);
	note_stall(k, start, ns);
}

static void timed_touch(struct toucher *k, uint64_t gfn, bool write)
{
	volatile uint64_t *p = (volatile uint64_t *)vm_client_page(k->t->c, gfn);
	uint64_t start = clock_now_ns();

	__atomic_store_n(&k->touching, gfn, __ATOMIC_RELAXED);
	__atomic_store_n(&k->since_ns, start, __ATOMIC_RELEASE);
	if (write)
		*p = k->touches;
	else
		k->sink += *p;
	note_time(k, start, clock_now_ns() - start);
	__atomic_store_n(&k->since_ns, 0, __ATOMIC_RELEASE);
	k->touches++;
}

static void write_page(struct toucher *k, uint64_t gfn)
{
	uint32_t version = (k->t->pages[gfn] >> 2) + 1;
	uint64_t content[DORM_PAGE_SIZE / 8];

	timed_touch(k, gfn, true);
	oracle_written(k->t->seed, gfn, version, content);
	memcpy(vm_client_page(k->t->c, gfn), content, sizeof(content));
	k->t->pages[gfn] = version << 2 | WRITTEN;
	k->written++;
}

/* A few pages of the block, as far as they lie in the same region. */
static void remove_pages(struct toucher *k, uint64_t gfn)
{
	const struct vm_client *c = k->t->c;
	uint64_t n = 1 + oracle_next(&k->random) % (BLOCK_PAGES - gfn % BLOCK_PAGES);
	enum state state = vm_client_removes(c) ? REMOVED : DROPPED;
	uint64_t start = clock_now_ns();

	n = MIN(n, c->options.n_pages - gfn);
	n = MIN(n, c->region_pages - gfn % c->region_pages);
	if (madvise(vm_client_page(c, gfn), n * DORM_PAGE_SIZE, MADV_DONTNEED) < 0)
		return;
	note_stall(k, start, clock_now_ns() - start); /* it returns when the pager read the event */
	for (uint64_t i = gfn; i < gfn + n; i++)
		k->t->pages[i] = (k->t->pages[i] & ~3u) | state;
	k->removed += n;
}

static void check_page(struct toucher *k, uint64_t gfn)
{
	if (k->o->no_check || (k->seen[gfn] && !k->o->keep_checking))
		return;
	k->seen[gfn] = 1;
	k->checked++;
	if (!page_is_wrong(k->t, gfn, vm_client_page(k->t->c, gfn)))
		return;
	if (k->wrong++ == 0)
		k->wrong_gfn = gfn;
}

static void touch_one(struct toucher *k, uint64_t gfn)
{
	int owner = owner_of(k->t, gfn);
	uint64_t dice;

	if (owner >= 0 && owner != (int)k->index)
		return;
	dice = owner < 0 ? 100 : oracle_next(&k->random) % 100;
	if (dice < k->o->remove_percent) {
		remove_pages(k, gfn);
		k->seen[gfn] = 0;
	} else if (dice < k->o->remove_percent + k->o->write_percent) {
		check_page(k, gfn); /* what was there before */
		write_page(k, gfn);
		k->seen[gfn] = 0;
	} else {
		timed_touch(k, gfn, false);
		check_page(k, gfn);
	}
}

static void wait_until(uint64_t ns)
{
	uint64_t now = clock_now_ns();

	if (now < ns)
		(void)usleep((useconds_t)((ns - now) / 1000));
}

static void *run(void *arg)
{
	struct toucher *k = arg;
	const struct touch_options *o = k->o;

	k->start_ns = clock_now_ns();
	for (uint64_t i = 0; o->n_touches == 0 || i < o->n_touches; i++) {
		uint64_t us, gfn = trace_next(k->trace, &us);

		if (o->seconds > 0 && (double)(clock_now_ns() - k->start_ns) / 1e9 > o->seconds)
			break;
		if (us)
			wait_until(k->start_ns + us * 1000);
		if (o->rate > 0)
			wait_until(k->start_ns + (uint64_t)((double)i / o->rate * 1e9));
		touch_one(k, gfn);
	}
	k->end_ns = clock_now_ns();
	return NULL;
}

uint64_t touch_stuck(const struct touch *t, uint64_t ns)
{
	for (unsigned i = 0; i < MAX_THREADS; i++) {
		struct toucher *k = __atomic_load_n(&t->running[i], __ATOMIC_ACQUIRE);
		uint64_t since = k ? __atomic_load_n(&k->since_ns, __ATOMIC_ACQUIRE) : 0;

		if (since && clock_now_ns() - since > ns)
			return __atomic_load_n(&k->touching, __ATOMIC_RELAXED);
	}
	return UINT64_MAX;
}

/* ---- the sum of it ----------------------------------------------------------------------------
 */

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static json_int_t at(const uint32_t *v, size_t n, double share)
{
	return n ? v[MIN(n - 1, (size_t)((double)n * share))] : 0;
}

/* Powers of two: [less than so many ns, how often] */
static json_t *histogram_of(const uint32_t *v, size_t n)
{
	json_t *array = json_array();
	uint64_t bound = 64;

	for (size_t i = 0; i < n; bound *= 2) {
		size_t begin = i;

		while (i < n && v[i] < bound)
			i++;
		if (i > begin)
			(void)json_array_append_new(array, json_pack("[I, I]", (json_int_t)bound,
								     (json_int_t)(i - begin)));
	}
	return array;
}

static json_t *stalls_of(const struct toucher *k, unsigned n)
{
	json_t *array = json_array();

	for (unsigned i = 0; i < n; i++)
		for (uint32_t j = 0; j < k[i].n_stalls; j++)
			(void)json_array_append_new(
				array, json_pack("[I, I]", (json_int_t)k[i].stalls[j].start_ns,
						 (json_int_t)k[i].stalls[j].ns));
	return array;
}

static json_t *latency_of(const struct toucher *k, unsigned n)
{
	_cleanup_free_ uint32_t *all = NULL;
	size_t n_all = 0;
	double sum = 0;

	for (unsigned i = 0; i < n; i++)
		n_all += k[i].n_samples;
	all = malloc((n_all + 1) * sizeof(*all));
	if (!all)
		return json_object();
	n_all = 0;
	for (unsigned i = 0; i < n; i++) {
		memcpy(all + n_all, k[i].samples, k[i].n_samples * sizeof(*all));
		n_all += k[i].n_samples;
	}
	for (size_t i = 0; i < n_all; i++)
		sum += all[i];
	qsort(all, n_all, sizeof(*all), compare);
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:o, s:o}", "n", (json_int_t)n_all,
			 "p50_ns", at(all, n_all, 0.5), "p90_ns", at(all, n_all, 0.9), "p99_ns",
			 at(all, n_all, 0.99), "p999_ns", at(all, n_all, 0.999), "max_ns",
			 at(all, n_all, 1), "mean_ns", n_all ? sum / (double)n_all : 0, "histogram",
			 histogram_of(all, n_all), "stalls", stalls_of(k, n));
}

static void free_touchers(struct toucher *k, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		trace_free(k[i].trace);
		free(k[i].samples);
		free(k[i].stalls);
		free(k[i].seen);
	}
	free(k);
}

static int prepare(struct touch *t, const struct touch_options *o, struct toucher *k, unsigned i)
{
	uint64_t n = t->c->options.n_pages;

	*k = (struct toucher){.t = t, .o = o, .index = i, .random = oracle_hash(o->seed, i)};
	k->samples = malloc(MAX_SAMPLES * sizeof(*k->samples));
	k->stalls = malloc(MAX_STALLS * sizeof(*k->stalls));
	k->seen = calloc(n, 1);
	if (!k->samples || !k->stalls || !k->seen)
		return -ENOMEM;
	return trace_new(o->trace, n, o->seed, i, o->n_threads, &k->trace);
}

static int start_all(struct touch *t, const struct touch_options *o, struct toucher *k)
{
	for (unsigned i = 0; i < o->n_threads; i++) {
		int r = prepare(t, o, &k[i], i);

		if (r < 0)
			return r;
	}
	for (unsigned i = 0; i < o->n_threads; i++) {
		__atomic_store_n(&t->running[i], &k[i], __ATOMIC_RELEASE);
		if (pthread_create(&k[i].thread, NULL, run, &k[i]) != 0) {
			perror("vm-client: a thread");
			exit(1); /* the others run already */
		}
	}
	return 0;
}

int touch_run(struct touch *t, const struct touch_options *o, struct touch_result *ret)
{
	struct toucher *k = calloc(MAX_THREADS, sizeof(*k));
	struct touch_result sum = {0};
	uint64_t start = UINT64_MAX, end = 0;
	int r;

	if (!k)
		return -ENOMEM;
	if (o->n_threads == 0 || o->n_threads > MAX_THREADS) {
		free(k);
		return -EINVAL;
	}
	t->seed = o->seed;
	t->n_threads = o->n_threads;
	t->owned_percent = o->owned_percent;
	r = start_all(t, o, k);
	for (unsigned i = 0; r == 0 && i < o->n_threads; i++) {
		pthread_join(k[i].thread, NULL);
		__atomic_store_n(&t->running[i], NULL, __ATOMIC_RELEASE);
		sum.touches += k[i].touches;
		sum.checked += k[i].checked;
		if (k[i].wrong && !sum.wrong)
			sum.wrong_gfn = k[i].wrong_gfn;
		sum.wrong += k[i].wrong;
		sum.written += k[i].written;
		sum.removed += k[i].removed;
		start = MIN(start, k[i].start_ns);
		end = MAX(end, k[i].end_ns);
	}
	if (r == 0) {
		sum.seconds_ns = end - start;
		sum.latency = latency_of(k, o->n_threads);
		*ret = sum;
	}
	free_touchers(k, o->n_threads);
	return r;
}
