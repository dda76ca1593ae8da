/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loader.c - the queue of demand reads, the turn of the background, life and counters
 *
 * Why two groups of threads and no queue of priorities: with one, a demand read would wait for a
 * worker, and all of them may be in the middle of decoding a megabyte. Why only one background
 * read at a time: what the disk has been given it carries out in an order of its own, so what is
 * given to it must be little. One read of 1 MiB is enough to keep it busy as long as the next one
 * follows at once; that is what the turn is for. Its order of magnitude: a disk of 1 GB/s takes
 * 1 ms for it, and so a demand read waits for 1 ms at most.
 *
 * Stopping: the background ends after the read that is under way. What is queued as demand is read
 * all the same: it is bounded (LOADER_SLOTS), and somebody waits for it.
 */
#include "pager/loader.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "pager/loader-internal.h"

#define DEFAULT_DEMAND 2u
#define MAX_THREADS    64u

/* ---- slots and queue --------------------------------------------------------------------------
 */

struct load *loader_get(struct loader *loader)
{
	LOCK_SCOPE(&loader->lock);
	struct load *l = loader->stopping ? NULL : loader->free;

	if (!l) {
		loader->n_refused++;
		return NULL;
	}
	loader->free = l->next;
	loader->n_used++;
	loader->n_most = MAX(loader->n_most, loader->n_used);
	*l = (struct load){.fd = -1, .direct_fd = -1, .priority = LOAD_DEMAND};
	return l;
}

static bool is_slot(const struct loader *loader, const struct load *l)
{
	return l >= loader->slots && l < loader->slots + LOADER_SLOTS;
}

void loader_put(struct loader *loader, struct load *l)
{
	LOCK_SCOPE(&loader->lock);

	if (!is_slot(loader, l))
		return;
	l->next = loader->free;
	loader->free = l;
	loader->n_used--;
}

/* Under the lock. An eventfd neither blocks nor fails for one more than 0, or less than 1. */
static void set_wake(struct loader *loader)
{
	uint64_t one = 1;

	(void)!write(loader->wake_fd, &one, sizeof(one));
}

static void clear_wake(struct loader *loader)
{
	uint64_t n;

	(void)!read(loader->wake_fd, &n, sizeof(n));
}

static bool enqueue(struct loader *loader, struct load *l)
{
	LOCK_SCOPE(&loader->lock);

	if (loader->stopping)
		return false;
	l->next = NULL;
	*loader->tail = l;
	loader->tail = &l->next;
	if (loader->n_queued++ == 0)
		set_wake(loader);
	return true;
}

void loader_submit(struct loader *loader, struct load *l)
{
	l->priority = LOAD_DEMAND;
	l->queued_ns = clock_now_ns();
	if (!enqueue(loader, l))
		l->done(l, NULL, NULL, -ECANCELED);
}

enum take loader_take(struct loader *loader, unsigned n_busy, struct load **ret)
{
	LOCK_SCOPE(&loader->lock);
	struct load *l = loader->head;

	if (!l)
		return loader->stopping ? TAKE_STOP : TAKE_NONE;
	if (n_busy && loader->n_queued <= loader->n_idle)
		return TAKE_LATER;
	loader->head = l->next;
	if (!loader->head)
		loader->tail = &loader->head;
	if (--loader->n_queued == 0 && !loader->stopping)
		clear_wake(loader);
	if (n_busy == 0)
		loader->n_idle--;
	*ret = l;
	return TAKE_ONE;
}

void loader_idle(struct loader *loader)
{
	LOCK_SCOPE(&loader->lock);

	loader->n_idle++;
}

/* ---- the turn ---------------------------------------------------------------------------------
 */

void loader_kick(struct loader *loader)
{
	LOCK_SCOPE(&loader->turn_lock);

	loader->kicks++;
	loader->work = true;
	if (!loader->reading)
		pthread_cond_signal(&loader->turn_cond);
}

bool loader_turn_take(struct loader *loader, uint64_t *ret_kicks)
{
	LOCK_SCOPE(&loader->turn_lock);

	while (!loader->ended && (loader->reading || !loader->work))
		pthread_cond_wait(&loader->turn_cond, &loader->turn_lock);
	if (loader->ended)
		return false;
	loader->reading = true;
	*ret_kicks = loader->kicks;
	return true;
}

void loader_turn_give(struct loader *loader, bool more, uint64_t kicks)
{
	LOCK_SCOPE(&loader->turn_lock);

	loader->reading = false;
	if (!more && kicks == loader->kicks)
		loader->work = false;
	if (loader->work)
		pthread_cond_signal(&loader->turn_cond);
}

/* ---- life -------------------------------------------------------------------------------------
 */

static unsigned default_background(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 2 ? 2 : n > 16 ? 16 : (unsigned)n; /* one reads, the others decode */
}

static void drop_workers(struct loader *l)
{
	for (unsigned i = 0; l->workers && i < l->n_workers; i++)
		worker_deinit(&l->workers[i]);
	free(take_ptr(l->workers));
}

