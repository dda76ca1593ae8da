/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * layer-format.h - header, index entries and footer of a layer file, as bytes and as structs
 *
 *     0      header                  LAYER_HEADER_BYTES
 *     64     frames, each at the offset that the index gives it
 *     ...    index                   n_frames * LAYER_ENTRY_BYTES
 *     end-80 footer                  LAYER_FOOTER_BYTES
 *
 * Pure functions on buffers: no I/O. The byte-exact description is docs/format-image.md.
 */
#include <stddef.h>
#include <stdint.h>

#include "base/problem.h"
#include "image/plain-file.h"

#define LAYER_ID_BYTES	   16
#define LAYER_KEY_BYTES	   32 /* AES-256 */
#define LAYER_HEADER_BYTES 64u
#define LAYER_ENTRY_BYTES  24u
#define LAYER_FOOTER_BYTES 80u
#define LAYER_MAX_FRAMES   (1u << 27) /* a full 4 TiB, were every frame only half full */

/* One frame as the index describes it. */
struct layer_frame {
	uint64_t offset;
	uint64_t tag;	     /* layer_tag() of the stored bytes */
	uint32_t stored_len; /* bytes in the file */
	uint8_t codec;	     /* enum image_codec */
	uint8_t n_pages;     /* 1 .. IMAGE_FRAME_PAGES */
};

struct layer_footer {
	uint8_t id[LAYER_ID_BYTES];
	uint32_t n_frames;
	uint64_t n_pages; /* of all frames */
	uint64_t index_offset;
	uint64_t index_len;
	uint8_t digest[DIGEST_BYTES]; /* XXH3-128 of the index */
};

/** layer_tag() - XXH3-64 of a frame's stored bytes, bound to its layer and its number */
uint64_t layer_tag(const uint8_t id[LAYER_ID_BYTES], uint32_t frame, const void *stored,
		   size_t len);

void layer_header_encode(const uint8_t id[LAYER_ID_BYTES], uint8_t out[LAYER_HEADER_BYTES]);

/** layer_header_decode() - @what names the file in @problem. Return: 0 or an image outcome */
int layer_header_decode(const uint8_t in[LAYER_HEADER_BYTES], const char *what,
			uint8_t ret_id[LAYER_ID_BYTES], struct problem *problem);

void layer_entry_encode(const struct layer_frame *f, uint8_t out[LAYER_ENTRY_BYTES]);

/**
 * layer_entry_decode() - and check it for itself: codec, number of pages, length, alignment
 * Return: 0, or why it is refused, as a constant text in *@ret_why
 */
int layer_entry_decode(const uint8_t in[LAYER_ENTRY_BYTES], struct layer_frame *ret,
		       const char **ret_why);

void layer_footer_encode(const struct layer_footer *f, uint8_t out[LAYER_FOOTER_BYTES]);

/**
 * layer_footer_decode() - and check it against the size of the file
 * Return: 0 or an image outcome
 */
int layer_footer_decode(const uint8_t in[LAYER_FOOTER_BYTES], uint64_t file_bytes, const char *what,
			struct layer_footer *ret, struct problem *problem);
