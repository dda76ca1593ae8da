/* SPDX-License-Identifier: Apache-2.0 */
#include "image/test-fixture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/varint.h"
#include "image/le.h"
#include "image/page-map.h"

static void test_append_joins(void **state)
{
	_cleanup_(page_map_deinit) struct page_map m = {0};
	struct page_run shared;

	assert_int_equal(page_map_append(&m, 8, 0, 12), 0);
	assert_int_equal(page_map_append(&m, 4, IMAGE_LAYER_ZERO, 99), 0);
	assert_int_equal(page_map_append(&m, 20, IMAGE_LAYER_ZERO, 0), 0);
	assert_int_equal(page_map_append(&m, 4, 0, 0), 0);
	assert_int_equal(page_map_append(&m, 4, 0, 4), 0);
	assert_int_equal(page_map_append(&m, 4, 1, 8), 0); /* another layer: not joined */
	assert_int_equal(m.n_runs, 4);
	assert_int_equal(m.n_pages, 44);
	assert_int_equal(m.stored_pages, 20);
	assert_int_equal(page_map_append(&m, IMAGE_MAX_PAGES - 43, 0, 50), -EFBIG);
	assert_int_equal(page_map_seal(&m, &shared), 0);
	for (uint64_t gfn = 0; gfn < 44; gfn++) {
		size_t i = page_map_find(&m, gfn);

		assert_true(m.runs[i].gfn <= gfn && gfn < m.runs[i].gfn + m.runs[i].n_pages);
	}
	/* slots 0..7, 12..19 of layer 0, 8..11 of layer 1 */
	assert_int_equal(page_map_find_slot(&m, 0, 0), 0);
	assert_int_equal(page_map_find_slot(&m, 0, 7), 0);
	assert_int_equal(page_map_find_slot(&m, 0, 8), 1);
	assert_int_equal(page_map_find_slot(&m, 0, 19), 1);
	assert_int_equal(page_map_find_slot(&m, 0, 20), 2);
	assert_int_equal(page_map_find_slot(&m, 1, 0), 2);
	assert_int_equal(page_map_find_slot(&m, 1, 12), 3);
}

static void test_shared_slots(void **state)
{
	_cleanup_(page_map_deinit) struct page_map m = {0};
	struct page_run shared;

	assert_int_equal(page_map_append(&m, 8, 0, 12), 0);
	assert_int_equal(page_map_append(&m, 8, 0, 5), 0);
	assert_int_equal(page_map_seal(&m, &shared), -EEXIST);
	assert_int_equal(shared.gfn, 0); /* 5..12 comes first by slot, 12..19 then overlaps */
}

static void test_random_maps(void **state)
{
	uint64_t seed = 42;

	for (int round = 0; round < 200; round++) {
		_cleanup_(page_map_deinit) struct page_map m = {0}, back = {0};
		_cleanup_free_ struct layer_name *back_names = NULL;
		_cleanup_buf_ struct buf file = {0}, again = {0};
		struct layer_name names[3] = {0};
		uint64_t next[3] = {0};
		struct problem problem = PROBLEM_INIT;
		struct page_run shared;
		uint32_t n_layers;

		for (uint32_t i = 0; i < 3; i++)
			memset(names[i].id, (int)i + 1, sizeof(names[i].id));
		for (uint64_t i = fixture_random(&seed) % 200 + 1; i; i--) {
			uint64_t n = fixture_random(&seed) % 40 + 1;
			uint32_t layer = fixture_random(&seed) % 4;

			if (layer == 3)
				layer = IMAGE_LAYER_ZERO;
			else if (fixture_random(&seed) % 2)
				next[layer] += fixture_random(&seed) % 100000;
			assert_int_equal(page_map_append(&m, n, layer, layer > 2 ? 0 : next[layer]),
					 0);
			if (layer <= 2)
				next[layer] += n;
		}
		assert_int_equal(page_map_seal(&m, &shared), 0);
		assert_int_equal(page_map_encode(&m, names, 3, &file), 0);
		assert_int_equal(page_map_decode(file.data, file.len, &problem, &back, &back_names,
						 &n_layers),
				 0);
		assert_int_equal(n_layers, 3);
		assert_memory_equal(names, back_names, sizeof(names));
		assert_int_equal(m.n_runs, back.n_runs);
		assert_int_equal(m.stored_pages, back.stored_pages);
		for (size_t i = 0; i < m.n_runs; i++) {
			assert_int_equal(m.runs[i].gfn, back.runs[i].gfn);
			assert_int_equal(m.runs[i].n_pages, back.runs[i].n_pages);
			assert_int_equal(m.runs[i].layer, back.runs[i].layer);
			assert_int_equal(m.runs[i].slot, back.runs[i].slot);
		}
		assert_int_equal(page_map_encode(&back, back_names, 3, &again), 0);
		assert_int_equal(file.len, again.len);
		assert_memory_equal(file.data, again.data, file.len);
	}
}

