/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-map.c - any bytes as a map file
 *
 * The checksum at the end is made to fit first, or the fuzzer would never get past it. What the
 * decoder accepts must be written back as the same bytes, and answer every question in range; who
 * owns which slot is compared with counting where the map is small.
 *
 * Runs refer to each other (a run continues, shares slots, is where a cursor guesses), so changing
 * bytes rarely gives a map that says something. Two of three times the mutator therefore decodes
 * what it is given, changes the list of runs, and encodes that; otherwise bytes of the runs are
 * changed and the lengths in the header made to fit.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "image/le.h"
#include "image/page-map.h"

#define HEADER_BYTES 40u
#define NAME_BYTES   32u
#define MAX_RUNS     200u
#define FEW_RUNS     64u   /* in maps that are also counted through... */
#define FEW_PAGES    4096u /* ...page by page */

/* libFuzzer's; not there when a corpus is replayed */
__attribute__((weak)) size_t LLVMFuzzerMutate(uint8_t *data, size_t len, size_t max_len);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t max_len, unsigned seed);

static void require(bool ok)
{
	if (!ok)
		abort();
}

static void fit_sum(uint8_t *file, size_t len)
{
	XXH128_canonical_t sum;

	if (len < DIGEST_BYTES)
		return;
	XXH128_canonicalFromHash(&sum, XXH3_128bits(file, len - DIGEST_BYTES));
	memcpy(file + len - DIGEST_BYTES, sum.digest, DIGEST_BYTES);
}

/* ---- what must hold ---------------------------------------------------------------------------
 */

static uint64_t run_slot(const struct page_map *m, uint64_t gfn, uint32_t *ret_layer)
{
	const struct page_run *run = &m->runs[page_map_find(m, gfn)];

	*ret_layer = run->layer;
	return run->slot + (gfn - run->gfn);
}

/* Runs cover everything, in both orders; a run is the owner of all its slots or of none. */
static void check_orders(const struct page_map *m)
{
	uint64_t gfn = 0, stored = 0;
	size_t owners = 0;

	for (size_t i = 0; i < m->n_runs; i++) {
		const struct page_run *run = &m->runs[i];
		uint64_t last = run->slot + run->n_pages - 1, first_owner, last_owner;

		require(run->gfn == gfn && run->n_pages > 0);
		gfn += run->n_pages;
		require(page_map_find(m, run->gfn) == i && page_map_find(m, gfn - 1) == i);
		if (run->layer == IMAGE_LAYER_ZERO)
			continue;
		stored += run->n_pages;
		first_owner = page_map_owner(m, run->layer, run->slot);
		last_owner = page_map_owner(m, run->layer, last);
		require(first_owner <= run->gfn && last_owner <= gfn - 1);
		require((first_owner == run->gfn) == (last_owner == gfn - 1));
		if (first_owner != run->gfn)
			continue;
		owners++;
		require(m->by_slot[page_map_find_slot(m, run->layer, run->slot)] == i);
		require(m->by_slot[page_map_find_slot(m, run->layer, last)] == i);
	}
	require(gfn == m->n_pages && stored == m->stored_pages && owners == m->n_by_slot);
	for (size_t i = 1; i < m->n_by_slot; i++) {
		const struct page_run *a = &m->runs[m->by_slot[i - 1]];
		const struct page_run *b = &m->runs[m->by_slot[i]];

		require(a->layer < b->layer ||
			(a->layer == b->layer && a->slot + a->n_pages <= b->slot));
	}
}

/* As image_frame_pages() asks, for the frame that this slot is in. */
static void check_frame(const struct page_map *m, uint32_t layer, uint64_t slot)
{
	const uint64_t first = slot - slot % IMAGE_FRAME_PAGES, end = first + IMAGE_FRAME_PAGES;
	uint64_t next = first, n = 0;

	for (size_t i = page_map_find_slot(m, layer, first); i < m->n_by_slot; i++) {
		const struct page_run *run = &m->runs[m->by_slot[i]];

		if (run->layer != layer || run->slot >= end)
			break;
		for (uint64_t s = MAX(run->slot, first); s < MIN(run->slot + run->n_pages, end);
		     s++) {
			uint64_t gfn = run->gfn + (s - run->slot);
			uint32_t found;

			require(s >= next && ++n <= IMAGE_FRAME_PAGES);
			next = s + 1;
			require(run_slot(m, gfn, &found) == s && found == layer);
			require(page_map_owner(m, layer, s) == gfn);
		}
	}
	require(n > 0);
}

