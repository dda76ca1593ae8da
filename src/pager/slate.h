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
 * An event that was read is told to nobody else. So the kernel writes events into the slate itself,
 * its inbox, and from there they are noted: whoever comes after a process that died between the two
 * finds `reading` set, and in the inbox what was read. Noting an event twice does no harm. (The
 * kernel takes the event from its list and writes it in one system call; a process that is killed
 * in it dies after that.)
 * Format: docs/format-pager.md, "Journal". Bits are atomic, any thread.
 */
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/bitmap.h"
#include "base/mem.h"
#include "base/problem.h"

#define SLATE_INBOX 4u	 /* events */
#define SLATE_MEMFD (-2) /* for slate_new() */

struct slate_header {
	uint8_t magic[8]; /* "DORMSLT\0" */
	uint32_t version; /* 1 */
	uint32_t reading; /* atomic: not 0 while a thread is between reading events and noting them
			   */
	uint64_t n_pages;
	uint64_t has_removed; /* atomic: there is a bit in @removed */
	uint32_t full;	      /* atomic: all of the memory is in the VM, it is being left alone */
	uint8_t reserved[28];
	struct uffd_msg inbox[SLATE_INBOX]; /* event 0: nothing was read into it */
};

struct slate {
	struct slate_header *header;
	bitmap_word *removed;
	bitmap_word *installed;
	uint64_t n_pages;
	size_t map_len;
	int fd; /* of the file; -1: none */
};

/** slate_new() - empty. @dirfd, @name: the file to make, replacing what was there; dirfd -1: none,
 *  in this process's memory alone; SLATE_MEMFD: a file without a name, for whoever is given
 *  @ret->fd. Return: 0; negative errno, @problem says */
int slate_new(int dirfd, const char *name, uint64_t n_pages, struct problem *problem,
	      struct slate *ret);

/** slate_open() - one that another process left. Return: 0; -EBADMSG when it is not one for
 *  @n_pages pages; negative errno; @problem says */
int slate_open(int dirfd, const char *name, uint64_t n_pages, struct problem *problem,
	       struct slate *ret);

/** slate_adopt() - slate_open() of a descriptor; consumed in every case */
int slate_adopt(int fd, uint64_t n_pages, struct problem *problem, struct slate *ret);

void slate_deinit(struct slate *s);

/** slate_begin() / slate_end() - around the reading of events that may be removals; one thread at a
 *  time. Return: where to have the kernel write SLATE_INBOX events */
static inline struct uffd_msg *slate_begin(struct slate *s)
{
	for (unsigned i = 0; i < SLATE_INBOX; i++)
		s->header->inbox[i].event = 0;
	__atomic_store_n(&s->header->reading, 1, __ATOMIC_SEQ_CST);
	return s->header->inbox;
}

static inline void slate_end(struct slate *s)
{
	__atomic_store_n(&s->header->reading, 0, __ATOMIC_SEQ_CST);
}

/** slate_is_reading() - did the process that had it die between the two? */
static inline bool slate_is_reading(const struct slate *s)
{
	return __atomic_load_n(&s->header->reading, __ATOMIC_ACQUIRE) != 0;
}

/** slate_set_full() - from now on the VM is left alone, or not after all */
static inline void slate_set_full(struct slate *s, bool full)
{
	__atomic_store_n(&s->header->full, full, __ATOMIC_SEQ_CST);
}

/** slate_is_full() - is the VM left alone? A successor must not touch its registration */
static inline bool slate_is_full(const struct slate *s)
{
	return __atomic_load_n(&s->header->full, __ATOMIC_ACQUIRE) != 0;
}

/** slate_has_removed() - was there ever a removed page? Cheaper than to look for one */
static inline bool slate_has_removed(const struct slate *s)
{
	return __atomic_load_n(&s->header->has_removed, __ATOMIC_ACQUIRE);
}

/** slate_is_removed(), slate_is_installed() - of one page */
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
