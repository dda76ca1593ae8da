/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * settle.h - has a restored guest touched what it needs to become useful?
 *
 *     settle_init()                            when the guest begins to run
 *     settle_note() ... settle_check()         what it touched since; enough?
 *     settle_next_check()                      when to look again: there is nothing to poll for
 *
 * Times are nanoseconds of any clock that the caller likes; nothing here reads one, so that the
 * same calls always get the same answers. One thread. Fault threads do not come here: whoever calls
 * settle_check() first notes by how much the first touches have grown.
 *
 * What is a first touch? Without prefetch, a page that recorder_need() had not seen. With prefetch
 * the guest touches most of its pages without a fault, and faults alone would say that it has
 * settled while it still starts; then the number of pages that it maps is to be noted as well
 * (refine_touched() into a bitmap, and by how much bitmap_count() grew), except in copy mode.
 */
#include <stdint.h>

#define SETTLE_BUCKETS 128u

struct settle_options {
	uint64_t min_ns;   /* not before; 0: SETTLE_MIN_NS */
	uint64_t max_ns;   /* not after; 0: SETTLE_MAX_NS */
	uint64_t quiet_ns; /* least quiet that counts as such; 0: SETTLE_QUIET_NS */
	uint64_t idle_ns; /* the same for a guest that touched next to nothing; 0: SETTLE_IDLE_NS */
};

#define SETTLE_MIN_NS	100000000ull   /* 100 ms */
#define SETTLE_MAX_NS	30000000000ull /* 30 s */
#define SETTLE_QUIET_NS 400000000ull   /* 400 ms */
#define SETTLE_IDLE_NS	2000000000ull  /* 2 s */

enum settle_state {
	SETTLE_NOT_YET,
	SETTLE_CONVERGED, /* it has what it needs */
	SETTLE_BOUND,	  /* it goes on touching, and will not be waited for any longer */
};

struct settle {
	struct settle_options options;
	uint64_t start_ns;
	uint64_t last_ns;  /* of the last first touch, since the start */
	uint64_t n_total;  /* first touches */
	uint64_t width_ns; /* of a bucket */
	uint32_t n_used;   /* buckets up to the last that is not empty */
	uint64_t buckets[SETTLE_BUCKETS];
};

/** settle_init() - the guest runs from @now_ns on. @options: copied; NULL: all defaults */
void settle_init(struct settle *s, const struct settle_options *options, uint64_t now_ns);

/**
 * settle_note() - @n pages were touched for the first time, at @now_ns or since the note before
 * Time that goes backwards counts as standing still. Bounded work, no allocation.
 */
void settle_note(struct settle *s, uint64_t now_ns, uint64_t n);

/**
 * settle_check() - the answer at @now_ns. The first one that is not SETTLE_NOT_YET is final: the
 * caller stops to ask
 */
enum settle_state settle_check(const struct settle *s, uint64_t now_ns);

/**
 * settle_next_check() - when to note what came and to ask again: soon enough to be exact, and some
 * 60 times in 30 s. Not before @now_ns, and behind it while the answer at @now_ns is SETTLE_NOT_YET
 */
uint64_t settle_next_check(const struct settle *s, uint64_t now_ns);
