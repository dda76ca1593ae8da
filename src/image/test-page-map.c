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

static void expect_run(const struct page_map *m, size_t i, uint64_t gfn, uint64_t n, uint64_t slot)
{
	assert_int_equal(m->runs[i].gfn, gfn);
	assert_int_equal(m->runs[i].n_pages, n);
	assert_int_equal(m->runs[i].slot, slot);
}

/* The example of page-map-seal.c */
static void test_shared_slots(void **state)
{
	_cleanup_(page_map_deinit) struct page_map m = {0}, apart = {0};
	struct page_run shared;

	assert_int_equal(page_map_append(&m, 4, 0, 10), 0);
	assert_int_equal(page_map_append(&m, 8, 0, 8), 0);
	assert_int_equal(page_map_seal(&m, &shared), 0);
	assert_true(shared.n_pages > 0);
	assert_int_equal(m.n_runs, 4);
	expect_run(&m, 0, 0, 4, 10);
	expect_run(&m, 1, 4, 2, 8);
	expect_run(&m, 2, 6, 4, 10);
	expect_run(&m, 3, 10, 2, 14);
	assert_int_equal(m.n_by_slot, 3);
	assert_int_equal(m.by_slot[0], 1);
	assert_int_equal(m.by_slot[1], 0);
	assert_int_equal(m.by_slot[2], 3);
	assert_int_equal(page_map_owner(&m, 0, 9), 5);
	assert_int_equal(page_map_owner(&m, 0, 13), 3);
	assert_int_equal(page_map_owner(&m, 0, 14), 10);
	/* slots in descending order are not shared */
	assert_int_equal(page_map_append(&apart, 4, 0, 10), 0);
	assert_int_equal(page_map_append(&apart, 4, 0, 6), 0);
	assert_int_equal(page_map_append(&apart, 4, 1, 6), 0);
	assert_int_equal(page_map_seal(&apart, &shared), 0);
	assert_int_equal(shared.n_pages, 0);
	assert_int_equal(apart.n_runs, 3);
	assert_int_equal(apart.n_by_slot, 3);
}

static void fill_names(struct layer_name *names, uint32_t n)
{
	memset(names, 0, n * sizeof(*names));
	for (uint32_t i = 0; i < n; i++)
		le_put32(names[i].id, i + 1);
}

static size_t count_maximal(const struct page_map *m)
{
	size_t n = 0;

	for (size_t i = 0; i < m->n_runs; i++)
		n += i == 0 ||
		     !page_run_continues(&m->runs[i - 1], m->runs[i].layer, m->runs[i].slot);
	return n;
}

static void expect_same(const struct page_map *a, const struct page_map *b)
{
	assert_int_equal(a->n_pages, b->n_pages);
	assert_int_equal(a->stored_pages, b->stored_pages);
	assert_int_equal(a->n_runs, b->n_runs);
	assert_int_equal(a->n_by_slot, b->n_by_slot);
	for (size_t i = 0; i < a->n_runs; i++) {
		expect_run(a, i, b->runs[i].gfn, b->runs[i].n_pages, b->runs[i].slot);
		assert_int_equal(a->runs[i].layer, b->runs[i].layer);
	}
	assert_memory_equal(a->by_slot, b->by_slot, a->n_by_slot * sizeof(*a->by_slot));
}

/* Through a file and back: the same map, the same file, with maximal runs only. */
static void round_trip(const struct page_map *m, const struct layer_name *names, uint32_t n_layers)
{
	_cleanup_(page_map_deinit) struct page_map back = {0};
	_cleanup_free_ struct layer_name *back_names = NULL;
	_cleanup_buf_ struct buf file = {0}, again = {0};
	struct problem problem = PROBLEM_INIT;
	uint32_t n;

	assert_int_equal(page_map_encode(m, names, n_layers, &file), 0);
	assert_int_equal(le_get64((uint8_t *)file.data + 24), count_maximal(m));
	if (page_map_decode(file.data, file.len, &problem, &back, &back_names, &n))
		fail_msg("%s", problem.message);
	assert_int_equal(n, n_layers);
	assert_memory_equal(names, back_names, n * sizeof(*names));
	expect_same(m, &back);
	assert_int_equal(page_map_encode(&back, back_names, n, &again), 0);
	assert_int_equal(file.len, again.len);
	assert_memory_equal(file.data, again.data, file.len);
}

#define SMALL_LAYERS 3u
#define SMALL_SLOTS  4096u

