/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * slate.h - what must be remembered of a session's pages when the pager dies
 *
 * Two bitmaps over the guest's pages, in a file that is mapped shared, so that what was written
 * last is there for a successor however this process ends. (A host that goes down takes the VM with
 * it: nothing is synced.)
 *
 *   removed     the VM gave the page back: it reads as zeros from then on
 *   installed   the page was put into the VM's own memory (UFFDIO_COPY). Set after the copy
 *
 * `reading` is not zero while an event is between the kernel and these bitmaps: see slate_begin().
 * Format: docs/format-pager.md, "Journal". Bits are atomic, any thread.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/bitmap.h"
#include "base/mem.h"
#include "base/problem.h"

struct slate_header {
	uint8_t magic[8]; /* "DORMSLT\0" */
	uint32_t version; /* 1 */
	uint32_t reading; /* atomic: how many threads are between reading events and noting them */
	uint64_t n_pages;
	uint64_t has_removed; /* atomic: there is a bit in @removed */
	uint8_t reserved[32];
};

struct slate {
	struct slate_header *header;
	bitmap_word *removed;
	bitmap_word *installed;
	uint64_t n_pages;
	size_t map_len;
};

/** slate_new() - empty. @dirfd, @name: the file to make, replacing what was there; dirfd -1: none,
 *  in this process's memory alone. Return: 0; negative errno, @problem says */
int slate_new(int dirfd, const char *name, uint64_t n_pages, struct problem *problem,
	      struct slate *ret);

/** slate_open() - one that another process left. Return: 0; -EBADMSG when it is not one for
 *  @n_pages pages; negative errno; @problem says */
int slate_open(int dirfd, const char *name, uint64_t n_pages, struct problem *problem,
	       struct slate *ret);

void slate_deinit(struct slate *s);

/** slate_begin() / slate_end() - around the reading of events that may be removals: if the process
 *  dies between them, such an event may be lost, and the slate says so */
static inline void slate_begin(struct slate *s)
{
	__atomic_fetch_add(&s->header->reading, 1, __ATOMIC_SEQ_CST);
}

static inline void slate_end(struct slate *s)
{
	__atomic_fetch_sub(&s->header->reading, 1, __ATOMIC_SEQ_CST);
}

static inline bool slate_has_removed(const struct slate *s)
{
	return __atomic_load_n(&s->header->has_removed, __ATOMIC_ACQUIRE);
}

static inline bool slate_is_removed(const struct slate *s, uint64_t gfn)
{
	return slate_has_removed(s) && bitmap_test_atomic(s->removed, gfn);
}

/** slate_remove() - note a run of removed pages */
void slate_remove(struct slate *s, uint64_t gfn, uint64_t n_pages);

/** slate_install() - note pages that are in the VM now */
void slate_install(struct slate *s, uint64_t gfn, uint64_t n_pages);

static inline bool slate_is_installed(const struct slate *s, uint64_t gfn)
{
	return bitmap_test_atomic(s->installed, gfn);
}

#define SLATE_BLOCK_PAGES 16u /* divides 64 */

/** slate_is_near() - has the VM a page of the same 16, or the one before or after @gfn? */
static inline bool slate_is_near(const struct slate *s, uint64_t gfn)
{
	uint64_t first = gfn - gfn % SLATE_BLOCK_PAGES;
	uint64_t word = __atomic_load_n(&s->installed[first / 64], __ATOMIC_RELAXED);

	return (word >> first % 64 & 0xffff) || (gfn && slate_is_installed(s, gfn - 1)) ||
	       (gfn + 1 < s->n_pages && slate_is_installed(s, gfn + 1));
}
