/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * given-pages.h - which pages a writer was given, and which of them got a new source
 *
 * Filled in any order, closed by given_pages_sort(), then read in ascending order of gfn. Embedded
 * by value. One thread.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GIVEN_ZERO UINT32_MAX /* struct given_run.slot of zero pages */

/* Consecutive pages with consecutive slots of the new layer, or zero. 32 bits hold both:
 * IMAGE_MAX_PAGES is 2^30, LAYER_MAX_FRAMES * IMAGE_FRAME_PAGES is 2^31. */
struct given_run {
	uint32_t gfn;
	uint32_t n_pages;
	uint32_t slot;
};

struct given_pages {
	uint64_t n_pages; /* of the guest */
	uint64_t *marks;  /* one bit per page of the guest: was it given? */
	size_t n_runs;
	size_t cap_runs;
	struct given_run *runs;
	bool unsorted;
};

/** given_pages_init() - none of @n_pages yet. Return: 0; -ENOMEM */
int given_pages_init(struct given_pages *g, uint64_t n_pages);
void given_pages_deinit(struct given_pages *g);

/** given_pages_mark() - note that @gfn was given. Return: false when it had been before */
bool given_pages_mark(struct given_pages *g, uint64_t gfn);

/** given_pages_append() - the source of a page is @slot, or GIVEN_ZERO. Return: 0; -ENOMEM */
int given_pages_append(struct given_pages *g, uint64_t gfn, uint32_t slot);

/** given_pages_sort() - order the runs by gfn. Linear for a few ascending sequences.
 * Return: 0; -ENOMEM */
int given_pages_sort(struct given_pages *g);