/* Every slot by counting: who owns it, and what the two orders say. */
static void expect_owners(const struct page_map *m)
{
	static uint64_t owner[SMALL_LAYERS][SMALL_SLOTS];
	size_t owned = 0, n = 0;

	memset(owner, 0xff, sizeof(owner));
	for (size_t i = 0; i < m->n_runs; i++)
		for (uint64_t j = 0; m->runs[i].layer < SMALL_LAYERS && j < m->runs[i].n_pages;
		     j++) {
			uint64_t *o = &owner[m->runs[i].layer][m->runs[i].slot + j];

			n += *o == UINT64_MAX;
			*o = MIN(*o, m->runs[i].gfn + j);
		}
	for (uint32_t l = 0; l < SMALL_LAYERS; l++)
		for (uint64_t s = 0; s < SMALL_SLOTS; s++)
			if (owner[l][s] != UINT64_MAX)
				assert_int_equal(page_map_owner(m, l, s), owner[l][s]);
	for (size_t i = 0; i < m->n_by_slot; i++) {
		const struct page_run *run = &m->runs[m->by_slot[i]];

		owned += run->n_pages;
		for (uint64_t j = 0; j < run->n_pages; j++)
			assert_int_equal(owner[run->layer][run->slot + j], run->gfn + j);
		if (i) {
			const struct page_run *last = &m->runs[m->by_slot[i - 1]];

			assert_true(last->layer < run->layer ||
				    (last->layer == run->layer &&
				     last->slot + last->n_pages <= run->slot));
		}
	}
	assert_int_equal(owned, n);
	for (size_t i = 0; i < m->n_runs; i++) {
		const struct page_run *run = &m->runs[i];

		assert_int_equal(page_map_find(m, run->gfn), i);
		assert_int_equal(page_map_find(m, run->gfn + run->n_pages - 1), i);
	}
}

static void test_random_maps(void **state)
{
	struct layer_name names[SMALL_LAYERS];
	uint64_t seed = 42;

	fill_names(names, SMALL_LAYERS);
	for (int round = 0; round < 600; round++) {
		_cleanup_(page_map_deinit) struct page_map m = {0};
		uint64_t next[SMALL_LAYERS] = {0}, jumps = fixture_random(&seed) % 8;
		size_t n_runs;

		for (uint64_t i = fixture_random(&seed) % 200 + 1; i; i--) {
			uint64_t n = fixture_random(&seed) % 40 + 1;
			uint32_t layer = fixture_random(&seed) % 4;

			if (layer == 3) {
				assert_int_equal(page_map_append(&m, n, IMAGE_LAYER_ZERO, 0), 0);
				continue;
			}
			if (fixture_random(&seed) % 8 < jumps || next[layer] > SMALL_SLOTS - 40)
				next[layer] = fixture_random(&seed) % (SMALL_SLOTS - 40);
			assert_int_equal(page_map_append(&m, n, layer, next[layer]), 0);
			next[layer] += n;
			if (fixture_random(&seed) % 4 == 0)
				next[layer] += fixture_random(&seed) % 3 * 16 - next[layer] % 16;
		}
		n_runs = m.n_runs;
		assert_int_equal(page_map_seal(&m, NULL), 0);
		assert_true(m.n_runs <= 5 * n_runs);
		assert_int_equal(count_maximal(&m), n_runs);
		expect_owners(&m);
		round_trip(&m, names, SMALL_LAYERS);
	}
}

/* Large groups of runs out of order, far slots, many layers: the other ways of sorting. */
static void test_large_maps(void **state)
{
	_cleanup_free_ struct layer_name *names = calloc(PAGE_MAP_MAX_LAYERS, sizeof(*names));
	uint64_t seed = 7;

	assert_non_null(names);
	fill_names(names, PAGE_MAP_MAX_LAYERS);
	for (int round = 0; round < 4; round++) {
		_cleanup_(page_map_deinit) struct page_map m = {0};
		const uint32_t n_layers = round % 2 ? PAGE_MAP_MAX_LAYERS : 2;

		for (size_t i = 0; i < 30000; i++) {
			uint64_t slot = (fixture_random(&seed) << 20 ^ fixture_random(&seed)) %
					(PAGE_MAP_MAX_SLOTS - 1000);

			assert_int_equal(
				page_map_append(&m, fixture_random(&seed) % 1000 + 1,
						(uint32_t)(fixture_random(&seed) % n_layers), slot),
				0);
		}
		assert_int_equal(page_map_seal(&m, NULL), 0);
		for (size_t i = 1; i < m.n_by_slot; i++) {
			const struct page_run *a = &m.runs[m.by_slot[i - 1]];
			const struct page_run *b = &m.runs[m.by_slot[i]];

			assert_true(a->layer < b->layer ||
				    (a->layer == b->layer && a->slot + a->n_pages <= b->slot));
		}
		for (size_t i = 0; i < m.n_runs; i++)
			assert_true(page_map_owner(&m, m.runs[i].layer, m.runs[i].slot) <=
				    m.runs[i].gfn);
		round_trip(&m, names, n_layers);
	}
}