/* ---- maps that lie, with a checksum that fits -------------------------------------------------
 */

struct forged {
	uint32_t n_layers;
	uint64_t n_pages, n_runs, runs_len; /* runs_len UINT64_MAX: the true one */
	uint64_t numbers[12];		    /* varints of the runs; UINT64_MAX ends them */
	const char *expect;
};

static size_t forge(const struct forged *f, uint8_t *out)
{
	XXH128_canonical_t sum;
	size_t len = 40 + (size_t)f->n_layers % 8 * 32, start = len;

	memset(out, 0, len);
	memcpy(out, "DORMMAP", 8);
	le_put16(out + 8, 1);
	le_put32(out + 12, f->n_layers);
	le_put64(out + 16, f->n_pages);
	le_put64(out + 24, f->n_runs);
	for (uint32_t i = 0; i < f->n_layers % 8; i++)
		out[40 + i * 32] = (uint8_t)(i < 3 ? i : 0);
	for (size_t i = 0; f->numbers[i] != UINT64_MAX; i++)
		len += varint_put(out + len, f->numbers[i]);
	le_put64(out + 32, f->runs_len == UINT64_MAX ? len - start : f->runs_len);
	XXH128_canonicalFromHash(&sum, XXH3_128bits(out, len));
	memcpy(out + len, sum.digest, 16);
	return len + 16;
}

static void test_forged_maps(void **state)
{
	static const struct forged cases[] = {
		{1, 10, 1, -1, {20, -1}, NULL},
		{1, 10, 2, -1, {13, 0, 0, 8, -1}, NULL},
		{1, 0, 0, -1, {-1}, "header at offset 16: 0 pages"},
		{1, IMAGE_MAX_PAGES + 1, 1, -1, {20, -1}, "header at offset 16: 1073741825 pages"},
		{4097, 10, 1, -1, {20, -1}, "header at offset 12: 4097 layers"},
		{4, 10, 1, -1, {20, -1}, "one is named twice"},
		{1, 10, 1, 1ull << 60, {20, -1}, "do not make a file"},
		{1, 10, 1, 0, {20, -1}, "do not make a file"},
		{1, 10, 1ull << 40, -1, {20, -1}, "runs are too many"},
		{1, 10, 2, -1, {20, -1}, "runs are too many"},
		{1, 10, 0, -1, {-1}, "pages are missing after the last run"},
		{1, 10, 1, -1, {18, -1}, "run 1 at offset 73: pages are missing"},
		{1, 10, 1, -1, {22, -1}, "run 0 at offset 72: more pages than the image has"},
		{1, 10, 2, -1, {13, 0, 0, 10, -1}, "run 1 at offset 75: more pages"},
		{1,
		 10,
		 1,
		 -1,
		 {0, 20, -1},
		 "run 0 at offset 72: more pages than the image has, or none"},
		{1, 10, 1, -1, {UINT64_MAX - 1, -1}, "run 0 at offset 72: more pages"},
		{1, 10, 2, -1, {10, 10, 0, -1}, "run 1 at offset 73: continues"},
		{1, 10, 2, -1, {11, 0, 0, 11, 0, 0, -1}, "run 1 at offset 75: continues"},
		{1, 10, 1, -1, {21, 1, 0, -1}, "run 0 at offset 72: a layer that is not named"},
		{1, 10, 1, -1, {21, 1ull << 32, 0, -1}, "a layer that is not named"},
		{1, 10, 1, -1, {21, 0, 1, -1}, "a slot out of range"},
		{1, 10, 1, -1, {21, 0, UINT64_MAX - 1, -1}, "a slot out of range"},
		{1, 10, 1, -1, {21, 0, ((1ull << 31) - 9) * 2, -1}, "a slot out of range"},
		{1, 10, 2, -1, {11, 0, 20, 11, 0, 13, -1}, "has a page that another gfn has too"},
		{1, 10, 1, -1, {20, 20, -1}, "bytes follow the last run"},
		{1, 10, 1, -1, {21, 0, -1}, "run 0 at offset 72: bad number"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(page_map_deinit) struct page_map m = {0};
		_cleanup_free_ struct layer_name *names = NULL;
		struct problem problem = PROBLEM_INIT;
		uint8_t file[1024];
		uint32_t n;
		size_t len = forge(&cases[i], file);
		int r = page_map_decode(file, len, &problem, &m, &names, &n);

		if (!cases[i].expect) {
			assert_int_equal(r, 0);
			continue;
		}
		assert_int_equal(r, IMAGE_E_CORRUPT);
		if (!strstr(problem.message, cases[i].expect))
			fail_msg("case %zu: \"%s\" is not in \"%s\"", i, cases[i].expect,
				 problem.message);
	}
}

TEST_MAIN(cmocka_unit_test(test_append_joins), cmocka_unit_test(test_shared_slots),
	  cmocka_unit_test(test_random_maps), cmocka_unit_test(test_forged_maps))
