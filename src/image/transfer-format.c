/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transfer-format.c - the pieces of a snapshot's stream
 *
 * Each piece is checked before anything is done because of it: header and item heads have a
 * checksum of their own, a chunk has one that depends on where it belongs. The length of every
 * chunk follows from its item's, so that there is one way only to cut a file into chunks, and the
 * length of the stream is known before its first byte is sent.
 */
#include "image/transfer-format.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "base/str.h"
#include "image/image-internal.h"
#include "image/le.h"
#include "image/outcome.h"
#include "image/page-map.h"
#include "image/transfer.h"

#define ITEM_SHIFT 44 /* chunks of the largest item, and more */

static const char transfer_magic[] = "DORMXFR"; /* eight bytes with its zero */

#define ull(_v) ((unsigned long long)(_v))

uint64_t transfer_n_chunks(uint64_t bytes)
{
	return bytes / TRANSFER_CHUNK_BYTES + (bytes % TRANSFER_CHUNK_BYTES != 0);
}

uint32_t transfer_chunk_bytes(uint64_t bytes, uint64_t chunk)
{
	return (uint32_t)MIN(bytes - chunk * TRANSFER_CHUNK_BYTES, (uint64_t)TRANSFER_CHUNK_BYTES);
}

uint64_t transfer_tag(uint32_t item, uint64_t chunk, const void *data, size_t len)
{
	return XXH3_64bits_withSeed(data, len, ((uint64_t)item << ITEM_SHIFT) + chunk);
}

const char *transfer_kind_name(uint32_t kind)
{
	static const char *const names[] = {[TRANSFER_MANIFEST] = "manifest",
					    [TRANSFER_MAP] = "map",
					    [TRANSFER_SEAL] = "seal",
					    [TRANSFER_DEVICE] = "device",
					    [TRANSFER_LAYER] = "layer",
					    [TRANSFER_DISK] = "disk",
					    [TRANSFER_WORKING_SET] = "working set"};

	if (kind == TRANSFER_END)
		return "end";
	return kind < ARRAY_SIZE(names) && names[kind] ? names[kind] : "unknown";
}

/* ---- header: 0 magic 8 | 8 major 2 | 10 minor 2 | 12 reserved 4 | 16 total 8 | 24 sum 8 -------
 */

void transfer_header_encode(uint64_t total, uint8_t out[TRANSFER_HEADER_BYTES])
{
	memset(out, 0, TRANSFER_HEADER_BYTES);
	memcpy(out, transfer_magic, 8);
	le_put16(out + 8, TRANSFER_MAJOR);
	le_put16(out + 10, TRANSFER_MINOR);
	le_put64(out + 16, total);
	le_put64(out + 24, XXH3_64bits(out, 24));
}

static int check_version(uint32_t major, uint32_t minor, struct problem *problem)
{
	if (major == TRANSFER_MAJOR)
		return 0;
	if (major == 0)
		return transfer_fault(problem, "stream: format version 0 never existed");
	problem_set(problem, 400,
		    "stream: written by a newer Dormouse (format %u.%u, this program reads %d.x)",
		    major, minor, TRANSFER_MAJOR);
	problem_hint(problem, "upgrade Dormouse on this host");
	return IMAGE_E_VERSION;
}

int transfer_header_decode(const uint8_t in[TRANSFER_HEADER_BYTES], struct problem *problem,
			   uint64_t *ret_total)
{
	int r;

	if (memcmp(in, transfer_magic, 8))
		return transfer_fault(problem, "stream: not an exported snapshot of Dormouse");
	r = check_version(le_get16(in + 8), le_get16(in + 10), problem);
	if (r)
		return r;
	if (le_get64(in + 24) != XXH3_64bits(in, 24))
		return transfer_fault(problem, "stream: header at offset 0: checksum mismatch");
	if (le_get64(in + 16) < TRANSFER_HEADER_BYTES + TRANSFER_END_BYTES ||
	    le_get64(in + 16) > INT64_MAX)
		return transfer_fault(problem, "stream: header at offset 16: a length of %llu",
				      ull(le_get64(in + 16)));
	*ret_total = le_get64(in + 16);
	return 0;
}

/* ---- item: 0 kind 4 | 4 number 4 | 8 flags 4 | 12 reserved 4 | 16 bytes 8 | 24 layer 16 | 40 sum
 * 8
 */

void transfer_item_encode(const struct transfer_item *item, uint8_t out[TRANSFER_ITEM_BYTES])
{
	memset(out, 0, TRANSFER_ITEM_BYTES);
	le_put32(out, item->kind);
	le_put32(out + 4, item->number);
	le_put32(out + 8, item->flags);
	le_put64(out + 16, item->bytes);
	memcpy(out + 24, item->layer, LAYER_ID_BYTES);
	le_put64(out + 40, XXH3_64bits(out, 40));
}

