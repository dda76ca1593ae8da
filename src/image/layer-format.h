/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * layer-format.h - header, index entries and footer of a layer file, as bytes and as structs
 *
 *     0      header                  LAYER_HEADER_BYTES
 *     64     frames, each at the offset that the index gives it
 *     ...    index                   n_frames * layer_entry_bytes()
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
#define LAYER_SEAL_BYTES   16u /* more in the entries of a sealed layer: the tag of AES-256-GCM */
#define LAYER_FOOTER_BYTES 80u
#define LAYER_MAX_FRAMES   (1u << 27) /* a full 4 TiB, were every frame only half full */

/* How frames are protected. */
enum layer_seal {
	LAYER_SEAL_XXH3,   /* a checksum */
	LAYER_SEAL_AES256, /* encrypted and authenticated, with the checksum of what is stored */
};

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

/** layer_entry_bytes() - of one entry of the index; a sealed one ends with its LAYER_SEAL_BYTES */
static inline uint32_t layer_entry_bytes(enum layer_seal seal)
{
	return seal == LAYER_SEAL_AES256 ? LAYER_ENTRY_BYTES + LAYER_SEAL_BYTES : LAYER_ENTRY_BYTES;
}

void layer_header_encode(const uint8_t id[LAYER_ID_BYTES], enum layer_seal seal,
			 uint8_t out[LAYER_HEADER_BYTES]);

/** layer_header_decode() - @what names the file in @problem. Return: 0 or an image outcome */
int layer_header_decode(const uint8_t in[LAYER_HEADER_BYTES], const char *what,
			uint8_t ret_id[LAYER_ID_BYTES], enum layer_seal *ret_seal,
			struct problem *problem);

/** layer_entry_encode() - the first LAYER_ENTRY_BYTES of an entry */
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
 * @seal: what the header says
 * Return: 0 or an image outcome
 */
int layer_footer_decode(const uint8_t in[LAYER_FOOTER_BYTES], uint64_t file_bytes, const char *what,
			enum layer_seal seal, struct layer_footer *ret, struct problem *problem);

#define LAYER_ABOUT_BYTES 26

/**
 * layer_about() - what AES-256-GCM authenticates along with a frame, beside its nonce: id, number,
 * stored length, codec and number of pages
 */
void layer_about(const uint8_t id[LAYER_ID_BYTES], uint32_t frame, const struct layer_frame *f,
		 uint8_t ret[LAYER_ABOUT_BYTES]);
