/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A word of a bitmap covers 64 pages, so a frame is one or two atomic operations. Whether a page is
 * new is told by the value before, and counted at once: recorder_counts() walks nothing.
 *
 * The first to bring a page in has it: whoever comes second finds the other's bit and leaves its
 * own unset. The look and the setting are two steps; a page for which both happen in between has
 * both bits, and counts as prefetched in recorder_counts() but as missed in the evaluation.
 *
 * Example. Pages 0 to 63 are prefetched, the guest faults for page 70 and frame 64 to 79 is loaded;
 * at the end pages 0 to 15, 20 and 64 to 79 are mapped:
 *
 *     used 17 of 64 pages, precision 0.27     used 2 of 4 windows, window precision 0.5
 *     missed 16, recall 17 / 33 = 0.52        wasted 47 pages
 */
#include "pager/recorder.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"

struct recorder {
	uint64_t n_pages;
	uint64_t n_missed, n_prefetched; /* atomic */
	bitmap_word *missed, *prefetched;
};

int recorder_new(uint64_t n_pages, struct recorder **ret)
{
	_cleanup_(recorder_freep) struct recorder *r = calloc(1, sizeof(*r));

	if (!r)
		return error_trace(-ENOMEM);
	r->n_pages = n_pages;
	r->missed = bitmap_new(n_pages);
	r->prefetched = bitmap_new(n_pages);
	if (!r->missed || !r->prefetched)
		return error_trace(-ENOMEM);
	*ret = take_ptr(r);
	return 0;
}

struct recorder *recorder_free(struct recorder *r)
{
	if (r) {
		free(r->missed);
		free(r->prefetched);
		free(r);
	}
	return NULL;
}

uint64_t recorder_n_pages(const struct recorder *r)
{
	return r->n_pages;
}

/* The bits of [gfn, end) in the word that @gfn lies in. */
static bitmap_word mask_of(uint64_t gfn, uint64_t end)
{
	const uint64_t n = MIN(end - gfn, 64 - gfn % 64);

	return (n == 64 ? ~0ull : (1ull << n) - 1) << gfn % 64;
}

/* Set what @other has not. Return: how many are new */
static uint64_t set_run(const struct recorder *r, bitmap_word *map, const bitmap_word *other,
			uint64_t gfn, uint64_t n)
{
	const uint64_t end = gfn < r->n_pages ? gfn + MIN(n, r->n_pages - gfn) : gfn;
	uint64_t added = 0;

	for (; gfn < end; gfn = (gfn / 64 + 1) * 64) {
		bitmap_word mask = mask_of(gfn, end), before;

		mask &= ~__atomic_load_n(&other[gfn / 64], __ATOMIC_RELAXED);
		before = __atomic_fetch_or(&map[gfn / 64], mask, __ATOMIC_RELAXED);
		added += (uint64_t)__builtin_popcountll(mask & ~before);
	}
	return added;
}

uint64_t recorder_need(struct recorder *r, uint64_t gfn, uint64_t n)
{
	const uint64_t added = set_run(r, r->missed, r->prefetched, gfn, n);

	if (added)
		__atomic_fetch_add(&r->n_missed, added, __ATOMIC_RELAXED);
	return added;
}

uint64_t recorder_prefetched(struct recorder *r, uint64_t gfn, uint64_t n)
{
	const uint64_t added = set_run(r, r->prefetched, r->missed, gfn, n);

	if (added)
		__atomic_fetch_add(&r->n_prefetched, added, __ATOMIC_RELAXED);
	return added;
}

void recorder_counts(const struct recorder *r, struct recorder_counts *ret)
{
	ret->missed = __atomic_load_n(&r->n_missed, __ATOMIC_RELAXED);
	ret->prefetched = __atomic_load_n(&r->n_prefetched, __ATOMIC_RELAXED);
}

/* One word of each bitmap, without bits beyond the guest's pages. */
struct words {
	bitmap_word missed, prefetched, touched;
};

static struct words words_at(const struct recorder *r, const bitmap_word *touched, uint64_t gfn)
{
	const bitmap_word valid = mask_of(gfn, r->n_pages);
	struct words w = {.missed = __atomic_load_n(&r->missed[gfn / 64], __ATOMIC_RELAXED)};

	w.prefetched = __atomic_load_n(&r->prefetched[gfn / 64], __ATOMIC_RELAXED) & ~w.missed;
	w.touched = touched ? touched[gfn / 64] & valid : 0;
	return w;
}

static uint64_t count_bits(bitmap_word w)
{
	return (uint64_t)__builtin_popcountll(w);
}

static uint64_t count_windows(bitmap_word w)
{
	uint64_t n = 0;

	for (; w; w >>= RECORDER_WINDOW_PAGES)
		n += (w & ((1ull << RECORDER_WINDOW_PAGES) - 1)) != 0;
	return n;
}

static double ratio(uint64_t part, uint64_t all)
{
	return all ? (double)part / (double)all : 1.0;
}

static void judge(struct recorder_report *o)
{
	o->wasted_bytes = (o->prefetched_pages - o->used_pages) * DORM_PAGE_SIZE;
	o->precision = ratio(o->used_pages, o->prefetched_pages);
	o->window_precision = ratio(o->used_windows, o->prefetched_windows);
	o->recall = ratio(o->used_pages, o->used_pages + o->missed_pages);
}

void recorder_evaluate(const struct recorder *r, const bitmap_word *touched,
		       struct recorder_report *ret)
{
	struct recorder_report o = {.has_touched = touched != NULL};

	for (uint64_t gfn = 0; gfn < r->n_pages; gfn += 64) {
		const struct words w = words_at(r, touched, gfn);

		o.missed_pages += count_bits(touched ? w.missed & w.touched : w.missed);
		o.prefetched_pages += count_bits(w.prefetched);
		if (!touched)
			continue;
		o.used_pages += count_bits(w.prefetched & w.touched);
		o.prefetched_windows += count_windows(w.prefetched);
		o.used_windows += count_windows(w.prefetched & w.touched);
		o.needed_pages += count_bits(w.touched);
	}
	if (touched)
		judge(&o);
	*ret = o;
}

void recorder_needed(const struct recorder *r, const bitmap_word *touched, bitmap_word *ret_needed,
		     bitmap_word *ret_unknown)
{
	for (uint64_t gfn = 0; gfn < r->n_pages; gfn += 64) {
		const struct words w = words_at(r, touched, gfn);

		ret_needed[gfn / 64] |= touched ? w.touched : w.missed;
		ret_unknown[gfn / 64] |= touched ? 0 : w.prefetched;
	}
}
