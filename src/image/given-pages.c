/* SPDX-License-Identifier: Apache-2.0 */
/*
 * given-pages.c - runs in the order in which pages were given, and their order by gfn
 *
 * Writers give pages in a few ascending sequences: the working set, then the rest. A natural merge
 * sort uses that: it finds the ascending sequences that are there and merges neighbours, so n runs
 * in s sequences take n * log2(s) steps; one sequence takes none. 12 bytes per run, the same again
 * while sorting.
 *
 *     gfn   5 6 | 1 9 | 0 7 8     three sequences
 *           1 5 6 9 | 0 7 8       merged two and two
 *           0 1 5 6 7 8 9
 */
#include "image/given-pages.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"

int given_pages_init(struct given_pages *g, uint64_t n_pages)
{
	*g = (struct given_pages){.n_pages = n_pages};
	g->marks = calloc((n_pages + 63) / 64, sizeof(*g->marks));
	return g->marks ? 0 : -ENOMEM;
}

void given_pages_deinit(struct given_pages *g)
{
	free(g->marks);
	free(g->runs);
	*g = (struct given_pages){0};
}

bool given_pages_mark(struct given_pages *g, uint64_t gfn)
{
	const uint64_t bit = 1ull << (gfn % 64);
	uint64_t *word = &g->marks[gfn / 64];

	if (*word & bit)
		return false;
	*word |= bit;
	return true;
}

static bool continues(const struct given_run *last, uint64_t gfn, uint32_t slot)
{
	if ((uint64_t)last->gfn + last->n_pages != gfn)
		return false;
	if (slot == GIVEN_ZERO || last->slot == GIVEN_ZERO)
		return slot == last->slot;
	return last->slot + last->n_pages == slot;
}

int given_pages_append(struct given_pages *g, uint64_t gfn, uint32_t slot)
{
	struct given_run *last = g->n_runs ? &g->runs[g->n_runs - 1] : NULL;
	int r;

	if (last && continues(last, gfn, slot)) {
		last->n_pages++;
		return 0;
	}
	if (last && gfn < last->gfn)
		g->unsorted = true;
	r = mem_grow(&g->runs, &g->cap_runs, g->n_runs, sizeof(*g->runs));
	if (r < 0)
		return error_trace(r);
	assert(g->runs);
	g->runs[g->n_runs++] = (struct given_run){.gfn = (uint32_t)gfn, .n_pages = 1, .slot = slot};
	return 0;
}

/* Where the ascending sequence that begins at @i ends. */
static size_t sequence_end(const struct given_run *runs, size_t n, size_t i)
{
	for (i++; i < n && runs[i - 1].gfn < runs[i].gfn; i++)
		;
	return MIN(i, n);
}

/* Merge the first two of the sequences in @from .. into @to. Return: the runs that took. */
static size_t merge_two(const struct given_run *from, size_t n, struct given_run *to)
{
	size_t mid = sequence_end(from, n, 0);
	size_t end = mid < n ? sequence_end(from, n, mid) : n;
	size_t a = 0, b = mid;

	for (size_t i = 0; i < end; i++)
		to[i] = b == end || (a < mid && from[a].gfn < from[b].gfn) ? from[a++] : from[b++];
	return end;
}

int given_pages_sort(struct given_pages *g)
{
	_cleanup_free_ struct given_run *other = NULL;

	if (!g->unsorted)
		return 0;
	other = malloc(g->n_runs * sizeof(*other));
	if (!other)
		return -ENOMEM;
	while (sequence_end(g->runs, g->n_runs, 0) < g->n_runs) {
		struct given_run *merged = other;

		for (size_t i = 0; i < g->n_runs;)
			i += merge_two(g->runs + i, g->n_runs - i, merged + i);
		other = g->runs;
		g->runs = merged;
	}
	g->cap_runs = g->n_runs; /* of the array that it is now */
	g->unsorted = false;
	return 0;
}