static int check_flags(const struct transfer_item *item, struct problem *problem)
{
	const uint32_t known = TRANSFER_LEFT_OUT | TRANSFER_IGNORABLE;

	if (item->flags & ~known ||
	    ((item->flags & TRANSFER_LEFT_OUT) &&
	     (item->kind != TRANSFER_LAYER || item->flags != TRANSFER_LEFT_OUT)))
		return transfer_fault(problem,
				      "stream: item %u (%s): flags 0x%x are not known here",
				      item->number, transfer_kind_name(item->kind), item->flags);
	return 0;
}

int transfer_item_decode(const uint8_t in[TRANSFER_ITEM_BYTES], uint32_t number,
			 struct problem *problem, struct transfer_item *ret)
{
	struct transfer_item item = {.kind = le_get32(in),
				     .number = le_get32(in + 4),
				     .flags = le_get32(in + 8),
				     .bytes = le_get64(in + 16)};

	if (le_get64(in + 40) != XXH3_64bits(in, 40))
		return transfer_fault(problem, "stream: head of item %u: checksum mismatch",
				      number);
	if (item.number != number || number >= TRANSFER_MAX_ITEMS)
		return transfer_fault(problem, "stream: item %u comes where item %u belongs",
				      item.number, number);
	if (item.bytes > TRANSFER_MAX_ITEM_BYTES)
		return transfer_fault(problem, "stream: item %u (%s): %llu bytes, limit %llu",
				      number, transfer_kind_name(item.kind), ull(item.bytes),
				      TRANSFER_MAX_ITEM_BYTES);
	memcpy(item.layer, in + 24, LAYER_ID_BYTES);
	*ret = item;
	return check_flags(&item, problem);
}

/* ---- chunk: 0 bytes 4 | 4 flags 4 | 8 tag 8 ---------------------------------------------------
 */

void transfer_chunk_encode(const struct transfer_chunk *chunk,
			   uint8_t out[TRANSFER_CHUNK_HEAD_BYTES])
{
	le_put32(out, chunk->bytes);
	le_put32(out + 4, chunk->flags);
	le_put64(out + 8, chunk->tag);
}

int transfer_chunk_decode(const uint8_t in[TRANSFER_CHUNK_HEAD_BYTES],
			  const struct transfer_item *item, uint64_t chunk, struct problem *problem,
			  struct transfer_chunk *ret)
{
	const uint32_t allowed = item->kind == TRANSFER_DISK ? TRANSFER_ZERO : 0;
	struct transfer_chunk c = {
		.bytes = le_get32(in), .flags = le_get32(in + 4), .tag = le_get64(in + 8)};

	if (c.bytes != transfer_chunk_bytes(item->bytes, chunk))
		return transfer_fault(problem, "stream: item %u (%s), chunk %llu: %u bytes, not %u",
				      item->number, transfer_kind_name(item->kind), ull(chunk),
				      c.bytes, transfer_chunk_bytes(item->bytes, chunk));
	if (c.flags & ~allowed)
		return transfer_fault(problem,
				      "stream: item %u (%s), chunk %llu: flags 0x%x are not known "
				      "here",
				      item->number, transfer_kind_name(item->kind), ull(chunk),
				      c.flags);
	*ret = c;
	return 0;
}

/* ---- what belongs together --------------------------------------------------------------------
 */

static int check_layers(const struct manifest_files *files, const struct layer_name *names,
			uint32_t n, struct problem *problem)
{
	if (files->n_layers != n)
		return image_corrupt(problem, "map: %u layers, the manifest has %u", n,
				     files->n_layers);
	for (uint32_t i = 0; i < n; i++) {
		char id[IMAGE_ID_LEN + 1], digest[DIGEST_LEN + 1];

		str_hex(names[i].id, LAYER_ID_BYTES, id);
		str_hex(names[i].digest, DIGEST_BYTES, digest);
		if (strcmp(files->layers[i].id, id) || strcmp(files->layers[i].digest, digest))
			return image_corrupt(problem,
					     "layer %s: the manifest has another one there", id);
	}
	return 0;
}

int transfer_check_map(const struct manifest *m, const struct manifest_files *files,
		       const void *map, size_t len, struct problem *problem)
{
	_cleanup_(page_map_deinit) struct page_map decoded = {0};
	_cleanup_free_ struct layer_name *names = NULL;
	char id[IMAGE_ID_LEN + 1];
	uint32_t n_layers;
	int r;

	r = image_make_id(map, len, id);
	if (r < 0)
		return r;
	if (strcmp(id, m->image_id))
		return image_corrupt(problem, "map: its image id is %s, the manifest says %s", id,
				     m->image_id);
	r = page_map_decode(map, len, problem, &decoded, &names, &n_layers);
	if (r)
		return r;
	if (decoded.n_pages != m->memory_bytes / DORM_PAGE_SIZE)
		return image_corrupt(problem, "map: %llu pages, the manifest says %llu bytes",
				     ull(decoded.n_pages), ull(m->memory_bytes));
	return check_layers(files, names, n_layers, problem);
}
