/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * evict-internal.h - what evict.c (when: the thread, limits) and evict-choose.c (who) share
 *
 * The functions need the lock in struct evict, which keeps the list of residents and their hands.
 */
#include <pthread.h>

#include "pager/evict.h"
#include "sys/psi.h"

#define EVICT_REST_MS 100 /* when nothing can be evicted */

/* What is fair game. */
enum level { SPARE_FAVOURED, TAKE_FAVOURED, N_LEVELS };

struct evict {
	struct pager *p;
	pthread_mutex_t lock;
	pthread_t thread;
	bool started;
	int stop_fd;
	struct psi psi;
	bool looks;   /* at MemAvailable */
	bool watches; /* PSI tells */
	unsigned floor_percent;
	char text[256];		 /* which of these, for the log */
	enum level level;	 /* lock */
	uint64_t rest_until_ns;	 /* atomic: nothing can be evicted, do not try before */
	struct evict_counters n; /* atomic */
};

/* Evict until no more than this is there. */
struct goal {
	uint64_t pages;		/* of all images; UINT64_MAX: any number */
	uint64_t image_pages;	/* of each */
	enum evict_cause cause; /* for @pages */
};

#define get(_field)	  __atomic_load_n(&(_field), __ATOMIC_RELAXED)
#define count(_field, _n) ((void)__atomic_fetch_add(&(_field), (_n), __ATOMIC_RELAXED))

/** evict_begin() - what there is to take may have changed since the last time */
void evict_begin(struct evict *e);

/** evict_is_reached() - is there nothing to do for this goal? Memory that is kept does not count */
bool evict_is_reached(const struct evict *e, const struct goal *g);

/** evict_step() - one batch. Return: pages freed; UINT64_MAX: nothing more to do, or to take */
uint64_t evict_step(struct evict *e, const struct goal *g);