static int make_workers(struct loader *l, const struct loader_io_ops *ops)
{
	int r = 0;

	l->ops = ops;
	l->locked = true;
	l->n_workers = l->options.n_demand + l->options.n_background;
	l->workers = calloc(l->n_workers, sizeof(*l->workers));
	if (!l->workers)
		return -ENOMEM;
	for (unsigned i = 0; r == 0 && i < l->n_workers; i++)
		r = worker_init(&l->workers[i], l, i >= l->options.n_demand);
	if (r < 0)
		drop_workers(l);
	return r;
}

/* Of io_uring even a part is enough to refuse: limits may allow some of the rings. */
static int choose_backend(struct loader *l)
{
	int r;

	if (l->options.backend == LOADER_THREADS)
		return make_workers(l, &loader_io_threads);
	r = loader_io_uring_probe();
	if (r == 0)
		r = make_workers(l, &loader_io_uring);
	if (r < 0 && l->options.backend == LOADER_AUTO)
		r = make_workers(l, &loader_io_threads);
	return error_trace(r);
}

static struct loader *alloc(const struct loader_options *options)
{
	struct loader *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->options = *options;
	if (!l->options.n_demand)
		l->options.n_demand = DEFAULT_DEMAND;
	if (!l->options.n_background)
		l->options.n_background = default_background();
	for (unsigned i = LOADER_SLOTS; i > 0; i--) {
		l->slots[i - 1].next = l->free;
		l->free = &l->slots[i - 1];
	}
	l->tail = &l->head;
	l->n_idle = l->options.n_demand;
	pthread_mutex_init(&l->lock, NULL);
	pthread_mutex_init(&l->turn_lock, NULL);
	pthread_cond_init(&l->turn_cond, NULL);
	l->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return l;
}

int loader_new(const struct loader_options *options, struct loader **ret)
{
	_cleanup_(loader_freep) struct loader *l = NULL;
	int r;

	if (options->n_demand > MAX_THREADS || options->n_background > MAX_THREADS)
		return error_trace(-EINVAL);
	l = alloc(options);
	if (!l)
		return -ENOMEM;
	if (l->wake_fd < 0)
		return error_errno();
	r = choose_backend(l);
	for (unsigned i = 0; r == 0 && i < l->n_workers; i++)
		r = worker_start(&l->workers[i]);
	if (r < 0)
		return r;
	*ret = take_ptr(l);
	return 0;
}

static void stop_demand(struct loader *l)
{
	LOCK_SCOPE(&l->lock);

	if (!l->stopping)
		set_wake(l); /* and it is not cleared any more */
	l->stopping = true;
}

static void stop_background(struct loader *l)
{
	LOCK_SCOPE(&l->turn_lock);

	l->ended = true;
	pthread_cond_broadcast(&l->turn_cond);
}

/* Background first: its done() may still submit and kick. */
void loader_quiesce(struct loader *l)
{
	stop_background(l);
	for (unsigned i = l->options.n_demand; l->workers && i < l->n_workers; i++)
		worker_join(&l->workers[i]);
	stop_demand(l);
	for (unsigned i = 0; l->workers && i < l->options.n_demand; i++)
		worker_join(&l->workers[i]);
}

struct loader *loader_free(struct loader *l)
{
	if (!l)
		return NULL;
	loader_quiesce(l);
	drop_workers(l);
	fd_close(l->wake_fd);
	pthread_cond_destroy(&l->turn_cond);
	pthread_mutex_destroy(&l->turn_lock);
	pthread_mutex_destroy(&l->lock);
	free(l);
	return NULL;
}

/* ---- counters ---------------------------------------------------------------------------------
 */

static uint64_t get(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void copy_histogram(const struct histogram *h, struct histogram *ret)
{
	for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
		ret->count[i] = get(&h->count[i]);
	ret->sum = get(&h->sum);
}

static void slot_stats(struct loader *l, struct loader_stats *ret)
{
	LOCK_SCOPE(&l->lock);

	ret->slots_used = l->n_used;
	ret->slots_most = l->n_most;
	ret->slots_refused = l->n_refused;
}

void loader_stats(struct loader *l, struct loader_stats *ret)
{
	*ret = (struct loader_stats){.backend = l->ops->name,
				     .n_demand = l->options.n_demand,
				     .n_background = l->options.n_background,
				     .locked = l->locked};
	slot_stats(l, ret);
	for (unsigned i = 0; i < LOAD_N_PRIORITIES; i++) {
		ret->by[i].reads = get(&l->by[i].reads);
		ret->by[i].bytes = get(&l->by[i].bytes);
		ret->by[i].failed = get(&l->by[i].failed);
		ret->by[i].direct = get(&l->by[i].direct);
		copy_histogram(&l->by[i].queue_ns, &ret->by[i].queue_ns);
		copy_histogram(&l->by[i].read_ns, &ret->by[i].read_ns);
	}
}
