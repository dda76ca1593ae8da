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

static void check(const struct handshake *h)
{
	uint64_t pages = 0, end = 0;

	require(h->n_regions > 0 && h->n_regions <= HANDSHAKE_MAX_REGIONS);
	for (uint32_t i = 0; i < h->n_regions; i++) {
		const struct handshake_region *g = &h->regions[i];

		require(g->hva > 0 && g->hva % DORM_PAGE_SIZE == 0 && g->hva >= end);
		require(g->n_pages > 0 && g->gfn < PAGES && g->n_pages <= PAGES - g->gfn);
		end = g->hva + g->n_pages * DORM_PAGE_SIZE;
		require(end > g->hva);
		pages += g->n_pages;
	}
	require(pages <= PAGES);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct problem problem = PROBLEM_INIT;
	struct handshake h, again;
	const char *text = (const char *)data;
	int r = handshake_parse(text, len, PAGES, &h, &problem);

	require(r >= 0 && (r == HANDSHAKE_E_BAD) == problem_is_set(&problem));
	if (r == 0)
		check(&h);
	if (len == 0)
		return 0;
	if (handshake_parse(text, len / 2, PAGES, &again, NULL) == HANDSHAKE_E_BAD)
		require(r == HANDSHAKE_E_BAD);
	return 0;
}
