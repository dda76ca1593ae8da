/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page-map-format.c - the map file
 *
 *     0          header     40 bytes: magic, version, layers, pages, runs, bytes of the runs
 *     40         layers     32 bytes each: id, digest of its index
 *     ...        runs       varints
 *     end - 16   XXH3-128 of everything before
 *
 * A run does not say where it begins: it begins where the last one ended. Its first varint is
 * n_pages * 2 + (1 if it has a source). With a source follow the layer's number and, as a zigzag
 * varint, how far its first slot is from the slot after the last one that this map took from the
 * same layer. Memory that was stored in one go costs 3 to 4 bytes per run that way.
 *
 * There is exactly one file for a map: varints are minimal (varint_get() refuses others), runs are
 * maximal, and the decoder checks that. So the digest of the file names the content.
 *
 * Source of the design: docs/format-image.md.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/error.h"
#include "base/varint.h"
#include "image/le.h"
#include "image/outcome.h"
#include "image/page-map.h"

#define HEADER_BYTES  40u
#define NAME_BYTES    (LAYER_ID_BYTES + DIGEST_BYTES)
#define MAX_SLOTS     ((uint64_t)LAYER_MAX_FRAMES * IMAGE_FRAME_PAGES)
#define MIN_RUN_BYTES 2u /* on average, as zero runs (1 byte) cannot follow each other */

static const char map_magic[] = "DORMMAP"; /* eight bytes with its zero */

#define ull(_v) ((unsigned long long)(_v))

/* ---- encoding ---------------------------------------------------------------------------------
 */

static int encode_runs(const struct page_map *m, uint64_t *expected, struct buf *ret)
{
	for (size_t i = 0; i < m->n_runs; i++) {
		const struct page_run *run = &m->runs[i];
		bool stored = run->layer != IMAGE_LAYER_ZERO;
		uint8_t raw[3 * VARINT_MAX];
		size_t n = varint_put(raw, run->n_pages << 1 | stored);
		int r;

		if (stored) {
			n += varint_put(raw + n, run->layer);
			n += varint_put(raw + n,
					varint_zigzag((int64_t)(run->slot - expected[run->layer])));
			expected[run->layer] = run->slot + run->n_pages;
		}
		r = buf_append(ret, raw, n);
		if (r < 0)
			return error_trace(r);
	}
	return 0;
}

/*
 * header   0 magic 8 | 8 major 2 | 10 minor 2 | 12 layers 4 | 16 pages 8 | 24 runs 8
 *          32 bytes of the runs 8
 */
static int encode_parts(const struct page_map *m, const struct layer_name *names, uint32_t n_layers,
			const struct buf *runs, struct buf *ret)
{
	uint8_t header[HEADER_BYTES];
	int r;

	memcpy(header, map_magic, 8);
	le_put16(header + 8, FORMAT_MAJOR);
	le_put16(header + 10, FORMAT_MINOR);
	le_put32(header + 12, n_layers);
	le_put64(header + 16, m->n_pages);
	le_put64(header + 24, m->n_runs);
	le_put64(header + 32, runs->len);
	r = buf_append(ret, header, sizeof(header));
	for (uint32_t i = 0; r == 0 && i < n_layers; i++) {
		r = buf_append(ret, names[i].id, LAYER_ID_BYTES);
		if (r == 0)
			r = buf_append(ret, names[i].digest, DIGEST_BYTES);
	}
	return r < 0 ? r : buf_append(ret, runs->data, runs->len);
}

int page_map_encode(const struct page_map *m, const struct layer_name *names, uint32_t n_layers,
		    struct buf *ret)
{
	_cleanup_free_ uint64_t *expected = calloc(MAX(n_layers, 1u), sizeof(*expected));
	_cleanup_buf_ struct buf runs = {0}, all = {0};
	XXH128_canonical_t sum;
	int r;

	if (!expected)
		return -ENOMEM;
	r = encode_runs(m, expected, &runs);
	if (r < 0)
		return error_trace(r);
	r = encode_parts(m, names, n_layers, &runs, &all);
	if (r < 0)
		return error_trace(r);
	XXH128_canonicalFromHash(&sum, XXH3_128bits(all.data, all.len));
	r = buf_append(&all, sum.digest, DIGEST_BYTES);
	if (r < 0)
		return error_trace(r);
	if (all.len > PAGE_MAP_MAX_BYTES)
		return error_trace(-EFBIG);
	*ret = all;
	all = (struct buf){0};
	return 0;
}

