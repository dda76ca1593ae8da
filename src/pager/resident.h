/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * resident.h - the part of an image that is in RAM on this host
 *
 * One memfd per image, as large as the guest's memory and empty at first. Every VM of the image
 * maps it privately, so a page that is put here once is there for all of them. Frames come from the
 * image's layers when the first fault asks for them (frames_claim(), resident_insert()). Guest
 * pages that share a slot of a frame with a lower one, its owner, are copied when they are asked
 * for (resident_copy_aliases()).
 *
 *     resident_new() -> [frames_claim(), resident_insert(), frames_settle()]* -> resident_free()
 *
 * Threads: insertion, eviction, zero and the failure functions may be called by any fault thread at
 * once; new, free, audit and the counters' readers belong to the control thread. @sessions,
 * @n_sessions and @idle_since_ns are the engine's (pager/pager.h says which lock).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bitmap.h"
#include "base/mem.h"
#include "base/problem.h"
#include "image/image.h"
#include "pager/frames.h"

#define RESIDENT_BLOCK_PAGES  16u   /* 64 KiB: what one bit of the zero map stands for */
#define RESIDENT_WINDOW_PAGES 512u  /* 2 MiB: no zero page is installed further from its fault */
#define RESIDENT_ZERO_BLOCKS  1024u /* remembered at most: 64 MiB to install when a VM attaches */
#define RESIDENT_MAX_FAILURES 8u

/* outcomes */
enum {
	RESIDENT_E_CORRUPT = 1,	 /* the frame's seal does not hold; it will never be installed */
	RESIDENT_E_POISONED = 2, /* the memfd holds a page that nobody here put there */
};

/* What a thread needs to load frames: its own, allocated in advance and locked in memory. */
struct bounce {
	void *out;     /* IMAGE_FRAME_BYTES, page-aligned */
	void *scratch; /* IMAGE_FRAME_BYTES + a page */
	void *check;   /* a page */
	void *map;     /* all of them are in here */
	size_t map_len;
};

struct session;
struct job;

/* What all resident memory of a process may be; evict.h. All but @wake_fd are atomic. */
struct resident_budget {
	uint64_t pages; /* that are there, in all memory that joined */
	uint64_t limit; /* pages; 0: none */
	uint64_t image_limit;
	int wake_fd;   /* eventfd: written by the insertion that passes a mark */
	uint8_t woken; /* it was, and nobody has looked yet */
};

/* Above this, whoever evicts begins; above the limit, whoever inserts has to help. */
static inline uint64_t resident_mark(uint64_t limit)
{
	return limit - limit / 32;
}

struct resident {
	struct image *image;
	uint64_t n_pages;
	int memfd;
	int uffd;      /* ours, over @base */
	uint8_t *base; /* shared mapping; never touched, only named to the kernel */
	struct frames frames;

	/* per page: it is in the memfd; atomic bits. May lag behind insertion */
	bitmap_word *present;
	uint64_t present_pages; /* atomic: bits set */

	bitmap_word *zeros; /* per block: a VM had zero pages of it installed; atomic bits */
	uint32_t n_zeros;   /* atomic: bits set, at most RESIDENT_ZERO_BLOCKS */

	uint64_t claimed_pages;	 /* atomic: inserted or just being inserted; see resident_audit() */
	uint64_t inserted_pages; /* atomic: ever */
	uint64_t evicted_pages;	 /* atomic: ever */
	uint64_t refaulted_pages;    /* atomic: inserted again after they had been evicted */
	bitmap_word *evicted;	     /* per page: was here before; atomic bits */
	uint64_t loose_pages;	     /* atomic: aliases and zeros that are there, or more */
	uint64_t evictions;	     /* atomic: holes punched */
	pthread_rwlock_t loose_lock; /* for reading: insert aliases or zeros; see invariant 4 */
	pthread_mutex_t evict_lock;  /* before loose_lock */
	/* atomic, changed under evict_lock: VMs that need all of it without asking us. While there
	 * are any, nothing is evicted */
	uint32_t n_kept;
	uint64_t frames_loaded; /* atomic */
	uint64_t bytes_read;	/* atomic: decoded bytes of frames read */
	bool poisoned;		/* atomic; for good */

