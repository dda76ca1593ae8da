/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * page-map.h - for every guest page, its one source
 *
 * Built front to back with page_map_append() (or from a file by page_map_decode()), then closed by
 * page_map_seal(), read-only from there on. The runs cover gfn 0 .. n_pages - 1 without a gap and
 * without an overlap by construction (invariant 4), because a run begins where the last one ended.
 *
 *     struct page_map map = {0};
 *     page_map_append(...) ... page_map_seal() -> page_map_find(), page_map_find_slot(), encode
 *     page_map_deinit()
 *
 * A sealed map may be read from any thread.
 */
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/problem.h"
#include "image/image.h"
#include "image/layer-format.h"

#define PAGE_MAP_MAX_LAYERS 4096u
#define PAGE_MAP_MAX_BYTES  (64u << 20) /* of the file; see docs/format-image.md, "Limits" */

struct page_map {
	uint64_t n_pages;      /* covered by the runs */
	uint64_t stored_pages; /* of those: not zero */
	size_t n_runs;
	size_t cap_runs;
	struct page_run *runs; /* by gfn; neighbours never could be one run */
	size_t n_by_slot;
	uint32_t *by_slot; /* numbers of the runs that are not zero, by (layer, slot) */
};

/* A layer as the map names it. */
struct layer_name {
	uint8_t id[LAYER_ID_BYTES];
	uint8_t digest[DIGEST_BYTES]; /* of the layer's index */
};

void page_map_deinit(struct page_map *m);

/**
 * page_map_append() - the next @n_pages pages (> 0) come from @layer, beginning at @slot
 * Extends the last run where it can. Return: 0; -ENOMEM; -EFBIG beyond IMAGE_MAX_PAGES
 */
int page_map_append(struct page_map *m, uint64_t n_pages, uint32_t layer, uint64_t slot);

/**
 * page_map_seal() - make the order by slot
 * @ret_shared: filled when the result is -EEXIST: a run that claims a slot another one has
 * Return: 0; -EEXIST; -ENOMEM
 */
int page_map_seal(struct page_map *m, struct page_run *ret_shared);

/** page_map_find() - number of the run that @gfn (< n_pages) lies in */
size_t page_map_find(const struct page_map *m, uint64_t gfn);

/** page_map_find_slot() - first position in by_slot whose run ends after (@layer, @slot) */
size_t page_map_find_slot(const struct page_map *m, uint32_t layer, uint64_t slot);

/**
 * page_map_encode() - the bytes of a map file
 * @names: the @n_layers that the runs' layer numbers mean
 * Return: 0; -EFBIG above PAGE_MAP_MAX_BYTES; -ENOMEM
 */
int page_map_encode(const struct page_map *m, const struct layer_name *names, uint32_t n_layers,
		    struct buf *ret);

/**
 * page_map_decode() - a sealed map from the bytes of a file
 * @ret_names: array of *@ret_n_layers, owned by the caller (free())
 * Checks everything that can be known without the layers: slots are only known to be below
 * LAYER_MAX_FRAMES frames. Whatever it accepts, page_map_encode() would write the same bytes.
 * Return: 0; IMAGE_E_CORRUPT; IMAGE_E_VERSION; -ENOMEM
 */
int page_map_decode(const void *data, size_t len, struct problem *problem, struct page_map *ret,
		    struct layer_name **ret_names, uint32_t *ret_n_layers);
