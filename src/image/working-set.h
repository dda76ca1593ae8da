/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * working-set.h - the pages that a restored guest needs to become useful: the file "working-set"
 *
 *     working_set_read()                        what a snapshot has, if anything
 *     working_set_add() ... working_set_write() one that was recorded
 *     working_set_deinit()
 *
 * It is a hint. It decides in which order pages are read and stored, never what is in them, so
 * nobody may fail for want of it: without one, or with one that cannot be used, a restore loads
 * pages as the guest asks for them, and is slower.
 *
 * Every page that was ever needed has a score, which rises with each recording that needed it and
 * decays with each that did not (working_set_merge()). What has the threshold or more is the set:
 * n_pages and runs. What has less is a candidate: kept in the weights only, and forgotten in time.
 *
 * Bound to the image id, which is that of the map: a sleep makes another content and starts without
 * one; clones and exports have the same map and take it along; a compaction writes another map with
 * the same content and therefore binds the same set anew. Any thread. Format: docs/format-image.md.
 */
#include <stdbool.h>

#include "base/bitmap.h"
#include "base/buf.h"
#include "base/mem.h"
#include "image/image.h"

#define WORKING_SET_NAME      "working-set"
#define WORKING_SET_MAX_BYTES (16u << 20) /* of the file */
#define WORKING_SET_MAX_RUNS  (1u << 21)  /* of the set; also weights */
#define WORKING_SET_MAX_SCORE 255u
#define WORKING_SET_FIRST     96u /* score of a page that was needed once */
#define WORKING_SET_THRESHOLD 64u /* the usual one */

struct working_set_run {
	uint64_t gfn;
	uint64_t n_pages; /* > 0 */
};

struct working_set_weight {
	uint64_t gfn;
	uint64_t n_pages; /* > 0 */
	uint8_t score;	  /* > 0 */
};

struct working_set {
	char image_id[IMAGE_ID_LEN + 1];
	uint64_t guest_pages; /* of the image: runs end at or before it */
	uint64_t n_pages;     /* in the set */
	size_t n_runs, cap_runs;
	struct working_set_run *runs; /* ascending, not touching */
	uint64_t recordings;	      /* merged into it; 0: not known */
	uint8_t threshold;	      /* 0: WORKING_SET_THRESHOLD */
	size_t n_weights, cap_weights;
	struct working_set_weight *weights; /* ascending; those of the runs and of candidates */
};

/* outcomes, beside those of image_open() */
enum {
	WORKING_SET_E_ABSENT = 56, /* there is none */
	WORKING_SET_E_STALE = 57,  /* it is of another image */
};

/** working_set_init() - an empty set for the pages of @image */
void working_set_init(struct working_set *s, const struct image *image);
void working_set_deinit(struct working_set *s);

/**
 * working_set_add() - the next pages, at or behind the end of what is in the set
 * Return: 0; -EINVAL when they are before that end or beyond the guest's; -EFBIG above
 * WORKING_SET_MAX_RUNS; -ENOMEM
 */
int working_set_add(struct working_set *s, uint64_t gfn, uint64_t n_pages);

/**
 * working_set_weigh() - the next pages, with a score: of the set if it is the threshold or more,
 * else candidates. Set the threshold before the first. Return: as working_set_add()
 */
int working_set_weigh(struct working_set *s, uint64_t gfn, uint64_t n_pages, uint8_t score);

/** working_set_threshold() - the one that is in force */
uint8_t working_set_threshold(const struct working_set *s);

/**
 * working_set_encode() - the bytes of the file
 * Return: 0; -EINVAL of an empty set; -EFBIG above WORKING_SET_MAX_BYTES; -ENOMEM
 */
int working_set_encode(const struct working_set *s, struct buf *ret);

/**
 * working_set_decode() - what working_set_encode() wrote
 * Accepts exactly one encoding of a set in files of the present version.
 * Return: 0; IMAGE_E_CORRUPT; IMAGE_E_VERSION; -ENOMEM
 */
int working_set_decode(const void *data, size_t len, struct problem *problem,
		       struct working_set *ret);

/**
 * working_set_read() - the set of a snapshot directory, if it is one of @image
 * Every positive outcome means the same for a restore: there is none. The problem says why.
 * Return: 0; WORKING_SET_E_ABSENT (no problem is described); WORKING_SET_E_STALE; IMAGE_E_CORRUPT;
 * IMAGE_E_VERSION; negative errno
 */
