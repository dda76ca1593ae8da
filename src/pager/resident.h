/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * resident.h - the part of an image that is in RAM on this host
 *
 * One memfd per image, as large as the guest's memory and empty at first. Every VM of the image
 * maps it privately, so a page that is put here once is there for all of them. Frames come from the
 * image's layers when the first fault asks for them (resident_claim(), resident_load()). Guest
 * pages that share a slot of a frame with a lower one, its owner, are copied when they are asked
 * for (resident_copy_aliases()).
 *
 *     resident_new() -> [resident_claim(), resident_load(), resident_settle()]* -> resident_free()
 *
 * Threads: claim, load, settle, zero and the failure functions may be called by any fault thread at
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

#define RESIDENT_BLOCK_PAGES  16u   /* 64 KiB: what one bit of the zero map stands for */
#define RESIDENT_WINDOW_PAGES 512u  /* 2 MiB: no zero page is installed further from its fault */
#define RESIDENT_ZERO_BLOCKS  1024u /* remembered at most: 64 MiB to install when a VM attaches */
#define RESIDENT_MAX_FAILURES 8u

/* outcomes */
enum {
	RESIDENT_E_CORRUPT = 1,	 /* the frame's seal does not hold; it will never be installed */
	RESIDENT_E_POISONED = 2, /* the memfd holds a page that nobody here put there */
};

/*
 * A frame's state: one byte, changed only by compare-and-swap.
 *
 *   state            holds                                      left by
 *   ABSENT           none, or some, of its pages are there      claim -> LOADING
 *   LOADING          one thread reads and inserts it            settle -> RESIDENT|ABSENT|FAILED,
 *                                                               another's claim -> WAITED, ALIAS
 *   LOADING_WAITED   the same, and another thread waits         settle -> RESIDENT|ABSENT|FAILED,
 *                    for the page of an owner                   another's claim -> ALIAS
 *   LOADING_ALIAS    the same, and at least one waits for an    settle -> RESIDENT|ABSENT|FAILED
 *                    alias, which could be anywhere
 *   RESIDENT         every owner's page of it is there; aliases may not be    (final)
 *   FAILED           its seal did not hold                               (final)
 */
enum frame_state {
	FRAME_ABSENT,
	FRAME_LOADING,
	FRAME_LOADING_WAITED,
	FRAME_LOADING_ALIAS,
	FRAME_RESIDENT,
	FRAME_FAILED,
};

/* Who else must be woken when a frame was loaded. */
enum frame_wake {
	WAKE_NOBODY,
	WAKE_FRAME, /* the owners' pages of the frame, in every session */
	WAKE_ALL,   /* all memory of every session: an alias may be waited for, and it is not known
		       which */
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

struct resident {
	struct image *image;
	uint64_t n_pages;
	int memfd;
	int uffd;	 /* ours, over @base */
	uint8_t *base;	 /* shared mapping; never touched, only named to the kernel */
	uint8_t *states; /* enum frame_state of all frames of all layers, atomic */
	uint64_t *first; /* per layer: index of its frame 0 in @states */
	uint64_t n_frames;

	bitmap_word *zeros; /* per block: a VM had zero pages of it installed; atomic bits */
	uint32_t n_zeros;   /* atomic: bits set, at most RESIDENT_ZERO_BLOCKS */

	uint64_t claimed_pages;	 /* atomic: inserted or just being inserted; see resident_audit() */
	uint64_t inserted_pages; /* atomic */
	uint64_t frames_loaded;	 /* atomic */
	uint64_t bytes_read;	 /* atomic: decoded bytes of frames read */
	bool poisoned;		 /* atomic; for good */

	pthread_mutex_t failure_lock;
	struct frame_failure {
		uint32_t layer, frame;
		char text[512];
	} failures[RESIDENT_MAX_FAILURES];
	uint32_t n_failures;

	struct resident *next;
	struct session *sessions;
	uint32_t n_sessions;
	uint64_t idle_since_ns;
};

int bounce_init(struct bounce *b);
void bounce_deinit(struct bounce *b);

/** resident_new() - an empty one; @image is referenced. Return: 0; negative errno, @problem says */
int resident_new(struct image *image, struct problem *problem, struct resident **ret);
struct resident *resident_free(struct resident *r);
DEFINE_CLEANUP(struct resident *, resident_free)

/**
 * resident_claim() - who loads this frame?
 * @alias: the page that is waited for does not own its slot
 * Return: the state found. FRAME_ABSENT: it is LOADING now and the caller must load and settle it.
 * FRAME_LOADING*: it is marked now, and whoever loads it will wake all
 */
enum frame_state resident_claim(struct resident *r, uint32_t layer, uint32_t frame, bool alias);

/**
 * resident_settle() - leave LOADING
 * @state: FRAME_RESIDENT, FRAME_ABSENT (could not be done now) or FRAME_FAILED
 * Return: who must be woken, because of the marks that others left
 */
enum frame_wake resident_settle(struct resident *r, uint32_t layer, uint32_t frame,
				enum frame_state state);

/**
 * resident_load() - read a claimed frame and insert all of its pages that have an owner
 * @pages:        room for IMAGE_FRAME_PAGES; ascending index
 * @ret_n_pages:  how many of them; set in every case
 * @ret_inserted: pages that were not there before
 * @ret_bytes:    decoded bytes read
 *
 * Blocks for the read, and up to a third of a second when the host is out of memory.
 * Return: 0; RESIDENT_E_CORRUPT; RESIDENT_E_POISONED; -ENOMEM; -EAGAIN; other negative errno
 */
int resident_load(struct resident *r, struct bounce *b, uint32_t layer, uint32_t frame,
		  struct frame_page pages[IMAGE_FRAME_PAGES], uint32_t *ret_n_pages,
		  uint64_t *ret_inserted, uint64_t *ret_bytes, struct problem *problem);

/**
 * resident_copy_aliases() - insert pages whose content belongs to other, lower ones
 * @part:    a run of such pages, all of one frame, which is RESIDENT or was just loaded
 * @decoded: the frame is in @b, from resident_load(); otherwise the owners' pages are read from the
 *           memfd, never through a mapping of it
 * @ret_inserted: pages that were not there before, added to what it holds
 * Return: 0; RESIDENT_E_POISONED; -ENOMEM; -EAGAIN; other negative errno
 */
int resident_copy_aliases(struct resident *r, struct bounce *b, const struct page_run *part,
			  bool decoded, uint64_t *ret_inserted);

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
 * which would be every other VM's pages too.
 * Return: 0; RESIDENT_E_POISONED (and @r->poisoned is set); negative errno
 */
int resident_audit(struct resident *r);

/** resident_poison_text() - what to tell the sessions of poisoned memory; @out holds 512 bytes */
void resident_poison_text(const struct resident *r, char out[512]);

/** resident_has_failures() - did a frame fail? Then a new copy of the image may be better */
bool resident_has_failures(struct resident *r);
