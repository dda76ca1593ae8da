/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * recorder.h - what one session needed, and how much of it was there before it asked
 *
 *     recorder_new()
 *     recorder_need(), recorder_prefetched()     from fault threads and the loader
 *     recorder_counts()                          at any time
 *     recorder_evaluate(), recorder_needed()     at the end; then recorder_free()
 *
 * Two bits for each page of the guest: one for what was brought in because the guest faulted for it
 * (a miss), one for what was brought in before. A page has at most one of them, the one that came
 * first; with two threads at the same page at the same instant it can have both, and counts as a
 * miss. Setting them is atomic, takes no lock and allocates nothing.
 *
 * What a prefetched page was good for is not seen here: a guest raises no event for a page that is
 * there. So the end of a recording takes a third bitmap: the pages that the VM's page tables map
 * (pagemap_touched() in sys/pagemap.h).
 *
 * What "mapped" proves. When a guest reads a page of the shared memory, the kernel maps with it
 * those neighbours that are resident, up to 16 pages in an aligned window of 64 KiB
 * ("fault-around", /sys/kernel/debug/fault_around_bytes). The window is aligned in the VM's
 * address space; here it is one of guest pages, which is the same if the VM maps its memory at a
 * multiple of 64 KiB, and else lets one use show in two windows. Nothing tells such pages from
 * those that the guest has read. So:
 *
 *   used_pages    counts every mapped page. It is an upper bound of what was used, and precision,
 *                 which is made from it, one of the truth
 *   used_windows  counts windows with a mapped page. In each, if they are aligned as said, at
 *                 least one page was really used
 *
 * Precision is then exact by windows and flattering by pages; both are reported. The window is also
 * the honest unit: pages are read by frames of up to 16, which in dense memory are these windows,
 * so a page less in a window that is needed would seldom be a byte less read. A page that was
 * written is mapped alone, and counted exactly.
 *
 * In copy mode every page that was brought in is mapped, so that a scan proves nothing: pass none.
 * Then what was prefetched is neither used nor wasted but unknown.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/bitmap.h"
#include "base/mem.h"

#define RECORDER_WINDOW_PAGES 16u

struct recorder;

/**
 * recorder_new() - for a guest of @n_pages
 * Takes a quarter of a byte per page, of which only what is touched is ever backed by memory.
 * Return: 0; -ENOMEM
 */
int recorder_new(uint64_t n_pages, struct recorder **ret);
struct recorder *recorder_free(struct recorder *r);
DEFINE_CLEANUP(struct recorder *, recorder_free)

/**
 * recorder_need() - the guest waited for @gfn, and @n pages from it on were brought in for that
 * Normally the pages of a frame. Pages beyond the guest's are ignored. Any thread.
 * Return: how many of them are new here: what settle_note() wants to know
 */
uint64_t recorder_need(struct recorder *r, uint64_t gfn, uint64_t n);

/** recorder_prefetched() - @n pages were brought in before anybody asked. As recorder_need() */
uint64_t recorder_prefetched(struct recorder *r, uint64_t gfn, uint64_t n);

struct recorder_counts {
	uint64_t missed;     /* pages */
	uint64_t prefetched; /* pages */
};

/** recorder_counts() - up to now; any thread, nothing is walked */
void recorder_counts(const struct recorder *r, struct recorder_counts *ret);

struct recorder_report {
	bool has_touched; /* there was a scan; without, what follows but missed and prefetched is 0
			   */
	uint64_t missed_pages;	   /* brought in on demand; of those only needed ones if there was
				      a scan */
	uint64_t prefetched_pages; /* brought in before */
	uint64_t used_pages;	   /* of those: mapped */
	uint64_t prefetched_windows, used_windows;
	uint64_t needed_pages;	 /* mapped at all, also what other sessions had brought in */
	uint64_t wasted_bytes;	 /* of prefetched pages that are not mapped */
	double precision;	 /* used / prefetched pages; 1 when nothing was prefetched */
	double window_precision; /* the same by windows */
	double recall; /* used / (used + missed): of what had to be brought in, how much came
			  before; 1 when nothing had to */
};

/**
 * recorder_evaluate() - compare
 * @touched: a bit for each page that is mapped; NULL: not known
 * Nobody may record meanwhile if the numbers are to fit each other.
 */
void recorder_evaluate(const struct recorder *r, const bitmap_word *touched,
		       struct recorder_report *ret);

/**
 * recorder_needed() - which pages a working set should have had
 * @touched:     as above. With it these are the mapped pages, without it the missed ones
 * @ret_needed:  zeroed bitmap of the guest's pages
 * @ret_unknown: the same: pages that nobody can say of, i.e. without @touched the prefetched ones
 */
void recorder_needed(const struct recorder *r, const bitmap_word *touched, bitmap_word *ret_needed,
		     bitmap_word *ret_unknown);

/** recorder_n_pages() - of the guest */
uint64_t recorder_n_pages(const struct recorder *r);
