/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include "pager/histogram.h"

static void test_buckets(void **state)
{
	uint32_t last = 0;

	for (uint64_t v = 0; v < 1 << 20; v++) {
		uint32_t b = histogram_bucket(v);

		assert_true(b == last || b == last + 1);
		assert_true(v <= histogram_value(b));
		assert_true(b == 0 || v > histogram_value(b - 1));
		last = b;
	}
	assert_int_equal(histogram_bucket(8), 8);
	assert_int_equal(histogram_bucket(16), 12);
	assert_int_equal(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
}

static void test_percentiles(void **state)
{
	struct histogram h = {0};

	assert_int_equal(histogram_percentile(&h, 50), 0);
	for (int i = 0; i < 98; i++)
		histogram_add(&h, 1000);
	histogram_add(&h, 1000000);
	histogram_add(&h, 1000000);
	assert_int_equal(histogram_percentile(&h, 50), 1023);
	assert_int_equal(histogram_percentile(&h, 98), 1023);
	assert_in_range(histogram_percentile(&h, 99), 1000000, 1250000);
	assert_in_range(histogram_percentile(&h, 100), 1000000, 1250000);
}

static void test_merge(void **state)
{
	struct histogram a = {0}, b = {0};

	histogram_add(&a, 3);
	histogram_add(&b, 3);
	histogram_add(&b, 1000);
	histogram_merge(&a, &b);
	assert_int_equal(a.count[3], 2);
	assert_int_equal(a.count[histogram_bucket(1000)], 1);
	assert_int_equal(a.sum, 1006);
	assert_int_equal(b.sum, 1003);
}

TEST_MAIN(cmocka_unit_test(test_buckets), cmocka_unit_test(test_percentiles),
	  cmocka_unit_test(test_merge))
