/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * frame-cache.h - the frames of an image that were read last, decoded
 *
 * For going through an image in the order of the guest, whose neighbouring pages are in frames of
 * different layers. A few frames per layer, at most 256 (16 MiB). One thread.
 */
#include "image/image.h"

struct frame_cache;

/** frame_cache_new() - @image: borrowed. Return: 0; -ENOMEM */
int frame_cache_new(const struct image *image, struct frame_cache **ret);
struct frame_cache *frame_cache_free(struct frame_cache *c);
DEFINE_CLEANUP(struct frame_cache *, frame_cache_free)

/** frame_cache_find() - the frame's pages, or NULL when it must be read. Good until the next read
 */
const uint8_t *frame_cache_find(struct frame_cache *c, uint32_t layer, uint32_t frame);

/**
 * frame_cache_read() - read and verify a frame, forgetting another
 * @ret: the frame's pages; good until the next read
 * Return: as image_read_frame()
 */
int frame_cache_read(struct frame_cache *c, uint32_t layer, uint32_t frame, const uint8_t **ret,
		     uint32_t *ret_n_pages, struct problem *problem);
