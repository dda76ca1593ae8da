/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * layer.h - one immutable layer file, open for reading
 *
 * layer_open() reads and checks header, footer and index, which then live in memory; frames are
 * read, verified and decoded one at a time. Read-only afterwards: any thread, at once.
 *
 * A layer may belong to several open images (layer_ref()). One that is *missing* stands for a file
 * that the directory does not have: it has an id, a digest, and no frames.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/problem.h"
#include "image/layer-format.h"

struct layer;

/**
 * layer_open() - open the layer @id of a snapshot
 * @layers_dirfd: the directory that has a file of this name
 * @key: LAYER_KEY_BYTES of a sealed layer, copied; NULL without, then a sealed one can only be
 * checked
 * Return: 0; IMAGE_E_CORRUPT; IMAGE_E_VERSION; IMAGE_E_KEY when a key is given for a layer that is
 * not sealed; negative errno
 */
int layer_open(int layers_dirfd, const uint8_t id[LAYER_ID_BYTES], const uint8_t *key,
	       struct problem *problem, struct layer **ret);

/** layer_open_fd_consume() - the same from a descriptor of a regular file of @bytes bytes */
int layer_open_fd_consume(int fd, uint64_t bytes, const uint8_t id[LAYER_ID_BYTES],
			  const uint8_t *key, struct problem *problem, struct layer **ret);

/**
 * layer_open_raw_fd() - a flat file of pages as a layer: frame i is its i-th IMAGE_FRAME_BYTES
 * @fd:    borrowed and duplicated; a regular file
 * @bytes: its size, a multiple of the page size, > 0 and at most IMAGE_MAX_PAGES pages; the last
 *         frame is short where it is no multiple of a frame
 * @what:  names the file in problems
 *
 * The index is made up: every frame is plain, and none has a tag, so that what is read is *not
 * verified*; there is nothing to compare it with. layer_digest() is zeros.
 * Return: 0; negative errno
 */
int layer_open_raw_fd(int fd, uint64_t bytes, const uint8_t id[LAYER_ID_BYTES], const char *what,
		      struct layer **ret);

/** layer_is_raw() - is it a flat file, which cannot be verified? */
bool layer_is_raw(const struct layer *l);

/** layer_new_missing() - a layer of which only the name is known */
int layer_new_missing(const uint8_t id[LAYER_ID_BYTES], const uint8_t digest[DIGEST_BYTES],
		      struct layer **ret);
bool layer_is_missing(const struct layer *l);

struct layer *layer_ref(struct layer *l);
/** layer_close() - give back one reference */
struct layer *layer_close(struct layer *l);
DEFINE_CLEANUP(struct layer *, layer_close)

const char *layer_id(const struct layer *l); /* hexadecimal */
/** layer_digest() - DIGEST_BYTES bytes: XXH3-128 of the index, which holds every frame's tag */
const uint8_t *layer_digest(const struct layer *l);
uint64_t layer_bytes(const struct layer *l);
bool layer_is_sealed(const struct layer *l);
/** layer_frame_bytes() - stored bytes of a frame; @frame < layer_n_frames() */
uint32_t layer_frame_bytes(const struct layer *l, uint32_t frame);
uint32_t layer_n_frames(const struct layer *l);
/** layer_frame_pages() - pages in a frame; @frame < layer_n_frames() */
uint32_t layer_frame_pages(const struct layer *l, uint32_t frame);

/** layer_read_frame() - see image_read_frame(); IMAGE_E_KEY of a sealed layer without a key;
 * IMAGE_E_MISSING */
int layer_read_frame(const struct layer *l, uint32_t frame, void *scratch, void *out,
		     uint32_t *ret_n_pages, struct problem *problem);

/** layer_read_frame_nowait() - see image_read_frame_nowait() */
int layer_read_frame_nowait(const struct layer *l, uint32_t frame, void *scratch, void *out,
			    uint32_t *ret_n_pages, struct problem *problem);

/** layer_decode_frame() - see image_decode_frame() */
int layer_decode_frame(const struct layer *l, uint32_t frame, const void *stored, void *out,
		       uint32_t *ret_n_pages, struct problem *problem);

/** layer_frame_is_plain() - are the stored bytes the pages themselves, at a multiple of 4096? */
bool layer_frame_is_plain(const struct layer *l, uint32_t frame);
/** layer_frame_offset() - where its stored bytes begin in the file */
uint64_t layer_frame_offset(const struct layer *l, uint32_t frame);
/** layer_fd() - the descriptor it is read with; borrowed */
int layer_fd(const struct layer *l);
/** layer_direct_fd() - the same file with O_DIRECT, opened by the first call; borrowed; -1: none */
int layer_direct_fd(struct layer *l);

/** layer_check_frame() - see image_check_frame() */
int layer_check_frame(const struct layer *l, uint32_t frame, void *scratch,
		      struct problem *problem);