/* ---- decoding ---------------------------------------------------------------------------------
 */

struct header {
	uint32_t n_layers;
	uint64_t n_pages;
	uint64_t n_runs;
	uint64_t runs_len;
};

static int check_sum(const uint8_t *data, size_t len, struct problem *problem)
{
	XXH128_canonical_t sum;

	XXH128_canonicalFromHash(&sum, XXH3_128bits(data, len - DIGEST_BYTES));
	if (memcmp(sum.digest, data + len - DIGEST_BYTES, DIGEST_BYTES))
		return image_corrupt(problem,
				     "map: checksum mismatch over %zu bytes (checksum stored at "
				     "offset %zu): truncated or altered",
				     len - DIGEST_BYTES, len - DIGEST_BYTES);
	return 0;
}

static int decode_header(const uint8_t *data, size_t len, struct header *ret,
			 struct problem *problem)
{
	uint64_t room;
	int r;

	if (len < HEADER_BYTES + DIGEST_BYTES)
		return image_corrupt(problem, "map: %zu bytes are too few: truncated", len);
	if (memcmp(data, map_magic, 8))
		return image_corrupt(problem,
				     "map: header at offset 0: not a page map of Dormouse");
	r = image_check_version("map", le_get16(data + 8), le_get16(data + 10), problem);
	if (r)
		return r;
	r = check_sum(data, len, problem);
	if (r)
		return r;
	*ret = (struct header){.n_layers = le_get32(data + 12),
			       .n_pages = le_get64(data + 16),
			       .n_runs = le_get64(data + 24),
			       .runs_len = le_get64(data + 32)};
	if (ret->n_pages == 0 || ret->n_pages > IMAGE_MAX_PAGES)
		return image_corrupt(problem,
				     "map: header at offset 16: %llu pages, limits 1 to "
				     "%llu",
				     ull(ret->n_pages), IMAGE_MAX_PAGES);
	if (ret->n_layers > PAGE_MAP_MAX_LAYERS)
		return image_corrupt(problem, "map: header at offset 12: %u layers, limit %u",
				     ret->n_layers, PAGE_MAP_MAX_LAYERS);
	room = len - HEADER_BYTES - DIGEST_BYTES;
	if (room < (uint64_t)ret->n_layers * NAME_BYTES ||
	    room - (uint64_t)ret->n_layers * NAME_BYTES != ret->runs_len)
		return image_corrupt(
			problem,
			"map: header at offset 32: %u layers and %llu bytes of runs do "
			"not make a file of %zu bytes",
			ret->n_layers, ull(ret->runs_len), len);
	if (ret->n_runs > ret->n_pages || ret->n_runs > (ret->runs_len + 1) / MIN_RUN_BYTES)
		return image_corrupt(problem, "map: header at offset 24: %llu runs are too many",
				     ull(ret->n_runs));
	return 0;
}

static int compare_names(const void *a, const void *b)
{
	return memcmp(((const struct layer_name *)a)->id, ((const struct layer_name *)b)->id,
		      LAYER_ID_BYTES);
}

static int check_distinct(const struct layer_name *names, uint32_t n, struct problem *problem)
{
	_cleanup_free_ struct layer_name *sorted = malloc(MAX(n, 1u) * sizeof(*sorted));

	if (!sorted)
		return -ENOMEM;
	memcpy(sorted, names, n * sizeof(*names));
	qsort(sorted, n, sizeof(*sorted), compare_names);
	for (uint32_t i = 1; i < n; i++)
		if (!compare_names(&sorted[i - 1], &sorted[i]))
			return image_corrupt(problem,
					     "map: layers at offset %u: one is named twice",
					     HEADER_BYTES);
	return 0;
}

static int decode_names(const uint8_t *data, uint32_t n, struct layer_name **ret,
			struct problem *problem)
{
	_cleanup_free_ struct layer_name *names = malloc(MAX(n, 1u) * sizeof(*names));
	int r;

	if (!names)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		memcpy(names[i].id, data + (size_t)i * NAME_BYTES, LAYER_ID_BYTES);
		memcpy(names[i].digest, data + (size_t)i * NAME_BYTES + LAYER_ID_BYTES,
		       DIGEST_BYTES);
	}
	r = check_distinct(names, n, problem);
	if (r)
		return r;
	*ret = take_ptr(names);
	return 0;
}