	pthread_mutex_t failure_lock;
	struct frame_failure {
		uint32_t layer, frame;
		char text[512];
	} failures[RESIDENT_MAX_FAILURES];
	uint32_t n_failures;

	struct job *job; /* background.h: loads it without a session; the engine's */
	struct resident *next;
	struct session *sessions;
	uint32_t n_sessions;
	uint64_t idle_since_ns;

	struct resident_budget *budget; /* NULL: nobody counts */
	uint64_t idle_ns;		/* atomic: since when nobody uses it; 0: somebody does */
	bitmap_word *favoured;	  /* per frame: of a working set; atomic bits, never cleared */
	uint64_t favoured_frames; /* atomic: bits set */
	struct resident_hand {	  /* evict.c's, under its lock */
		uint64_t frame;	  /* where the clock's hand is */
		uint64_t gfn;	  /* and that of the loose pages */
		uint64_t vain;	  /* frames passed since it took one away */
		int64_t credit;
		uint64_t favoured; /* frames that are favoured and there, as of the last count */
		uint8_t exhausted; /* up to which level; 0: not */
	} hand;
};

/** bounce_init() - mapped, populated, and locked if that is allowed. Return: 0; negative errno */
int bounce_init(struct bounce *b);
void bounce_deinit(struct bounce *b);

/** resident_new() - an empty one; @image is referenced. Return: 0; negative errno, @problem says */
int resident_new(struct image *image, struct problem *problem, struct resident **ret);

/** resident_free() - when no session and no job has it; VMs keep what they have mapped */
struct resident *resident_free(struct resident *r);
DEFINE_CLEANUP(struct resident *, resident_free)

/**
 * resident_take_back() - the same over a memfd that an earlier pager made and VMs still map
 * @memfd: consumed in every case; read-write
 * What is in it is taken for the image's: an earlier pager put it there by invariant 1. Frames
 * whose owners' pages are all there are RESIDENT.
 * Return: 0; -EINVAL when it is not as large as the image; negative errno
 */
int resident_take_back(struct image *image, int memfd, struct problem *problem,
		       struct resident **ret);

/** resident_frame() - index of a frame in @frames */
static inline uint64_t resident_frame(const struct resident *r, uint32_t layer, uint32_t frame)
{
	return frames_index(&r->frames, layer, frame);
}

/**
 * resident_insert() - put all pages of a decoded frame there that have an owner
 * The caller has the frame LOADING.
 * @b:            @b->out holds the frame, verified, of @n_decoded pages
 * @pages:        room for IMAGE_FRAME_PAGES; ascending index
 * @ret_n_pages:  how many of them; set in every case
 * @ret_inserted: pages that were not there before, added to what it holds
 *
 * Blocks up to a third of a second when the host is out of memory.
 * Return: 0; RESIDENT_E_CORRUPT when the map names pages that the frame does not have, @problem
 * says; RESIDENT_E_POISONED; -ENOMEM; -EAGAIN; other negative errno
 */
int resident_insert(struct resident *r, struct bounce *b, uint32_t layer, uint32_t frame,
		    uint32_t n_decoded, struct frame_page pages[IMAGE_FRAME_PAGES],
		    uint32_t *ret_n_pages, uint64_t *ret_inserted, struct problem *problem);

/**
 * resident_copy_aliases() - insert pages whose content belongs to other, lower ones
 * @part:    a run of such pages, all of one frame, which is pinned or LOADING and just inserted
 * @decoded: the frame is in @b, from resident_insert(); otherwise the owners' pages are read from
 * the memfd, never through a mapping of it
 * @ret_inserted: pages that were not there before, added to what it holds
 * Return: 0; RESIDENT_E_POISONED; -ENOMEM; -EAGAIN; other negative errno
 */
