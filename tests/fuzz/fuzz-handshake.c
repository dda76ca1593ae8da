/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-handshake.c - any bytes as a VMM's handshake
 *
 * What the parser accepts must keep its promises, and every beginning of it must have asked for
 * more. What it refuses must say why, and stay refused when more bytes come.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "pager/handshake.h"

#define PAGES (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void require(bool ok)
{
	if (!ok)
		abort();
}

static void check(const struct handshake *h, uint64_t n_pages)
{
	uint64_t pages = 0, end = 0;

	require(h->n_regions > 0 && h->n_regions <= HANDSHAKE_MAX_REGIONS);
	for (uint32_t i = 0; i < h->n_regions; i++) {
		const struct handshake_region *g = &h->regions[i];

		require(g->hva > 0 && g->hva % DORM_PAGE_SIZE == 0 && g->hva >= end);
		require(g->n_pages > 0 && g->gfn < n_pages && g->n_pages <= n_pages - g->gfn);
		end = g->hva + g->n_pages * DORM_PAGE_SIZE;
		require(end > g->hva);
		pages += g->n_pages;
	}
	require(pages <= n_pages);
}

/* What fits into a small image fits into a large one, and means the same there. */
static void check_sizes(const char *text, size_t len)
{
	static const uint64_t sizes[] = {1, 16, 1u << 16, PAGES, 1ull << 30};
	struct handshake before, h;
	bool fits = false;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		int r = handshake_parse(text, len, sizes[i], &h, NULL);

		require(!fits || r == 0);
		if (r != 0)
			continue;
		check(&h, sizes[i]);
		if (fits) {
			require(h.n_regions == before.n_regions);
			require(!memcmp(h.regions, before.regions,
					h.n_regions * sizeof(h.regions[0])));
		}
		before = h;
		fits = true;
	}
}

/* It arrives in pieces: no beginning of a good message is bad, and none is whole. */
static void check_beginnings(const char *text, size_t len, int whole)
{
	const size_t cuts[] = {len - 1, len / 2, len / 3, len - MIN(len, (size_t)7)};
	struct handshake h;

	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		int r = handshake_parse(text, cuts[i], PAGES, &h, NULL);

		if (r == HANDSHAKE_E_BAD)
			require(whole == HANDSHAKE_E_BAD);
		if (whole == HANDSHAKE_E_MORE)
			require(r == HANDSHAKE_E_MORE);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct problem problem = PROBLEM_INIT;
	const char *text = (const char *)data;
	struct handshake h;
	int r = handshake_parse(text, len, PAGES, &h, &problem);

	require(r >= 0 && (r == HANDSHAKE_E_BAD) == problem_is_set(&problem));
	if (r == 0)
		check(&h, PAGES);
	check_sizes(text, len);
	if (len)
		check_beginnings(text, len, r);
	return 0;
}
