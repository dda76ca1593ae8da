/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * frame-packer.h - pages into the frames of one new layer
 *
 *     frame_packer_new() -> frame_packer_put() ... frame_packer_settle() -> frame_packer_finish()
 *
 * The layer file is created when its first frame is full: without pages there is none. One thread.
 * After an error only free is allowed. For image-writer.c and compact-move.c.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/problem.h"
#include "image/layer-writer.h"
#include "image/page-map.h"

struct frame_packer;

/**
 * frame_packer_new() - begin a layer with a new random id
 * @layers_dirfd: where its file will be; borrowed until the packer is freed
 * @frame_pages:  most pages in a frame; 0 for IMAGE_FRAME_PAGES
 * Return: 0; -EINVAL; -ENOMEM
 */
int frame_packer_new(int layers_dirfd, const struct layer_options *options, uint32_t frame_pages,
		     struct problem *problem, struct frame_packer **ret);
struct frame_packer *frame_packer_free(struct frame_packer *p);
DEFINE_CLEANUP(struct frame_packer *, frame_packer_free)

/**
 * frame_packer_put() - store a page, or find the same one stored before
 * @gfn:  where the guest has it, which decides what shares a frame with it
 * @page: must stay as it is until frame_packer_settle()
 * Return: 0 stored; 1 shared with a page put before; negative errno
 */
int frame_packer_put(struct frame_packer *p, uint64_t gfn, const uint8_t *page, uint32_t *ret_slot,
		     struct problem *problem);

/**
 * frame_packer_end_frame() - what is put from here on goes into other frames
 * For the end of something that is to be a range of the file of its own. The memory of the pages
 * that were put is no longer needed.
 */
int frame_packer_end_frame(struct frame_packer *p, struct problem *problem);

/** frame_packer_settle() - the memory of the pages that were put is no longer needed */
void frame_packer_settle(struct frame_packer *p);

/**
 * frame_packer_finish() - complete the layer file, fsynced
 * @ret_name:  filled when there is a layer
 * @ret_bytes: size of the file; 0 when there is none
 */
int frame_packer_finish(struct frame_packer *p, struct layer_name *ret_name, uint64_t *ret_bytes,
			struct problem *problem);

/** frame_packer_frames() - frames written so far */
uint32_t frame_packer_frames(const struct frame_packer *p);
