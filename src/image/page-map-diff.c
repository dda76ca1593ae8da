/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page-map-diff.c - where two maps of the same guest have the same pages
 *
 * Two pages are the same when their source is: zero in both, or the same slot of the same layer.
 * Layers are matched by their ids; their numbers mean something in one map only. Nothing is read,
 * so pages with equal contents from different sources count as different.
 *
 * Both lists of runs are ordered by gfn, so one walk over both finds pieces that lie within one run
 * of each: a piece is the same or it is not, as a whole.
 *
 *     a   gfn 0..7 L0 slot 0..7   8..9 L1 slot 0..1   10..15 L0 slot 10..15
 *     b   gfn 0..15 L0 slot 0..15
 *     pieces  0..7 the same       8..9 differ         10..15 the same
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "image/page-map.h"

struct by_id {
	const uint8_t *id;
	uint32_t layer;
};

static int compare_ids(const void *a, const void *b)
{
	return memcmp(((const struct by_id *)a)->id, ((const struct by_id *)b)->id, LAYER_ID_BYTES);
}

int page_map_match(const struct layer_name *a, uint32_t n_a, const struct layer_name *b,
		   uint32_t n_b, uint32_t **ret)
{
	_cleanup_free_ struct by_id *sorted = calloc((size_t)n_b + 1, sizeof(*sorted));
	uint32_t *match = calloc((size_t)n_a + 1, sizeof(*match));

	if (!sorted || !match) {
		free(match);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < n_b; i++)
		sorted[i] = (struct by_id){.id = b[i].id, .layer = i};
	qsort(sorted, n_b, sizeof(*sorted), compare_ids);
	for (uint32_t i = 0; i < n_a; i++) {
		const struct by_id key = {.id = a[i].id};
		const struct by_id *found =
			bsearch(&key, sorted, n_b, sizeof(*sorted), compare_ids);

		match[i] = found ? found->layer : PAGE_MAP_NO_LAYER;
	}
	*ret = match;
	return 0;
}

static void set_range(bitmap_word *b, uint64_t first, uint64_t n)
{
	for (; n && first % 64; n--)
		bitmap_set(b, first++);
	if (n >= 64) {
		memset(&b[first / 64], 0xff, n / 64 * sizeof(*b));
		first += n / 64 * 64;
		n %= 64;
	}
	for (; n; n--)
		bitmap_set(b, first++);
}

static bool is_same(const struct page_run *a, const struct page_run *b, uint64_t gfn,
		    const uint32_t *match)
{
	if (a->layer == IMAGE_LAYER_ZERO || b->layer == IMAGE_LAYER_ZERO)
		return a->layer == b->layer;
	return match[a->layer] == b->layer && a->slot + (gfn - a->gfn) == b->slot + (gfn - b->gfn);
}

void page_map_compare(const struct page_map *a, const struct page_map *b, const uint32_t *match,
		      bitmap_word *differ, struct page_map_diff *ret)
{
	struct page_map_diff d = {0};
	size_t i = 0, j = 0;

	assert(a->n_pages == b->n_pages);
	for (uint64_t gfn = 0, end; gfn < a->n_pages; gfn = end) {
		const struct page_run *in_a = &a->runs[i], *in_b = &b->runs[j];
		const uint64_t end_a = in_a->gfn + in_a->n_pages, end_b = in_b->gfn + in_b->n_pages;
		const bool stored = in_a->layer != IMAGE_LAYER_ZERO;

		end = MIN(end_a, end_b);
		if (is_same(in_a, in_b, gfn, match)) {
			d.shared += stored ? end - gfn : 0;
		} else {
			d.pages += end - gfn;
			d.stored += stored ? end - gfn : 0;
			if (differ)
				set_range(differ, gfn, end - gfn);
		}
		i += end == end_a;
		j += end == end_b;
	}
	*ret = d;
}
