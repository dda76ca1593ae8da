/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-map.c - any bytes as a map file
 *
 * The checksum at the end is made to fit first, or the fuzzer would never get past it. What the
 * decoder accepts must be written back as the same bytes, and answer every question in range.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "image/outcome.h"
#include "image/page-map.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void require(bool ok)
{
	if (!ok)
		abort();
}

static void ask(const struct page_map *m)
{
	for (size_t i = 0; i < m->n_runs; i++) {
		const struct page_run *run = &m->runs[i];

		require(page_map_find(m, run->gfn) == i);
		require(page_map_find(m, run->gfn + run->n_pages - 1) == i);
		if (run->layer == IMAGE_LAYER_ZERO)
			continue;
		require(m->by_slot[page_map_find_slot(m, run->layer, run->slot)] == i);
		require(m->by_slot[page_map_find_slot(m, run->layer,
						      run->slot + run->n_pages - 1)] == i);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	_cleanup_(page_map_deinit) struct page_map m = {0};
	_cleanup_free_ struct layer_name *names = NULL;
	_cleanup_free_ uint8_t *file = malloc(len + 1);
	_cleanup_buf_ struct buf again = {0};
	struct problem problem = PROBLEM_INIT;
	XXH128_canonical_t sum;
	uint32_t n_layers;

	require(file);
	if (len)
		memcpy(file, data, len);
	if (len >= DIGEST_BYTES) {
		XXH128_canonicalFromHash(&sum, XXH3_128bits(file, len - DIGEST_BYTES));
		memcpy(file + len - DIGEST_BYTES, sum.digest, DIGEST_BYTES);
	}
	if (page_map_decode(file, len, &problem, &m, &names, &n_layers)) {
		require(problem_is_set(&problem));
		return 0;
	}
	ask(&m);
	require(page_map_encode(&m, names, n_layers, &again) == 0);
	if (file[8] != FORMAT_MAJOR || file[10] || file[11]) /* of another: written back as ours */
		return 0;
	require(again.len == len && !memcmp(again.data, file, len));
	return 0;
}
