/* SPDX-License-Identifier: Apache-2.0 */
#include "image/page-dedupe.h"

#include <stdlib.h>
#include <string.h>

#include "base/test.h"
#include "image/test-fixture.h"

/* A page that says its number. */
static void number_page(uint8_t *page, uint32_t n)
{
	memset(page, 0, DORM_PAGE_SIZE);
	memcpy(page + 8 * (n % 511), &n, sizeof(n));
	page[DORM_PAGE_SIZE - 1] = 1;
}

static void test_find_and_grow(void **state)
{
	const uint32_t n = 5000; /* which makes the table grow more than once */
	struct page_dedupe *d;
	uint32_t slot = 77;

	assert_int_equal(page_dedupe_new(&d), 0);
	for (uint32_t i = 0; i < n; i++) {
		uint8_t page[DORM_PAGE_SIZE];

		number_page(page, i);
		assert_int_equal(page_dedupe_find(d, page, &slot), 0);
		assert_int_equal(slot, 77);
		page_dedupe_add(d, 3 * i);
	}
	for (uint32_t i = 0; i < n; i++) {
		uint8_t page[DORM_PAGE_SIZE];

		number_page(page, i);
		assert_int_equal(page_dedupe_find(d, page, &slot), 1);
		assert_int_equal(slot, 3 * i);
		page[DORM_PAGE_SIZE - 1] = 2;
		assert_int_equal(page_dedupe_find(d, page, &slot), 0);
	}
	page_dedupe_free(d);
}

/* A permutation of the numbers below 2^30. */
static uint32_t shuffle(uint32_t i)
{
	const uint32_t mask = (1u << 30) - 1;

	i = i * 0x2545f491u & mask;
	i ^= i >> 15;
	i = i * 0x5bd1e995u & mask;
	return i ^ i >> 15;
}

/*
 * Pages of which XXH3-128 takes some for the same, ten or twenty of these, whatever its secret: the
 * two highest bits of the first word of each 64-byte stripe of the first 1024 bytes differ, and
 * their sum does not.
 */
static void test_prepared_pages(void **state)
{
	uint64_t page[DORM_PAGE_SIZE / 8];
	struct page_dedupe *d;
	uint32_t slot;

	assert_int_equal(page_dedupe_new(&d), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(page); i++)
		page[i] = (0x1234567890abcdefull * (i + 1)) & ~(3ull << 62);
	for (uint32_t i = 0; i < 1u << 19; i++) {
		const uint32_t bits = shuffle(i);
		uint64_t sum = 0;

		for (unsigned stripe = 0; stripe < 16; stripe++) {
			uint64_t v = (stripe < 15 ? bits >> (2 * stripe) : -sum) & 3;

			sum += v;
			page[8 * stripe] = (page[8 * stripe] & ~(3ull << 62)) | v << 62;
		}
		if (page_dedupe_find(d, page, &slot) != 0)
			fail_msg("pages %u and %u have the same hash", i, slot);
		page_dedupe_add(d, i);
	}
	page_dedupe_free(d);
}

/* Beyond the limit it forgets new pages and keeps the old ones. */
static void test_limit(void **state)
{
	const uint32_t n = PAGE_DEDUPE_MAX_ENTRIES / 4 * 3 + 100;
	struct page_dedupe *d;
	uint8_t page[DORM_PAGE_SIZE];
	uint32_t slot;

	assert_int_equal(page_dedupe_new(&d), 0);
	for (uint32_t i = 0; i < n; i++) {
		number_page(page, i);
		assert_int_equal(page_dedupe_find(d, page, &slot), 0);
		page_dedupe_add(d, i);
	}
	for (uint32_t i = n - 200; i < n; i++) {
		number_page(page, i);
		assert_int_equal(page_dedupe_find(d, page, &slot), i < n - 100);
	}
	page_dedupe_free(d);
}

TEST_MAIN(cmocka_unit_test(test_find_and_grow), cmocka_unit_test(test_prepared_pages),
	  cmocka_unit_test(test_limit))
