/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * loader-internal.h - what loader.c (queue, slots, life) and loader-worker.c (threads) share
 *
 * A slot's life, under the lock of the queue:
 *
 * state    where                              left by
 * FREE     in the list of free slots          loader_get() -> HELD
 * HELD     the caller's                       loader_submit() -> QUEUED, loader_put() -> FREE
 * QUEUED   in the queue                       a demand worker -> HELD (it reads, then calls done())
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "pager/loader-io.h"
#include "pager/loader.h"

struct loader_counters {
	uint64_t reads, bytes, failed, direct; /* relaxed atomics */
	struct histogram queue_ns, read_ns;
};

struct worker {
	struct loader *loader;
	bool background;
	bool started;
	pthread_t thread;
	struct loader_io *io;
	void *memory; /* everything that @buffers and @reads point to */
	size_t memory_bytes;
	struct load_buffers buffers;
	/* reads that it may have under way: @load of those that are is not NULL */
	unsigned n_reads, n_busy;
	struct work {
		struct loader_read read;
		struct load *load;
	} * reads;
	struct load pulled; /* background: the one read */
};

/*
 * Demand: @wake_fd is an eventfd that is readable exactly while the queue is not empty or the
 * loader stops, so that workers can wait for it and for their reads at once. It changes under
 * @lock, when the queue becomes empty or not.
 *
 * Background: who has taken the turn (@reading) may ask the source and read; nobody else may. The
 * turn is over when the bytes are there, before done(). @work is false once the source had nothing
 * and nobody has kicked since it was asked.
 *
 * The two locks are never held together.
 */
struct loader {
	struct loader_options options;
	const struct loader_io_ops *ops;
	bool locked; /* the buffers are */

	pthread_mutex_t lock; /* slots, queue, n_idle, stopping */
	struct load slots[LOADER_SLOTS];
	struct load *free;
	struct load *head, **tail;
	unsigned n_queued;
	unsigned n_idle; /* demand workers without a read */
	unsigned n_used, n_most;
	uint64_t n_refused;
	bool stopping;
	int wake_fd;

	pthread_mutex_t turn_lock; /* what follows */
	pthread_cond_t turn_cond;  /* there may be a turn to take */
	bool reading;
	bool work;
	bool ended; /* no more turns */
	uint64_t kicks;

	unsigned n_workers;
	struct worker *workers; /* demand first */
	struct loader_counters by[LOAD_N_PRIORITIES];
};

/* What a demand worker finds in the queue. */
enum take {
	TAKE_ONE,   /* a read to begin */
	TAKE_LATER, /* something, but there are idle workers for it */
	TAKE_NONE,  /* nothing */
	TAKE_STOP,  /* nothing, and there will be nothing more */
};

/** loader_take() - the next demand read, for a worker that has @n_busy reads under way */
enum take loader_take(struct loader *l, unsigned n_busy, struct load **ret);

/** loader_idle() - a demand worker's last read has been handled */
void loader_idle(struct loader *l);

/** loader_turn_take() - wait for the turn to read in the background. Return: false at the end */
bool loader_turn_take(struct loader *l, uint64_t *ret_kicks);

/** loader_turn_give() - @more: was there something to read? @kicks: what taking the turn said */
void loader_turn_give(struct loader *l, bool more, uint64_t kicks);

/** worker_init() - memory and ring of one worker. Return: 0; negative errno; worker_deinit() either
 * way */
int worker_init(struct worker *w, struct loader *l, bool background);
/** worker_start() - its thread. Return: 0; negative errno. worker_join() - wait for its end */
int worker_start(struct worker *w);
void worker_join(struct worker *w);
void worker_deinit(struct worker *w);
