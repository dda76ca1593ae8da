/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page-map-seal.c - who owns which slot, and the order by slot
 *
 * 1. Count the runs of each layer and put their numbers side by side, layer after layer. Memory is
 *    mostly stored in the order of gfns, so each layer's runs usually are in the order of slots
 *    now, and none reaches into the next. Then this is all: two passes.
 * 2. If not, sort each layer's runs by slot (radix sort: slots have 31 bits), equal ones by gfn.
 *    If none overlaps, this is all.
 * 3. If some do, sweep over the slots of each layer with a heap of the runs that cover the place
 *    where the sweep is. Runs do not overlap as guest pages, so of two runs with a common slot the
 *    one with the lower number has the lower gfn there: the top of the heap owns the slot. The
 *    sweep writes down the pieces, each owned by one run. Then every run is cut into its pieces and
 *    the parts between them, which are aliases.
 *
 * How many parts? The owner can change only where a run begins or ends, and there are at most 2n
 * such places, so there are at most 2n pieces. A run with k pieces is cut into at most 2k + 1
 * parts. Altogether at most 2 * 2n + n = 5n, and the heap makes it O(n log n) time, also for n runs
 * that all cover the same slots.
 *
 * Example, one layer:
 *
 *     run  gfn      slot          pieces, by slot            parts afterwards
 *     0    0..3     10..13        run 1: 8..9                0..3    10..13  owner
 *     1    4..11    8..15         run 0: 10..13              4..5    8..9    owner
 *                                 run 1: 14..15              6..9    10..13  alias
 *                                                            10..11  14..15  owner
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "image/page-map.h"

#define FEW 48u /* items below which sorting by insertion is faster */

/* A run in the order by slot: its first slot above, its number below, so they compare as numbers */
#define item_make(_slot, _run) ((uint64_t)(_slot) << 32 | (_run))
#define item_slot(_item)       ((uint32_t)((_item) >> 32))
#define item_run(_item)	       ((uint32_t)(_item))

/* Slots @slot .. @slot + @n - 1 belong to run @run; later to part @run of the cut runs. */
struct piece {
	uint32_t run;
	uint32_t slot;
	uint32_t n;
};

struct sweep {
	const struct page_map *m;
	uint32_t *heap; /* numbers of runs, smallest on top */
	size_t n_heap;
	struct piece *pieces;
	size_t n_pieces;
};

static uint64_t item_end(const struct page_map *m, uint64_t item)
{
	return item_slot(item) + m->runs[item_run(item)].n_pages;
}

/* ---- step 1 -----------------------------------------------------------------------------------
 */

/*
 * @at: per layer, where its runs begin; one more than layers. Return: is it the order by slot, and
 * nothing overlaps?
 */
static bool place_by_layer(struct page_map *m, const uint32_t *at, uint32_t n_layers,
			   uint32_t *next, uint64_t *end)
{
	bool natural = true;

	memcpy(next, at, n_layers * sizeof(*next));
	for (size_t i = 0; i < m->n_runs; i++) {
		const struct page_run *run = &m->runs[i];

		if (run->layer == IMAGE_LAYER_ZERO)
			continue;
		natural &= run->slot >= end[run->layer];
		end[run->layer] = run->slot + run->n_pages;
		m->by_slot[next[run->layer]++] = (uint32_t)i;
	}
	return natural;
}

static uint32_t count_layers(const struct page_map *m)
{
	uint32_t n = 0;

	for (size_t i = 0; i < m->n_runs; i++)
		if (m->runs[i].layer != IMAGE_LAYER_ZERO && m->runs[i].layer >= n)
			n = m->runs[i].layer + 1;
	return n;
}

static void count_runs(const struct page_map *m, uint32_t *at, uint32_t n_layers)
{
	for (size_t i = 0; i < m->n_runs; i++)
		if (m->runs[i].layer != IMAGE_LAYER_ZERO)
			at[m->runs[i].layer + 1]++;
	for (uint32_t i = 0; i < n_layers; i++)
		at[i + 1] += at[i];
}

/* ---- step 2 -----------------------------------------------------------------------------------
 */

static void sort_few(uint64_t *items, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		uint64_t item = items[i];
		size_t j = i;

		for (; j && items[j - 1] > item; j--)
			items[j] = items[j - 1];
		items[j] = item;
	}
}

/* One pass of a radix sort by the eight bits from @shift on. Return: where the items are now */
static uint64_t *sort_pass(uint64_t *from, uint64_t *to, size_t n, unsigned shift)
{
	size_t at[257] = {0};

	for (size_t i = 0; i < n; i++)
		at[(from[i] >> shift & 0xff) + 1]++;
	if (at[(from[0] >> shift & 0xff) + 1] == n)
		return from; /* all have the same */
	for (size_t i = 0; i < 256; i++)
		at[i + 1] += at[i];
	for (size_t i = 0; i < n; i++)
		to[at[from[i] >> shift & 0xff]++] = from[i];
	return to;
}

