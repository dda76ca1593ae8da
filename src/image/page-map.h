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
 * Several gfns may have the same slot. The lowest of them owns it, the others are its aliases; the
 * order by slot names owners only, so it is as disjoint as the one by gfn. Sealing cuts runs that
 * are owner in one part and alias in another; encoding joins them again.
 *
 * A sealed map may be read from any thread.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bitmap.h"
#include "base/buf.h"
#include "base/problem.h"
#include "image/image.h"
#include "image/layer-format.h"

#define PAGE_MAP_MAX_LAYERS 4096u
#define PAGE_MAP_MAX_RUNS   (1u << 23)
#define PAGE_MAP_MAX_BYTES  (64u << 20) /* of the file; see docs/format-image.md, "Limits" */
#define PAGE_MAP_MAX_SLOTS  ((uint64_t)LAYER_MAX_FRAMES * IMAGE_FRAME_PAGES)

struct page_map {
	uint64_t n_pages;      /* covered by the runs */
	uint64_t stored_pages; /* of those: not zero */
	size_t n_runs;
	size_t cap_runs;
	struct page_run *runs; /* by gfn; neighbours could only be one run where a seal cut it */
	size_t n_by_slot;
	uint32_t *by_slot; /* numbers of the runs that own their slots, by (layer, slot) */
};

/* A layer as the map names it. */
struct layer_name {
	uint8_t id[LAYER_ID_BYTES];
	uint8_t digest[DIGEST_BYTES]; /* of the layer's index */
};

void page_map_deinit(struct page_map *m);

/** page_map_reserve() - allocate for @n_runs runs at once. Return: 0; -ENOMEM; -EFBIG */
int page_map_reserve(struct page_map *m, size_t n_runs);

/**
 * page_map_append() - the next @n_pages pages (> 0) come from @layer, beginning at @slot
 * Extends the last run where it can.
 * Return: 0; -ENOMEM; -EFBIG beyond IMAGE_MAX_PAGES, PAGE_MAP_MAX_SLOTS or PAGE_MAP_MAX_LAYERS
 */
int page_map_append(struct page_map *m, uint64_t n_pages, uint32_t layer, uint64_t slot);

/** page_run_continues() - would a run at (@layer, @slot) be the same run as @last before it? */
static inline bool page_run_continues(const struct page_run *last, uint32_t layer, uint64_t slot)
{
	return last->layer == layer &&
	       (layer == IMAGE_LAYER_ZERO || last->slot + last->n_pages == slot);
}

/**
 * page_map_seal() - settle who owns which slot, and make the order by slot
 * @ret_shared: a run as it was appended that has a slot of another one; its n_pages is 0 when there
 *              is none. NULL: not interested
 *
 * Time and memory are O(n log n) and O(n) in the number of runs, however they overlap; n_runs grows
 * to at most five times what it was. Return: 0; -ENOMEM
 */
int page_map_seal(struct page_map *m, struct page_run *ret_shared);

/** page_map_seal_distinct() - the same, where no two gfns may share. Return: also -EEXIST: they do
 */
int page_map_seal_distinct(struct page_map *m, struct page_run *ret_shared);

/** page_map_find() - number of the run that @gfn (< n_pages) lies in */
size_t page_map_find(const struct page_map *m, uint64_t gfn);

/** page_map_find_slot() - first position in by_slot whose run ends after (@layer, @slot) */
size_t page_map_find_slot(const struct page_map *m, uint32_t layer, uint64_t slot);

/** page_map_owner() - the gfn that owns a slot which some gfn of the sealed map has */
uint64_t page_map_owner(const struct page_map *m, uint32_t layer, uint64_t slot);

/* How two maps of the same guest compare. */
struct page_map_diff {
	uint64_t pages;	 /* of the first: another source than in the second */
	uint64_t stored; /* of those: not zero */
	uint64_t shared; /* the same source in both, and not zero */
};

#define PAGE_MAP_NO_LAYER UINT32_MAX

/**
 * page_map_match() - which layer of the second map is each layer of the first?
 * @ret: array of @n_a numbers, or PAGE_MAP_NO_LAYER; free()
 * By id. O(n log n). Return: 0; -ENOMEM
 */
int page_map_match(const struct layer_name *a, uint32_t n_a, const struct layer_name *b,
		   uint32_t n_b, uint32_t **ret);

/**
 * page_map_compare() - pages of @a whose source is another one than in @b
 * @a, @b:  of as many pages; sealed or not
 * @match:  of page_map_match()
 * @differ: a bit is set for each of them; none is cleared. NULL: only count
 * O(runs). Allocates nothing.
 */
void page_map_compare(const struct page_map *a, const struct page_map *b, const uint32_t *match,
		      bitmap_word *differ, struct page_map_diff *ret);

/**
 * page_map_encode() - the bytes of a map file, of the present version; sealed or not is the same
 * @names: the @n_layers that the runs' layer numbers mean
 * Return: 0; -EFBIG above PAGE_MAP_MAX_BYTES or PAGE_MAP_MAX_RUNS; -ENOMEM
 */
int page_map_encode(const struct page_map *m, const struct layer_name *names, uint32_t n_layers,
		    struct buf *ret);

/**
 * page_map_decode() - a sealed map from the bytes of a file
 * @ret_names: array of *@ret_n_layers, owned by the caller (free())
 * Checks everything that can be known without the layers: slots are only known to be below
 * LAYER_MAX_FRAMES frames. Whatever it accepts of the present version, page_map_encode() would
 * write the same bytes.
 * Return: 0; IMAGE_E_CORRUPT; IMAGE_E_VERSION; -ENOMEM
 */
int page_map_decode(const void *data, size_t len, struct problem *problem, struct page_map *ret,
		    struct layer_name **ret_names, uint32_t *ret_n_layers);