int working_set_read(int dirfd, const struct image *image, struct problem *problem,
		     struct working_set *ret);

/**
 * working_set_check() - is the set of a snapshot directory, if it has one, what it should be?
 * The problem says also what a bad one costs. Return: 0; IMAGE_E_CORRUPT, also when it is of
 * another image; IMAGE_E_VERSION; negative errno
 */
int working_set_check(int dirfd, const struct image *image, struct problem *problem);

/**
 * working_set_write() - write the file into a directory below tmp/, atomic and fsynced
 * In a snapshot that others see, a crash could leave a file that nobody knows: that is what
 * working_set_replace() is for. Return: as encode; negative errno
 */
int working_set_write(int dirfd, const struct working_set *s, struct problem *problem);

/**
 * working_set_replace() - put the file into a snapshot of a store, or a new one in its place
 * @root_fd: the store's root; the file is made in its tmp/
 * @dirfd:   the snapshot directory
 *
 * Written, fsynced, renamed, the directory fsynced: at any moment the old one is there or the new
 * one, and a crash leaves nothing but a file in tmp/, which store_open() removes. May run at the
 * same time as anything else; with another replace the later one wins. An error of the last step
 * leaves the new one. Return: as encode; -ENOENT when the snapshot was deleted meanwhile; negative
 * errno
 */
int working_set_replace(int root_fd, int dirfd, const struct working_set *s,
			struct problem *problem);

/* ---- refining it ------------------------------------------------------------------------------
 */

/* How the set that was there did, in pages. */
struct working_set_verdict {
	uint64_t needed_pages;
	uint64_t set_pages;	/* of the old set */
	uint64_t hit_pages;	/* of those: needed */
	uint64_t unknown_pages; /* of those: nobody can say */
};

/**
 * working_set_merge() - a new set from what there was and one more recording
 * @old:       of the same image; NULL or empty: this is the first recording
 * @needed:    a bit for each page of the guest
 * @unknown:   the same: of these nobody can say, unless they are needed; NULL: none
 * @max_pages: of the set; 0: half of the pages that the image stores, but at least 4096
 * @ret:       may be empty, if nothing was needed: then there is nothing to write. Released with working_set_deinit()
 * @ret_verdict: may be NULL
 *
 * The rules are at the head of working-set-merge.c. Time is that of walking the bitmaps. Any
 * thread. Return: 0; -EINVAL when @old is of another image; -ENOMEM
 */
int working_set_merge(const struct working_set *old, const struct image *image,
		      const bitmap_word *needed, const bitmap_word *unknown, uint64_t max_pages,
		      struct working_set *ret, struct working_set_verdict *ret_verdict);

/* ---- where it lies ----------------------------------------------------------------------------
 */

/* Through the sources of a set: begin with {.set, .image} and the rest zero. */
struct working_set_walk {
	const struct working_set *set;
	const struct image *image;
	size_t run;	 /* of the set */
	uint64_t n_done; /* pages of it */
};

/**
 * working_set_next() - the next pages of the set that have consecutive sources, in the order of gfn
 * The set must be of the image. Return: are there any?
 */
bool working_set_next(struct working_set_walk *w, struct page_run *ret);

/**
 * working_set_layout() - does the set lie first in each layer that has pages of it?
 * @ret_mixed: one for each layer: a frame with live pages that are not in the set lies before or
 *             among the frames of the set, so that these are no contiguous range of the file
 *
 * Allocates a bit per slot of those layers, reads nothing. Return: 0; -ENOMEM
 */
int working_set_layout(const struct working_set *s, const struct image *image, bool *ret_mixed);

/** working_set_is_contiguous() - is it in one range of each layer that has pages of it, alone? */
int working_set_is_contiguous(const struct working_set *s, const struct image *image, bool *ret);

struct frame_run {
	uint32_t layer;
	uint32_t first; /* frame */
	uint32_t n_frames;
};

struct working_set_frames {
	uint64_t n_frames;
	size_t n_runs;
	struct frame_run runs[]; /* by layer, then by frame; no two touch */
};

/**
 * working_set_frames() - the frames that hold the set, each once, in the order of the layer files
 * @ret: one allocation, free(). Without runs when the set has only zero pages
 *
 * The set must be of the image. Allocates a bit per frame of the image meanwhile; reads nothing.
 * Zero pages of the set are not in it: working_set_next() has them. Return: 0; -ENOMEM
 */
int working_set_frames(const struct working_set *s, const struct image *image,
		       struct working_set_frames **ret);