/* The items come in the order of their runs, and passes keep the order of what is equal. */
static void sort_items(uint64_t *items, uint64_t *spare, size_t n)
{
	uint64_t *now = items;

	if (n < FEW) {
		sort_few(items, n);
		return;
	}
	for (unsigned shift = 32; shift < 64; shift += 8)
		now = sort_pass(now, now == items ? spare : items, n, shift);
	if (now != items)
		memcpy(items, now, n * sizeof(*items));
}

/* Put @by_slot in order. Return: a run that overlaps the one before it, or UINT32_MAX */
static uint32_t sort_layer(const struct page_map *m, uint32_t *by_slot, size_t n, uint64_t *items,
			   uint64_t *spare)
{
	uint32_t shared = UINT32_MAX;

	for (size_t i = 0; i < n; i++)
		items[i] = item_make(m->runs[by_slot[i]].slot, by_slot[i]);
	sort_items(items, spare, n);
	for (size_t i = 0; i < n; i++) {
		by_slot[i] = item_run(items[i]);
		if (i && item_end(m, items[i - 1]) > item_slot(items[i]))
			shared = by_slot[i];
	}
	return shared;
}

static int sort_layers(struct page_map *m, const uint32_t *at, uint32_t n_layers,
		       uint32_t *ret_shared)
{
	_cleanup_free_ uint64_t *items = malloc(m->n_by_slot * sizeof(*items));
	_cleanup_free_ uint64_t *spare = malloc(m->n_by_slot * sizeof(*spare));

	if (!items || !spare)
		return -ENOMEM;
	for (uint32_t i = 0; i < n_layers; i++) {
		uint32_t shared =
			sort_layer(m, m->by_slot + at[i], at[i + 1] - at[i], items, spare);

		if (shared != UINT32_MAX)
			*ret_shared = shared;
	}
	return 0;
}

/* ---- step 3 -----------------------------------------------------------------------------------
 */

static void heap_push(struct sweep *w, uint32_t run)
{
	size_t i = w->n_heap++;

	for (; i && w->heap[(i - 1) / 2] > run; i = (i - 1) / 2)
		w->heap[i] = w->heap[(i - 1) / 2];
	w->heap[i] = run;
}

static void heap_pop(struct sweep *w)
{
	uint32_t last = w->heap[--w->n_heap];
	size_t i = 0;

	for (;;) {
		size_t child = 2 * i + 1;

		if (child + 1 < w->n_heap && w->heap[child + 1] < w->heap[child])
			child++;
		if (child >= w->n_heap || w->heap[child] >= last)
			break;
		w->heap[i] = w->heap[child];
		i = child;
	}
	w->heap[i] = last;
}

static void add_piece(struct sweep *w, uint32_t run, uint64_t slot, uint64_t end)
{
	struct piece *last = w->n_pieces ? &w->pieces[w->n_pieces - 1] : NULL;

	assert(w->pieces); /* two for each run are allocated, and no more can come */
	if (last && last->run == run && last->slot + last->n == slot)
		last->n += (uint32_t)(end - slot);
	else
		w->pieces[w->n_pieces++] = (struct piece){
			.run = run, .slot = (uint32_t)slot, .n = (uint32_t)(end - slot)};
}

/* @by_slot: the @n runs of one layer, by slot */
static void sweep_layer(struct sweep *w, const uint32_t *by_slot, size_t n)
{
	const struct page_run *runs = w->m->runs;
	uint64_t slot = 0;
	size_t i = 0;

	while (i < n || w->n_heap) {
		uint64_t end;

		if (!w->n_heap)
			slot = runs[by_slot[i]].slot;
		while (i < n && runs[by_slot[i]].slot == slot)
			heap_push(w, by_slot[i++]);
		end = runs[w->heap[0]].slot + runs[w->heap[0]].n_pages;
		if (end <= slot) {
			heap_pop(w); /* it ended while a lower one was on top */
			continue;
		}
		if (i < n)
			end = MIN(end, runs[by_slot[i]].slot);
		add_piece(w, w->heap[0], slot, end);
		slot = end;
	}
}

/* The numbers of the pieces, by run. @first: per run, where its own begin; one more than runs */
static void order_pieces(const struct sweep *w, uint32_t *first, uint32_t *order)
{
	size_t n_runs = w->m->n_runs;

	for (size_t i = 0; i < w->n_pieces; i++)
		first[w->pieces[i].run + 1]++;
	for (size_t i = 0; i < n_runs; i++)
		first[i + 1] += first[i];
	for (size_t i = 0; i < w->n_pieces; i++)
		order[first[w->pieces[i].run]++] = (uint32_t)i;
	/* each is now where the next one began */
	memmove(first + 1, first, n_runs * sizeof(*first));
	first[0] = 0;
}

