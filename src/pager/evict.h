/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * evict.h - resident memory as a cache: limits, pressure, and who has to go first
 *
 *     evict_new() -> [evict_help(), evict_lock() ... evict_unlock()]*
 *                 -> evict_stop() -> evict_free()
 *
 * A thread of its own, of low priority, asleep in the kernel unless a limit is nearly reached or
 * the host is short of memory. Theory: evict.c.
 *
 * Lock order: evict's lock, a resident's evict_lock, pager.lock.
 */
#include <jansson.h>

#include "pager/pager.h"

#define EVICT_MIN_LIMIT (1ull << 20) /* bytes; less is nobody's intention */
#define EVICT_FLOOR	25u	     /* percent, when nobody says anything else */

enum evict_cause { EVICT_LIMIT, EVICT_IMAGE_LIMIT, EVICT_PRESSURE, EVICT_N_CAUSES };

struct evict_counters {
	uint64_t pages[EVICT_N_CAUSES]; /* evicted because of */
	uint64_t helped;		/* of those: by threads that had something else to do */
	uint64_t floor_hits;		/* frames that only the floor of their working set kept */
	uint64_t stalls;		/* nothing could be evicted, and it was still too much */
	uint64_t events;		/* of pressure */
	uint64_t busy_ns;		/* spent evicting */
};

/** evict_new() - with the limits of @p's options, over its (empty) list of residents */
int evict_new(struct pager *p, struct evict **ret);

/** evict_stop() - end the thread; NULL is fine. evict_free() - when nobody inserts any more */
void evict_stop(struct evict *e);
struct evict *evict_free(struct evict *e);

/** evict_lock() - while it is held nothing is evicted, and nobody looks at the list of residents */
void evict_lock(struct pager *p);
void evict_unlock(struct pager *p);

/** evict_help_now() - evict more than one frame holds, on behalf of who just inserted one */
void evict_help_now(struct pager *p);

/**
 * evict_help() - after an insertion: if a limit was passed, undo some of the damage
 * The thread that evicts may have to wait for the processor; so whoever brings pages in above a
 * limit takes as many away. Costs four loads below the limits. The caller holds no lock and no pin.
 */
static inline void evict_help(struct pager *p, const struct resident *r)
{
	uint64_t limit = __atomic_load_n(&p->budget.limit, __ATOMIC_RELAXED);
	uint64_t image_limit = __atomic_load_n(&p->budget.image_limit, __ATOMIC_RELAXED);

	if ((limit && __atomic_load_n(&p->budget.pages, __ATOMIC_RELAXED) > limit) ||
	    (image_limit && __atomic_load_n(&r->present_pages, __ATOMIC_RELAXED) > image_limit))
		evict_help_now(p);
}

/** evict_limits() - new limits, in bytes, 0: none. Effective at once. Any thread */
void evict_limits(struct pager *p, uint64_t memory_limit, uint64_t image_limit);

/** evict_has_room() - could all of @r stay, beside all else that must, within the limits? */
bool evict_has_room(struct pager *p, const struct resident *r);

/** evict_parse() - "2G", "50%" (of this host's memory), "0". Return: 0; -EINVAL */
int evict_parse(const char *text, uint64_t *ret_bytes);

/** evict_pressure_text() - how it is told of pressure, for the log */
const char *evict_pressure_text(const struct pager *p);

/** evict_watched() - descriptors that tell of pressure, borrowed; at the start only, while none was
 *  given up. Return: how many of the @max places were filled */
size_t evict_watched(const struct pager *p, int *fds, size_t max);

/** evict_is_watching() - PSI tells us (and nobody has to look again and again) */
bool evict_is_watching(const struct pager *p);

/** evict_counters() - some recent state of each */
void evict_counters(const struct pager *p, struct evict_counters *ret);

/** evict_stats() - the object "eviction" of the statistics. Return: new reference */
json_t *evict_stats(const struct pager *p);