/* As many layers of overlap as there are runs, in the two orders that differ most. */
static void test_deep_overlap(void **state)
{
	for (int down = 0; down < 2; down++) {
		_cleanup_(page_map_deinit) struct page_map m = {0};
		const uint64_t n = 20000, len = 50000;
		struct page_run shared;
		uint64_t owned = 0;

		for (uint64_t i = 0; i < n; i++)
			assert_int_equal(
				page_map_append(&m, len + i % 7, 0, 2 * (down ? n - i : i)), 0);
		assert_int_equal(page_map_seal(&m, &shared), 0);
		assert_true(shared.n_pages > 0);
		assert_true(m.n_runs <= 5 * n);
		for (size_t i = 0; i < m.n_by_slot; i++)
			owned += m.runs[m.by_slot[i]].n_pages;
		assert_in_range(owned, len + 2 * (n - 1), len + 2 * n + 7);
		assert_int_equal(page_map_owner(&m, 0, down ? 2 * n : 0), 0);
	}
}

/* Nothing is written beyond what page_map_encode() allocates when every run costs the most. */
static void test_worst_runs(void **state)
{
	_cleanup_(page_map_deinit) struct page_map m = {0};
	_cleanup_free_ struct layer_name *names = calloc(PAGE_MAP_MAX_LAYERS, sizeof(*names));

	assert_non_null(names);
	fill_names(names, PAGE_MAP_MAX_LAYERS);
	for (uint32_t i = 0; i < 64; i++)
		assert_int_equal(
			page_map_append(&m, (1u << 24) - 1, 4032 + i,
					i % 2 ? PAGE_MAP_MAX_SLOTS - (1u << 24) : (1u << 30) + 5),
			0);
	assert_int_equal(page_map_seal(&m, NULL), 0);
	round_trip(&m, names, PAGE_MAP_MAX_LAYERS);
}

static void test_limits(void **state)
{
	_cleanup_(page_map_deinit) struct page_map m = {0};

	assert_int_equal(page_map_append(&m, 2, 0, PAGE_MAP_MAX_SLOTS - 1), -EFBIG);
	assert_int_equal(page_map_append(&m, 2, 0, UINT64_MAX), -EFBIG);
	assert_int_equal(page_map_append(&m, 2, PAGE_MAP_MAX_LAYERS + 1, 0), -EFBIG);
	assert_int_equal(page_map_append(&m, 2, 0, PAGE_MAP_MAX_SLOTS - 2), 0);
}

/* The bytes of the runs that the second example of docs/format-image.md explains */
static void test_example(void **state)
{
	static const uint8_t want[] = {0x13, 0x0a, 0x00, 0x07, 0x0b, 0x00,
				       0x07, 0x05, 0x03, 0x01, 0x2a};
	_cleanup_(page_map_deinit) struct page_map m = {0};
	_cleanup_buf_ struct buf file = {0};
	struct layer_name names[2];

	fill_names(names, 2);
	assert_int_equal(page_map_append(&m, 5, 0, 0), 0);
	assert_int_equal(page_map_append(&m, 2, 1, 0), 0);
	assert_int_equal(page_map_append(&m, 2, 0, 7), 0);
	assert_int_equal(page_map_append(&m, 1, 1, 2), 0);
	assert_int_equal(page_map_append(&m, 11, 0, 10), 0);
	assert_int_equal(page_map_encode(&m, names, 2, &file), 0);
	assert_int_equal(file.len, 40 + 2 * 32 + sizeof(want) + 16);
	assert_memory_equal(file.data + 104, want, sizeof(want));
	assert_int_equal(page_map_seal(&m, NULL), 0);
	round_trip(&m, names, 2);
}