static void add_part(struct page_run *parts, size_t *n, const struct page_run *run, uint64_t slot,
		     uint64_t end)
{
	parts[(*n)++] = (struct page_run){.gfn = run->gfn + (slot - run->slot),
					  .n_pages = end - slot,
					  .layer = run->layer,
					  .slot = slot};
}

/* Cut all runs. Each piece's run becomes the number of its part. Return: how many parts */
static size_t cut_runs(struct sweep *w, const uint32_t *first, const uint32_t *order,
		       struct page_run *parts)
{
	size_t n = 0;

	for (size_t i = 0; i < w->m->n_runs; i++) {
		const struct page_run *run = &w->m->runs[i];
		uint64_t slot = run->slot;

		for (uint32_t j = first[i]; j < first[i + 1]; j++) {
			struct piece *p = &w->pieces[order[j]];

			if (slot < p->slot)
				add_part(parts, &n, run, slot, p->slot);
			slot = p->slot + (uint64_t)p->n;
			p->run = (uint32_t)n;
			add_part(parts, &n, run, p->slot, slot);
		}
		if (slot < run->slot + run->n_pages)
			add_part(parts, &n, run, slot, run->slot + run->n_pages);
	}
	return n;
}

static int cut(struct page_map *m, struct sweep *w)
{
	const size_t max = m->n_runs + 2 * w->n_pieces;
	_cleanup_free_ uint32_t *first = calloc(m->n_runs + 1, sizeof(*first));
	_cleanup_free_ uint32_t *order = malloc(w->n_pieces * sizeof(*order));
	_cleanup_free_ uint32_t *by_slot = malloc(w->n_pieces * sizeof(*by_slot));
	_cleanup_free_ struct page_run *parts = NULL;
	struct page_run *fitting;

	if (max > UINT32_MAX)
		return error_trace(-EFBIG);
	parts = malloc(max * sizeof(*parts));
	if (!first || !order || !by_slot || !parts)
		return -ENOMEM;
	order_pieces(w, first, order);
	m->n_runs = cut_runs(w, first, order, parts);
	for (size_t i = 0; i < w->n_pieces; i++)
		by_slot[i] = w->pieces[i].run;
	free(m->runs);
	free(m->by_slot);
	fitting = realloc(parts, m->n_runs * sizeof(*parts));
	m->runs = fitting ? fitting : parts;
	parts = NULL;
	m->cap_runs = m->n_runs;
	m->by_slot = take_ptr(by_slot);
	m->n_by_slot = w->n_pieces;
	return 0;
}

static int settle_owners(struct page_map *m, const uint32_t *at, uint32_t n_layers)
{
	_cleanup_free_ uint32_t *heap = malloc(m->n_by_slot * sizeof(*heap));
	_cleanup_free_ struct piece *pieces = malloc(2 * m->n_by_slot * sizeof(*pieces));
	struct sweep w = {.m = m, .heap = heap, .pieces = pieces};

	if (!heap || !pieces)
		return -ENOMEM;
	for (uint32_t i = 0; i < n_layers; i++)
		sweep_layer(&w, m->by_slot + at[i], at[i + 1] - at[i]);
	return cut(m, &w);
}

/* Steps 1 and 2. Return: 0; -ENOMEM */
static int order(struct page_map *m, uint32_t *at, uint32_t n_layers, uint32_t *ret_shared)
{
	_cleanup_free_ uint32_t *next = calloc((size_t)n_layers + 1, sizeof(*next));
	_cleanup_free_ uint64_t *end = calloc((size_t)n_layers + 1, sizeof(*end));

	if (!next || !end)
		return -ENOMEM;
	count_runs(m, at, n_layers);
	m->n_by_slot = at[n_layers];
	m->by_slot = malloc(MAX(m->n_by_slot, 1ul) * sizeof(*m->by_slot));
	if (!m->by_slot)
		return -ENOMEM;
	if (place_by_layer(m, at, n_layers, next, end))
		return 0;
	return sort_layers(m, at, n_layers, ret_shared);
}

static int seal(struct page_map *m, bool may_share, struct page_run *ret_shared)
{
	const uint32_t n_layers = count_layers(m);
	_cleanup_free_ uint32_t *at = calloc((size_t)n_layers + 1, sizeof(*at));
	uint32_t shared = UINT32_MAX;
	int r;

	assert(!m->by_slot);
	if (!at)
		return -ENOMEM;
	r = order(m, at, n_layers, &shared);
	if (r < 0)
		return error_trace(r);
	if (ret_shared)
		*ret_shared = shared == UINT32_MAX ? (struct page_run){0} : m->runs[shared];
	if (shared == UINT32_MAX)
		return 0;
	return may_share ? error_trace(settle_owners(m, at, n_layers)) : -EEXIST;
}

int page_map_seal(struct page_map *m, struct page_run *ret_shared)
{
	return seal(m, true, ret_shared);
}

int page_map_seal_distinct(struct page_map *m, struct page_run *ret_shared)
{
	return seal(m, false, ret_shared);
}
