/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page-map-format.c - the map file
 *
 *     0          header     40 bytes: magic, version, layers, pages, runs, bytes of the runs
 *     40         layers     32 bytes each: id, digest of its index
 *     ...        runs       page-map-runs.c; of version 1.x page-map-format-1.c
 *     end - 16   XXH3-128 of everything before
 *
 * There is exactly one file for a map: runs are maximal and each has one encoding. So the digest of
 * the file names the content.
 *
 * Source of the design: docs/format-image.md.
 */
#include "image/page-map-format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/error.h"
#include "image/le.h"
#include "image/outcome.h"

static const char map_magic[] = "DORMMAP"; /* eight bytes with its zero */

#define ull(_v) ((unsigned long long)(_v))

/* ---- encoding ---------------------------------------------------------------------------------
 */

/*
 * header   0 magic 8 | 8 major 2 | 10 minor 2 | 12 layers 4 | 16 pages 8 | 24 runs 8
 *          32 bytes of the runs 8
 */
static void put_header(const struct page_map *m, uint32_t n_layers, uint64_t n_runs,
		       uint64_t runs_len, uint8_t *out)
{
	memcpy(out, map_magic, 8);
	le_put16(out + 8, FORMAT_MAJOR);
	le_put16(out + 10, FORMAT_MINOR);
	le_put32(out + 12, n_layers);
	le_put64(out + 16, m->n_pages);
	le_put64(out + 24, n_runs);
	le_put64(out + 32, runs_len);
}

static void put_names(const struct layer_name *names, uint32_t n_layers, uint8_t *out)
{
	for (uint32_t i = 0; i < n_layers; i++, out += MAP_NAME_BYTES) {
		memcpy(out, names[i].id, LAYER_ID_BYTES);
		memcpy(out + LAYER_ID_BYTES, names[i].digest, DIGEST_BYTES);
	}
}

static void put_sum(uint8_t *data, size_t len)
{
	XXH128_canonical_t sum;

	XXH128_canonicalFromHash(&sum, XXH3_128bits(data, len));
	memcpy(data + len, sum.digest, DIGEST_BYTES);
}

/*
 * One allocation of what the worst map of so many runs takes. Memory that is never written to costs
 * nothing, and at the end what was too much is given back.
 */
int page_map_encode(const struct page_map *m, const struct layer_name *names, uint32_t n_layers,
		    struct buf *ret)
{
	const size_t start = MAP_HEADER_BYTES + (size_t)n_layers * MAP_NAME_BYTES;
	_cleanup_buf_ struct buf all = {0};
	uint64_t n_runs;
	uint8_t *out;
	size_t len;
	int r;

	r = buf_reserve(&all,
			start + m->n_runs * MAP_RUN_MAX_BYTES + VARINT_MAX + DIGEST_BYTES + 1);
	if (r < 0)
		return error_trace(r);
	out = (uint8_t *)all.data;
	r = map_encode_runs(m, n_layers, out + start, &len, &n_runs);
	if (r < 0)
		return error_trace(r);
	all.len = start + len + DIGEST_BYTES;
	if (all.len > PAGE_MAP_MAX_BYTES || n_runs > PAGE_MAP_MAX_RUNS)
		return error_trace(-EFBIG);
	put_header(m, n_layers, n_runs, len, out);
	put_names(names, n_layers, out + MAP_HEADER_BYTES);
	put_sum(out, start + len);
	out[all.len] = 0; /* as buf_append() would */
	out = realloc(all.data, all.len + 1);
	if (out) {
		all.data = (char *)out;
		all.cap = all.len + 1;
	}
	*ret = all;
	all = (struct buf){0};
	return 0;
}

/* ---- decoding ---------------------------------------------------------------------------------
 */

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

/* That memory is allocated for: a run has at least a page and, on average, so many bytes. */
static uint64_t most_runs(const struct map_header *h)
{
	/* 1.x: zero runs have one byte, others three, and zero runs do not follow each other */
	uint64_t n = h->major == 1 ? (h->runs_len + 1) / 2 : MIN(h->runs_len, PAGE_MAP_MAX_RUNS);

	return MIN(n, h->n_pages);
}

static int decode_header(const uint8_t *data, size_t len, struct map_header *ret,
			 struct problem *problem)
{
	uint64_t room;
	int r;

	if (len < MAP_HEADER_BYTES + DIGEST_BYTES)
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
	*ret = (struct map_header){.major = le_get16(data + 8),
				   .n_layers = le_get32(data + 12),
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
	room = len - MAP_HEADER_BYTES - DIGEST_BYTES;
	if (room < (uint64_t)ret->n_layers * MAP_NAME_BYTES ||
	    room - (uint64_t)ret->n_layers * MAP_NAME_BYTES != ret->runs_len)
		return image_corrupt(
			problem,
			"map: header at offset 32: %u layers and %llu bytes of runs do "
			"not make a file of %zu bytes",
			ret->n_layers, ull(ret->runs_len), len);
	if (ret->n_runs > most_runs(ret))
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
					     MAP_HEADER_BYTES);
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
		memcpy(names[i].id, data + (size_t)i * MAP_NAME_BYTES, LAYER_ID_BYTES);
		memcpy(names[i].digest, data + (size_t)i * MAP_NAME_BYTES + LAYER_ID_BYTES,
		       DIGEST_BYTES);
	}
	r = check_distinct(names, n, problem);
	if (r)
		return r;
	*ret = take_ptr(names);
	return 0;
}

int map_refuse_run(struct problem *problem, uint64_t run, size_t offset, const char *why)
{
	return image_corrupt(problem, "map: run %llu at offset %zu: %s", ull(run), offset, why);
}

static int decode_runs(const uint8_t *data, const struct map_header *h, struct page_map *m,
		       struct problem *problem)
{
	const size_t offset = MAP_HEADER_BYTES + (size_t)h->n_layers * MAP_NAME_BYTES;
	struct page_run shared = {0};
	int r;

	if (h->major != 1) {
		r = map_decode_runs(data, offset, h, m, problem);
		return r ? r : page_map_seal(m, NULL);
	}
	r = map_decode_runs_1(data, offset, h, m, problem);
	if (r == 0)
		r = page_map_seal_distinct(m, &shared);
	if (r == -EEXIST)
		return image_corrupt(
			problem,
			"map: gfn %llu (layer %u of its list, slot %llu) has a page that "
			"another gfn has too, which version 1 has not",
			ull(shared.gfn), shared.layer, ull(shared.slot));
	return error_trace(r);
}

int page_map_decode(const void *data, size_t len, struct problem *problem, struct page_map *ret,
		    struct layer_name **ret_names, uint32_t *ret_n_layers)
{
	_cleanup_(page_map_deinit) struct page_map m = {0};
	_cleanup_free_ struct layer_name *names = NULL;
	struct map_header h;
	int r;

	r = decode_header(data, len, &h, problem);
	if (r)
		return r;
	r = decode_names((const uint8_t *)data + MAP_HEADER_BYTES, h.n_layers, &names, problem);
	if (r)
		return error_trace(r);
	r = decode_runs(data, &h, &m, problem);
	if (r)
		return error_trace(r);
	*ret = m;
	m = (struct page_map){0};
	*ret_names = take_ptr(names);
	*ret_n_layers = h.n_layers;
	return 0;
}