/* The map of a snapshot that version 1.0 wrote: 300 pages, of which gfn 8 is slot 0 of layer 0. */
static void test_version_1(void **state)
{
	static const uint8_t old[] = {
		0x44, 0x4f, 0x52, 0x4d, 0x4d, 0x41, 0x50, 0x00, 0x01, 0x00, 0x00, 0x00, 0x01, 0x00,
		0x00, 0x00, 0x2c, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00,
		0x00, 0x00, 0x00, 0x00, 0x06, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01,
		0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f,
		0x79, 0x66, 0x17, 0x9d, 0x39, 0x8f, 0xa5, 0xfd, 0x0e, 0xc0, 0x5d, 0xf5, 0xbe, 0x25,
		0x61, 0x15, 0x10, 0x03, 0x00, 0x00, 0xc6, 0x04, 0xf3, 0x30, 0xba, 0x90, 0x9d, 0x9a,
		0x0d, 0x37, 0xc5, 0x54, 0xd4, 0x63, 0x89, 0x4d, 0x9a, 0x87};
	_cleanup_(page_map_deinit) struct page_map m = {0};
	_cleanup_free_ struct layer_name *names = NULL;
	_cleanup_buf_ struct buf file = {0};
	struct problem problem = PROBLEM_INIT;
	uint32_t n;

	assert_int_equal(page_map_decode(old, sizeof(old), &problem, &m, &names, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(names[0].id[15], 15);
	assert_int_equal(m.n_runs, 3);
	expect_run(&m, 0, 0, 8, 0);
	expect_run(&m, 1, 8, 1, 0);
	expect_run(&m, 2, 9, 291, 0);
	assert_int_equal(m.runs[1].layer, 0);
	assert_int_equal(m.runs[2].layer, IMAGE_LAYER_ZERO);
	/* what is written is of the present version */
	assert_int_equal(page_map_encode(&m, names, n, &file), 0);
	assert_int_equal(file.data[8], 2);
	round_trip(&m, names, n);
}

/* ---- maps that lie, with a checksum that fits -------------------------------------------------
 */

struct forged {
	uint32_t n_layers;
	uint64_t n_pages, n_runs, runs_len; /* runs_len UINT64_MAX: the true one */
	uint64_t numbers[14];		    /* of the runs; UINT64_MAX ends them */
	const char *expect;
};

/* The numbers are varints in version 1, bytes in version 2. */
static size_t forge(const struct forged *f, uint16_t version, uint8_t *out)
{
	XXH128_canonical_t sum;
	size_t len = 40 + (size_t)f->n_layers % 8 * 32, start = len;

	memset(out, 0, len);
	memcpy(out, "DORMMAP", 8);
	le_put16(out + 8, version);
	le_put32(out + 12, f->n_layers);
	le_put64(out + 16, f->n_pages);
	le_put64(out + 24, f->n_runs);
	for (uint32_t i = 0; i < f->n_layers % 8; i++)
		out[40 + i * 32] = (uint8_t)(i < 3 ? i : 0);
	for (size_t i = 0; f->numbers[i] != UINT64_MAX; i++)
		if (version == 1)
			len += varint_put(out + len, f->numbers[i]);
		else
			out[len++] = (uint8_t)f->numbers[i];
	le_put64(out + 32, f->runs_len == UINT64_MAX ? len - start : f->runs_len);
	XXH128_canonicalFromHash(&sum, XXH3_128bits(out, len));
	memcpy(out + len, sum.digest, 16);
	return len + 16;
}

static void check_forged(const struct forged *cases, size_t n_cases, uint16_t version)
{
	for (size_t i = 0; i < n_cases; i++) {
		_cleanup_(page_map_deinit) struct page_map m = {0};
		_cleanup_free_ struct layer_name *names = NULL;
		struct problem problem = PROBLEM_INIT;
		uint8_t file[1024];
		uint32_t n;
		size_t len = forge(&cases[i], version, file);
		int r = page_map_decode(file, len, &problem, &m, &names, &n);

		if (!cases[i].expect && r)
			fail_msg("case %zu: %s", i, problem.message);
		if (!cases[i].expect)
			continue;
		assert_int_equal(r, IMAGE_E_CORRUPT);
		if (!strstr(problem.message, cases[i].expect))
			fail_msg("case %zu: \"%s\" is not in \"%s\"", i, cases[i].expect,
				 problem.message);
	}
}

static void test_forged_1(void **state)
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

	check_forged(cases, ARRAY_SIZE(cases), 1);
}

static void test_forged(void **state)
{
	static const struct forged cases[] = {
		{1, 10, 1, -1, {0x24, -1}, NULL},
		{1, 10, 2, -1, {0x17, 0x0a, 8, 0x0c, -1}, NULL},
		/* the same slots for two gfns */
		{1, 12, 3, -1, {0x17, 0x0a, 0, 0, 0x13, 0x0a, 11, -1}, NULL},
		{1, 0, 0, -1, {-1}, "header at offset 16: 0 pages"},
		{1, 10, 1ull << 40, -1, {0x24, -1}, "runs are too many"},
		{1, 10, 2, -1, {0x24, -1}, "runs are too many"},
		{1, 10, 0, -1, {-1}, "pages are missing after the last run"},
		{1, 10, 1, -1, {0x20, -1}, "run 1 at offset 73: pages are missing"},
		{1, 10, 1, -1, {0x28, -1}, "run 0 at offset 72: more pages than the image has"},
		{1, 10, 2, -1, {0x17, 0x0a, 0, 0x10, -1}, "run 1 at offset 75: more pages"},
		{1, 10, 2, -1, {0x10, 0x10, -1}, "run 1 at offset 73: continues"},
		{1, 10, 1, -1, {0x24, 0x24, -1}, "bytes follow the last run"},
		{1, 100, 2, -1, {0x8c, 3, -1}, "run 1 at offset 74: bad number"},
		{1, 100, 1, -1, {0x8c, 3, -1}, NULL},
		{1, 10, 1, -1, {0xa4, 0, -1}, "run 0 at offset 72: bad number"},
		{1, 10, 1, -1, {0xa4, 0x81, 0, -1}, "run 0 at offset 72: bad number"},
		{1, 10, 1, -1, {0xa4, -1}, "run 0 at offset 72: bad number"},
		{1,
		 10,
		 1,
		 -1,
		 {0xa4, 0xff, 0xff, 0xff, 0xff, 0x7f, -1},
		 "more pages than the image"},
		/* sources */
		{1, 10, 1, -1, {0x25, -1}, "run 0 at offset 72: a cursor that is not in use"},
		{1, 10, 1, -1, {0x26, -1}, "a cursor that is not in use"},
		{1, 10, 1, -1, {0x27, 0, -1}, "a cursor that is not in use"},
		{1, 10, 1, -1, {0x27, 5, -1}, "a cursor that is not in use"},
		{1, 10, 1, -1, {0x27, 9, -1}, "a cursor that is not in use"},
		{1, 10, 1, -1, {0x27, 10, 0, -1}, NULL},
		{1, 10, 1, -1, {0x27, 10, -1}, "bad number"},
		{1, 10, 1, -1, {0x27, -1}, "bad number"},
		{1, 10, 1, -1, {0x27, 11, 0, -1}, "a layer that is not named"},
		{1, 10, 1, -1, {0x27, 10, 1, -1}, "a slot out of range"},
		{1, 10, 1, -1, {0x27, 10, 0xec, 0xff, 0xff, 0xff, 0x0f, -1}, NULL},
		{1, 10, 1, -1, {0x27, 10, 0xee, 0xff, 0xff, 0xff, 0x0f, -1}, "a slot out of range"},
		/* 5 pages of layer 0, zero, 4 pages from the cursor: x may only be 0 */
		{1, 10, 3, -1, {0x13, 10, 0, 0, 0x0f, 0, -1}, NULL},
		{1,
		 10,
		 3,
		 -1,
		 {0x13, 10, 0, 0, 0x0f, 4, -1},
		 "run 2 at offset 76: a source that has"},
		{1,
		 10,
		 3,
		 -1,
		 {0x13, 10, 0, 0, 0x0f, 10, 0, -1},
		 "a source that has a shorter name"},
		/* the next frame; by its cursor only */
		{1, 10, 3, -1, {0x13, 10, 0, 0, 0x0f, 8, -1}, NULL},
		{1,
		 10,
		 3,
		 -1,
		 {0x13, 10, 0, 0, 0x0f, 10, 22, -1},
		 "a source that has a shorter name"},
		/* two runs would be one */
		{1, 10, 2, -1, {0x13, 10, 0, 0x13, 0, -1}, "run 1 at offset 75: continues"},
	};

	check_forged(cases, ARRAY_SIZE(cases), 2);
}

TEST_MAIN(cmocka_unit_test(test_append_joins), cmocka_unit_test(test_shared_slots),
	  cmocka_unit_test(test_random_maps), cmocka_unit_test(test_large_maps),
	  cmocka_unit_test(test_deep_overlap), cmocka_unit_test(test_worst_runs),
	  cmocka_unit_test(test_limits), cmocka_unit_test(test_example),
	  cmocka_unit_test(test_version_1), cmocka_unit_test(test_forged_1),
	  cmocka_unit_test(test_forged))