static void check_by_counting(const struct page_map *m)
{
	for (uint64_t gfn = 0; gfn < m->n_pages; gfn++) {
		uint32_t layer;
		uint64_t slot = run_slot(m, gfn, &layer), owner = UINT64_MAX;

		if (layer == IMAGE_LAYER_ZERO)
			continue;
		for (size_t i = 0; i < m->n_runs && owner == UINT64_MAX; i++) {
			const struct page_run *run = &m->runs[i];

			if (run->layer == layer && slot >= run->slot &&
			    slot < run->slot + run->n_pages)
				owner = run->gfn + (slot - run->slot);
		}
		require(page_map_owner(m, layer, slot) == owner);
	}
}

static void check(const struct page_map *m)
{
	check_orders(m);
	for (size_t i = 0; i < m->n_runs; i++)
		if (m->runs[i].layer != IMAGE_LAYER_ZERO) {
			const struct page_run *run = &m->runs[i];

			check_frame(m, run->layer, run->slot);
			check_frame(m, run->layer, run->slot + run->n_pages - 1);
		}
	if (m->n_runs <= FEW_RUNS && m->n_pages <= FEW_PAGES)
		check_by_counting(m);
}

static void check_same(const struct page_map *a, const struct page_map *b)
{
	require(a->n_runs == b->n_runs && a->n_by_slot == b->n_by_slot);
	for (size_t i = 0; i < a->n_runs; i++)
		require(a->runs[i].n_pages == b->runs[i].n_pages &&
			a->runs[i].layer == b->runs[i].layer && a->runs[i].slot == b->runs[i].slot);
	require(!a->n_by_slot || !memcmp(a->by_slot, b->by_slot, a->n_by_slot * sizeof(uint32_t)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	_cleanup_(page_map_deinit) struct page_map m = {0}, back = {0};
	_cleanup_free_ struct layer_name *names = NULL, *back_names = NULL;
	_cleanup_free_ uint8_t *file = malloc(len + 1);
	_cleanup_buf_ struct buf again = {0};
	struct problem problem = PROBLEM_INIT;
	uint32_t n_layers, n;

	require(file);
	if (len)
		memcpy(file, data, len);
	fit_sum(file, len);
	if (page_map_decode(file, len, &problem, &m, &names, &n_layers)) {
		require(problem_is_set(&problem));
		return 0;
	}
	require(m.n_runs <= 5 * le_get64(file + 24));
	check(&m);
	require(page_map_encode(&m, names, n_layers, &again) == 0);
	if (le_get16(file + 8) == 2 && le_get16(file + 10) == 0) {
		require(again.len == len && !memcmp(again.data, file, len));
		return 0;
	}
	/* of an older version, or a later minor one: written back as ours, with the same content */
	require(page_map_decode(again.data, again.len, &problem, &back, &back_names, &n) == 0);
	check_same(&m, &back);
	return 0;
}

/* ---- mutation ---------------------------------------------------------------------------------
 */

struct list {
	struct page_run runs[MAX_RUNS + 1];
	size_t n;
	uint64_t random;
};

static uint64_t draw(struct list *l, uint64_t below)
{
	l->random = l->random * 6364136223846793005ull + 1442695040888963407ull;
	return (l->random >> 32) % below;
}

/* Mostly small, now and then as large as can be */
static uint64_t draw_size(struct list *l, uint64_t max)
{
	static const uint64_t bounds[] = {3, 20, 40, 200, 1u << 16, 1u << 30};
	uint64_t bound = bounds[MIN(draw(l, 9), 5ull)];

	return draw(l, MIN(bound, max));
}

static void draw_source(struct list *l, struct page_run *run, uint32_t n_layers)
{
	const struct page_run *other = &l->runs[draw(l, l->n)];

	switch (draw(l, 8)) {
	case 0:
		run->layer = IMAGE_LAYER_ZERO;
		break;
	case 1: /* the slots of another one, or some of them */
	case 2:
		run->layer = other->layer;
		run->slot = other->slot + draw(l, other->n_pages);
		break;
	case 3: /* after another one */
		run->layer = other->layer;
		run->slot = other->slot + other->n_pages + draw_size(l, 40);
		break;
	case 4: /* the frame after another one */
		run->layer = other->layer;
		run->slot = (other->slot + other->n_pages + 15) / 16 * 16;
		break;
	case 5: /* before another one */
		run->layer = other->layer;
		run->slot = other->slot - MIN(other->slot, draw_size(l, 40));
		break;
	default:
		run->layer = n_layers ? (uint32_t)draw(l, n_layers) : IMAGE_LAYER_ZERO;
		run->slot = draw_size(l, 1u << 30);
	}
}

static void change_list(struct list *l, uint32_t n_layers)
{
	const size_t i = draw(l, l->n);
	struct page_run run = l->runs[i];

	switch (draw(l, 6)) {
	case 0: /* remove */
		if (l->n < 2)
			break;
		memmove(&l->runs[i], &l->runs[i + 1], (l->n - i - 1) * sizeof(run));
		l->n--;
		return;
	case 1: /* insert */
	case 2:
		if (l->n == MAX_RUNS)
			break;
		run.n_pages = 1 + draw_size(l, 1u << 20);
		draw_source(l, &run, n_layers);
		memmove(&l->runs[i + 1], &l->runs[i], (l->n - i) * sizeof(run));
		l->n++;
		break;
	case 3:
		run.n_pages = 1 + draw_size(l, 1u << 20);
		break;
	case 4: /* move */
		l->runs[i] = l->runs[draw(l, l->n)];
		break;
	default:
		draw_source(l, &run, n_layers);
	}
	l->runs[i] = run;
}

/* Return: bytes of the new file at @data; 0: nothing came of it */
static size_t mutate_runs(uint8_t *data, size_t len, size_t max_len, unsigned seed)
{
	_cleanup_(page_map_deinit) struct page_map m = {0}, changed = {0};
	_cleanup_free_ struct layer_name *names = NULL;
	_cleanup_buf_ struct buf file = {0};
	struct list l = {.random = seed};
	uint32_t n_layers;

	fit_sum(data, len);
	if (page_map_decode(data, len, NULL, &m, &names, &n_layers))
		return 0;
	l.n = MIN(m.n_runs, (size_t)MAX_RUNS);
	memcpy(l.runs, m.runs, l.n * sizeof(*l.runs));
	for (uint64_t i = 1 + draw(&l, 4); i; i--)
		change_list(&l, n_layers);
	for (size_t i = 0; i < l.n; i++) /* what is out of range is left out */
		(void)page_map_append(&changed, l.runs[i].n_pages, l.runs[i].layer, l.runs[i].slot);
	if (!changed.n_runs || page_map_encode(&changed, names, n_layers, &file) < 0 ||
	    file.len > max_len)
		return 0;
	memcpy(data, file.data, file.len);
	return file.len;
}

/* Change bytes of the runs only. Return: as above */
static size_t mutate_bytes(uint8_t *data, size_t len, size_t max_len)
{
	uint64_t start;
	size_t n;

	if (len < HEADER_BYTES + DIGEST_BYTES)
		return 0;
	start = HEADER_BYTES + le_get32(data + 12) % 8ull * NAME_BYTES;
	if (start + DIGEST_BYTES >= len || max_len < len)
		return 0;
	n = LLVMFuzzerMutate(data + start, len - start - DIGEST_BYTES,
			     max_len - start - DIGEST_BYTES);
	le_put64(data + 32, n);
	if (n % 3 == 0) /* perhaps one run per byte */
		le_put64(data + 24, n);
	fit_sum(data, start + n + DIGEST_BYTES);
	return start + n + DIGEST_BYTES;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t max_len, unsigned seed)
{
	size_t n = 0;

	if (seed % 3)
		n = mutate_runs(data, len, max_len, seed);
	else if (seed % 2)
		n = mutate_bytes(data, len, max_len);
	return n ? n : LLVMFuzzerMutate(data, len, max_len);
}
