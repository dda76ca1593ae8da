/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * transfer-format.h - the pieces of a snapshot's stream, as bytes and as structs
 *
 *     header                          TRANSFER_HEADER_BYTES
 *     item, item, ...                 manifest, map, seal, device, layers, disks, working set
 *         head                        TRANSFER_ITEM_BYTES
 *         chunk, chunk, ...           TRANSFER_CHUNK_HEAD_BYTES + the bytes
 *     item of the kind END            TRANSFER_ITEM_BYTES + XXH3-128 of all before
 *
 * Pure functions on buffers: no I/O. The byte-exact description is docs/format-transfer.md.
 */
#include <stdint.h>

#include "base/problem.h"
#include "image/layer-format.h"
#include "image/manifest.h"

#define TRANSFER_MAJOR		  1
#define TRANSFER_MINOR		  0
#define TRANSFER_HEADER_BYTES	  32u
#define TRANSFER_ITEM_BYTES	  48u
#define TRANSFER_CHUNK_HEAD_BYTES 16u
#define TRANSFER_CHUNK_BYTES	  (1u << 20)
#define TRANSFER_END_BYTES	  (TRANSFER_ITEM_BYTES + DIGEST_BYTES)
#define TRANSFER_MAX_ITEMS	  8192u
#define TRANSFER_MAX_ITEM_BYTES	  (1ull << 44) /* 16 TiB: of a layer or a disk */
#define TRANSFER_MAX_SEAL_BYTES	  (1u << 20)
#define TRANSFER_MAX_SET_BYTES	  (16u << 20)

/* In the order in which they come. */
enum transfer_kind {
	TRANSFER_MANIFEST = 1,
	TRANSFER_MAP = 2,
	TRANSFER_SEAL = 3,
	TRANSFER_DEVICE = 4,
	TRANSFER_LAYER = 5,
	TRANSFER_DISK = 6,
	TRANSFER_WORKING_SET = 7,
	TRANSFER_END = 0xffff,
};

/* flags of an item */
#define TRANSFER_LEFT_OUT  1u /* a layer that the receiver has: no chunks follow */
#define TRANSFER_IGNORABLE 2u /* a reader that does not know the kind skips it */

/* flags of a chunk */
#define TRANSFER_ZERO 1u /* of a disk: all zero, and no bytes follow */

struct transfer_item {
	uint32_t kind; /* enum transfer_kind, or one that a later version has added */
	uint32_t number;
	uint32_t flags;
	uint64_t bytes; /* of the file, whether chunks follow or not */
	uint8_t layer[LAYER_ID_BYTES];
};

struct transfer_chunk {
	uint32_t bytes; /* 1 .. TRANSFER_CHUNK_BYTES */
	uint32_t flags;
	uint64_t tag;
};

/** transfer_n_chunks() - how many chunks an item of @bytes has */
uint64_t transfer_n_chunks(uint64_t bytes);

/** transfer_chunk_bytes() - length of chunk @chunk of an item of @bytes */
uint32_t transfer_chunk_bytes(uint64_t bytes, uint64_t chunk);

/** transfer_tag() - XXH3-64 of a chunk, bound to its place; @len is 0 for one of zeros */
uint64_t transfer_tag(uint32_t item, uint64_t chunk, const void *data, size_t len);

/** transfer_kind_name() - "map", "layer"... */
const char *transfer_kind_name(uint32_t kind);

void transfer_header_encode(uint64_t total, uint8_t out[TRANSFER_HEADER_BYTES]);

/** transfer_header_decode() - Return: 0; TRANSFER_E_STREAM; IMAGE_E_VERSION */
int transfer_header_decode(const uint8_t in[TRANSFER_HEADER_BYTES], struct problem *problem,
			   uint64_t *ret_total);

void transfer_item_encode(const struct transfer_item *item, uint8_t out[TRANSFER_ITEM_BYTES]);

/**
 * transfer_item_decode() - and check it for itself: checksum, number, flags, length
 * @number: what its number has to be
 * Return: 0; TRANSFER_E_STREAM
 */
int transfer_item_decode(const uint8_t in[TRANSFER_ITEM_BYTES], uint32_t number,
			 struct problem *problem, struct transfer_item *ret);

void transfer_chunk_encode(const struct transfer_chunk *chunk,
			   uint8_t out[TRANSFER_CHUNK_HEAD_BYTES]);

/**
 * transfer_chunk_decode() - and check it against its item
 * Return: 0; TRANSFER_E_STREAM
 */
int transfer_chunk_decode(const uint8_t in[TRANSFER_CHUNK_HEAD_BYTES],
			  const struct transfer_item *item, uint64_t chunk, struct problem *problem,
			  struct transfer_chunk *ret);

/**
 * transfer_check_map() - do a manifest and the bytes of a map belong together?
 * Image id, number of pages, and the layers with their digests, one by one.
 * Return: 0; IMAGE_E_CORRUPT; IMAGE_E_VERSION; -ENOMEM
 */
int transfer_check_map(const struct manifest *m, const struct manifest_files *files,
		       const void *map, size_t len, struct problem *problem);

/** transfer_fault() - describe what is wrong with a stream; evaluates to TRANSFER_E_STREAM */
#define transfer_fault(_problem, ...) (problem_set((_problem), 400, __VA_ARGS__), TRANSFER_E_STREAM)
