/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page-map.c - the page map in memory
 *
 * Two arrays. `runs` is ordered by gfn and answers "where does this page come from" by bisection.
 * `by_slot` holds the numbers of those runs that own their slots, ordered by (layer, slot), and
 * answers "which pages of the guest come from this frame". No two owners share a slot, so these
 * runs are disjoint in that order too, and a bisection for the first run that ends after a slot
 * works in both. A frame therefore has at most 16 owners, however many gfns share its pages.
 * page-map-seal.c says how owners are found.
 *
 * Example, 44 pages, one layer whose frame 0 has 16 pages and frame 1 has 4:
 *
 *     run  gfn       source            by_slot
 *     0    0..7      slot 12..19       2, 0
 *     1    8..31     zero
 *     2    32..39    slot 0..7
 *     3    40..43    slot 2..5         (aliases of gfn 34..37)
 *
 * Frame 0 (slots 0..15) holds gfn 32..39 at index 0..7 and gfn 0..3 at index 12..15; the pages at
 * index 8..11 were replaced since and nobody refers to them.
 *
 * 32 bytes per run and 4 per reference: an image of 1 GiB in runs of 4 pages takes 2.4 MB.
 */
#include "image/page-map.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"

void page_map_deinit(struct page_map *m)
{
	free(m->runs);
	free(m->by_slot);
	*m = (struct page_map){0};
}

static int resize(struct page_map *m, size_t cap)
{
	struct page_run *runs;

	if (cap > UINT32_MAX) /* by_slot holds 32 bits */
		return error_trace(-EFBIG);
	runs = realloc(m->runs, cap * sizeof(*runs));
	if (!runs)
		return -ENOMEM;
	m->runs = runs;
	m->cap_runs = cap;
	return 0;
}

int page_map_reserve(struct page_map *m, size_t n_runs)
{
	return n_runs > m->cap_runs ? resize(m, n_runs) : 0;
}

int page_map_append(struct page_map *m, uint64_t n_pages, uint32_t layer, uint64_t slot)
{
	int r;

	assert(n_pages > 0);
	if (n_pages > IMAGE_MAX_PAGES - m->n_pages)
		return error_trace(-EFBIG);
	if (layer == IMAGE_LAYER_ZERO)
		slot = 0;
	else if (layer > PAGE_MAP_MAX_LAYERS || slot > PAGE_MAP_MAX_SLOTS - n_pages)
		return error_trace(-EFBIG);
	if (m->n_runs && page_run_continues(&m->runs[m->n_runs - 1], layer, slot)) {
		m->runs[m->n_runs - 1].n_pages += n_pages;
	} else {
		r = m->n_runs == m->cap_runs ? resize(m, MAX(2 * m->cap_runs, 64ul)) : 0;
		if (r < 0)
			return r;
		m->runs[m->n_runs++] = (struct page_run){
			.gfn = m->n_pages, .n_pages = n_pages, .layer = layer, .slot = slot};
	}
	m->n_pages += n_pages;
	if (layer != IMAGE_LAYER_ZERO)
		m->stored_pages += n_pages;
	return 0;
}

size_t page_map_find(const struct page_map *m, uint64_t gfn)
{
	size_t lo = 0, hi = m->n_runs;

	assert(gfn < m->n_pages);
	while (hi - lo > 1) { /* runs[lo].gfn <= gfn, and gfn < runs[hi].gfn if there is one */
		size_t mid = lo + (hi - lo) / 2;

		if (m->runs[mid].gfn <= gfn)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

size_t page_map_find_slot(const struct page_map *m, uint32_t layer, uint64_t slot)
{
	size_t lo = 0, hi = m->n_by_slot;

	while (lo < hi) { /* runs before lo end too early, runs from hi on do not */
		size_t mid = lo + (hi - lo) / 2;
		const struct page_run *run = &m->runs[m->by_slot[mid]];

		if (run->layer < layer || (run->layer == layer && run->slot + run->n_pages <= slot))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

uint64_t page_map_owner(const struct page_map *m, uint32_t layer, uint64_t slot)
{
	size_t i = page_map_find_slot(m, layer, slot);
	const struct page_run *run;

	assert(i < m->n_by_slot);
	run = &m->runs[m->by_slot[i]];
	assert(run->layer == layer && run->slot <= slot);
	return run->gfn + (slot - run->slot);
}