int resident_copy_aliases(struct resident *r, struct bounce *b, const struct page_run *part,
			  bool decoded, uint64_t *ret_inserted);

/** resident_source() - where the pager itself has a page: only for an owner's page of a frame that
 *  is pinned, and only to copy from it */
static inline const uint8_t *resident_source(const struct resident *r, uint64_t gfn)
{
	return r->base + gfn * DORM_PAGE_SIZE;
}

static inline bool resident_has(const struct resident *r, uint64_t gfn)
{
	return bitmap_test_atomic(r->present, gfn);
}

/**
 * resident_evict() - give the pages of a frame back to the host
 * VMs that have written to them keep what they wrote; the others come here again when they need
 * one. Pages whose content a VM has mapped vanish from its tables.
 * @ret_freed: pages, added to what it holds
 * @ret_wake:  who must be woken: they may have looked for the frame meanwhile
 * Return: was there something to evict, and nobody using it?
 */
bool resident_evict(struct resident *r, uint64_t index, uint64_t *ret_freed,
		    enum frame_wake *ret_wake);

/** resident_join() - count it in @b, which outlives it; before any other thread knows it */
void resident_join(struct resident *r, struct resident_budget *b);

/** resident_favour() - the frame is of a working set: the last to be evicted */
void resident_favour(struct resident *r, uint64_t index);

/** resident_is_favoured() - is the frame of a working set? Any thread */
static inline bool resident_is_favoured(const struct resident *r, uint64_t index)
{
	return bitmap_test_atomic(r->favoured, index);
}

/** resident_keep() - from now on (or no longer) a VM needs all of it without asking us */
void resident_keep(struct resident *r, bool keep);

/** resident_evict_loose() - the same for a run of pages that belong to no frame: zeros, aliases.
 *  Pages that do are left alone. Return: pages freed */
uint64_t resident_evict_loose(struct resident *r, uint64_t gfn, uint64_t n_pages);

/** resident_run() - pages from @i on with consecutive gfn and index. Return: how many, at least 1
 */
uint32_t resident_run(const struct frame_page *pages, uint32_t n, uint32_t i);

/**
 * resident_insert_zeros() - put pages of zeros into the memory itself, for all VMs
 * The caller has made sure that the map calls all of them zero.
 */
int resident_insert_zeros(struct resident *r, uint64_t gfn, uint64_t n_pages,
			  uint64_t *ret_inserted);

/** resident_remember_zeros() - a VM of this image needed these zero pages; the next one will too */
void resident_remember_zeros(struct resident *r, uint64_t gfn, uint64_t n_pages);

/**
 * resident_next_zeros() - zero pages that are worth installing when a VM attaches
 * @gfn: where to begin to look
 * @ret: a run of pages that the map calls zero, in remembered blocks
 * Return: was there one?
 */
bool resident_next_zeros(const struct resident *r, uint64_t gfn, struct page_run *ret);

/** resident_note_failure() - keep the reason why a frame failed, for those who come later */
void resident_note_failure(struct resident *r, uint32_t layer, uint32_t frame, const char *text);

/** resident_failure() - the reason, or a general one; @out holds 512 bytes */
void resident_failure(struct resident *r, uint32_t layer, uint32_t frame, char out[512]);

/**
 * resident_audit() - does the memfd hold exactly what was put there?
 * A VMM that touches the memfd through a mapping without userfaultfd makes pages of zeros in it,
 * which would be every other VM's pages too. Takes 50 ms when it finds something.
 * Return: 0; RESIDENT_E_POISONED (and @r->poisoned is set); negative errno
 */
int resident_audit(struct resident *r);

/** resident_poison_text() - what to tell the sessions of poisoned memory; @out holds 512 bytes */
void resident_poison_text(const struct resident *r, char out[512]);

/** resident_has_failures() - did a frame fail? Then a new copy of the image may be better */
bool resident_has_failures(struct resident *r);