/*
 * Read one run. Return: 0, or -EBADMSG with the reason in *@ret_why. Every number is in range when
 * it is 0: n_pages up to IMAGE_MAX_PAGES, the layer is named, all slots below MAX_SLOTS.
 */
static int decode_run(const uint8_t **p, const uint8_t *end, const struct header *h,
		      uint64_t *expected, struct page_run *ret, const char **ret_why)
{
	uint64_t head, layer, delta;
	int64_t slot;

	*ret_why = "bad number";
	if (varint_get(p, end, &head) < 0)
		return -EBADMSG;
	*ret = (struct page_run){.n_pages = head >> 1, .layer = IMAGE_LAYER_ZERO};
	*ret_why = "more pages than the image has, or none";
	if (ret->n_pages == 0 || ret->n_pages > h->n_pages)
		return -EBADMSG;
	if (!(head & 1))
		return 0;
	*ret_why = "bad number";
	if (varint_get(p, end, &layer) < 0 || varint_get(p, end, &delta) < 0)
		return -EBADMSG;
	*ret_why = "a layer that is not named";
	if (layer >= h->n_layers)
		return -EBADMSG;
	*ret_why = "a slot out of range";
	if (__builtin_add_overflow((int64_t)expected[layer], varint_unzigzag(delta), &slot) ||
	    slot < 0 || (uint64_t)slot > MAX_SLOTS - ret->n_pages)
		return -EBADMSG;
	ret->layer = (uint32_t)layer;
	ret->slot = (uint64_t)slot;
	expected[layer] = ret->slot + ret->n_pages;
	return 0;
}

static int decode_runs(const uint8_t *data, size_t offset, const struct header *h,
		       struct page_map *m, struct problem *problem)
{
	_cleanup_free_ uint64_t *expected = calloc(MAX(h->n_layers, 1u), sizeof(*expected));
	const uint8_t *p = data + offset, *end = p + h->runs_len, *start = p;
	const char *why = "more pages than the image has";
	uint64_t i;
	int r;

	if (!expected)
		return -ENOMEM;
	for (i = 0; i < h->n_runs; i++) {
		struct page_run run;

		start = p;
		if (decode_run(&p, end, h, expected, &run, &why) < 0)
			goto refuse;
		why = "more pages than the image has";
		if (run.n_pages > h->n_pages - m->n_pages)
			goto refuse;
		r = page_map_append(m, run.n_pages, run.layer, run.slot);
		if (r < 0)
			return error_trace(r);
		why = "continues the run before it";
		if (m->n_runs != i + 1)
			goto refuse;
	}
	start = p;
	why = "bytes follow the last run";
	if (p != end)
		goto refuse;
	why = "pages are missing after the last run";
	if (m->n_pages != h->n_pages)
		goto refuse;
	return 0;
refuse:
	return image_corrupt(problem, "map: run %llu at offset %zu: %s", ull(i),
			     (size_t)(start - data), why);
}

static int seal(struct page_map *m, struct problem *problem)
{
	struct page_run shared;
	int r = page_map_seal(m, &shared);

	if (r == -EEXIST)
		return image_corrupt(
			problem,
			"map: gfn %llu (layer %u of its list, slot %llu) has a page that "
			"another gfn has too",
			ull(shared.gfn), shared.layer, ull(shared.slot));
	return error_trace(r);
}

int page_map_decode(const void *data, size_t len, struct problem *problem, struct page_map *ret,
		    struct layer_name **ret_names, uint32_t *ret_n_layers)
{
	_cleanup_(page_map_deinit) struct page_map m = {0};
	_cleanup_free_ struct layer_name *names = NULL;
	struct header h;
	int r;

	r = decode_header(data, len, &h, problem);
	if (r)
		return r;
	r = decode_names((const uint8_t *)data + HEADER_BYTES, h.n_layers, &names, problem);
	if (r)
		return error_trace(r);
	r = decode_runs(data, HEADER_BYTES + (size_t)h.n_layers * NAME_BYTES, &h, &m, problem);
	if (r)
		return error_trace(r);
	r = seal(&m, problem);
	if (r)
		return r;
	*ret = m;
	m = (struct page_map){0};
	*ret_names = take_ptr(names);
	*ret_n_layers = h.n_layers;
	return 0;
}
