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
 * Bound to the image id, which is that of the map: a sleep makes another content and starts without
 * one; clones and exports have the same map and take it along; a compaction writes another map with
 * the same content and therefore binds the same set anew. Any thread. Format: docs/format-image.md.
 */
#include <stdbool.h>

#include "base/buf.h"
#include "base/mem.h"
#include "image/image.h"

#define WORKING_SET_NAME      "working-set"
#define WORKING_SET_MAX_BYTES (16u << 20) /* of the file */
#define WORKING_SET_MAX_RUNS  (1u << 21)

struct working_set_run {
	uint64_t gfn;
	uint64_t n_pages; /* > 0 */
};

struct working_set {
	char image_id[IMAGE_ID_LEN + 1];
	uint64_t guest_pages; /* of the image: runs end at or before it */
	uint64_t n_pages;     /* in the set */
	size_t n_runs, cap_runs;
	struct working_set_run *runs; /* ascending, not touching */
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

/** working_set_encode() - the bytes of the file. Return: 0; -EINVAL of an empty set; -ENOMEM */
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

/** working_set_write() - write or replace the file, atomic and fsynced. Return: as encode; negative
 * errno */
int working_set_write(int dirfd, const struct working_set *s, struct problem *problem);

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
