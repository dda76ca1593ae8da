/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * touch.h - threads that touch a VM's pages by trace, and check what they see
 *
 * Blocks of 16 pages are either read by everybody or owned by one thread, which alone touches them:
 * it writes to them, and gives them back (MADV_DONTNEED, as a balloon does). What a page must hold:
 *
 *     IMAGE      what the oracle says; every page in the beginning
 *     WRITTEN    what its owner wrote last
 *     REMOVED    zeros, for ever, once the owner gave it back (copy mode)
 *     DROPPED    the same where the memory is shared: zeros, or the image's page again
 *
 * The time of a touch is that of the one instruction that may fault, nothing else.
 */
#include <stdint.h>

#include "oracle.h"
#include "vm-client.h"

struct touch_options {
	const char *trace;
	uint64_t n_touches;	 /* of each thread; 0: until the time is over */
	double seconds;		 /* 0: until the touches are done */
	double rate;		 /* touches per second of each thread; 0: as fast as it goes */
	unsigned n_threads;	 /* >= 1 */
	unsigned owned_percent;	 /* of the blocks */
	unsigned write_percent;	 /* of the touches of owned blocks */
	unsigned remove_percent; /* the same */
	bool keep_checking;	 /* also pages that a thread has checked before */
	bool no_check;		 /* touch only */
	uint64_t seed;
};

struct touch_result {
	uint64_t touches, checked, wrong, written, removed;
	uint64_t wrong_gfn; /* the first of them */
	uint64_t seconds_ns;
	json_t *latency; /* object; new reference */
};

struct touch;

/** touch_new() - for a client that is attached; both arguments must outlive it. NULL: no memory */
struct touch *touch_new(struct vm_client *c, const struct oracle *o);
struct touch *touch_free(struct touch *t);

/** touch_run() - run the threads to their end. Return: 0; -EINVAL not a trace; negative errno */
int touch_run(struct touch *t, const struct touch_options *o, struct touch_result *ret);

/** touch_compare() - check every page, in an order of @seed. Return: how many are wrong */
uint64_t touch_compare(struct touch *t, uint64_t seed, uint64_t *ret_wrong_gfn);

/** touch_stuck() - gfn that a thread has been touching for more than @ns; UINT64_MAX: none */
uint64_t touch_stuck(const struct touch *t, uint64_t ns);
