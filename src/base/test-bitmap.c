/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <stdlib.h>

#include "base/bitmap.h"

static void test_set_count_next(void **state)
{
	bitmap_word *b = bitmap_new(200);

	assert_non_null(b);
	assert_int_equal(bitmap_next(b, 200, 0), 200);
	bitmap_set(b, 3);
	bitmap_set(b, 64);
	assert_false(bitmap_set_atomic(b, 199));
	assert_true(bitmap_set_atomic(b, 199));
	assert_int_equal(bitmap_count(b, 200), 3);
	assert_int_equal(bitmap_count(b, 199), 2);
	assert_int_equal(bitmap_next(b, 200, 0), 3);
	assert_int_equal(bitmap_next(b, 200, 4), 64);
	assert_int_equal(bitmap_next(b, 200, 65), 199);
	assert_int_equal(bitmap_next(b, 199, 65), 199);
	bitmap_clear(b, 64);
	assert_false(bitmap_test(b, 64));
	assert_true(bitmap_test_atomic(b, 3));
	free(b);
}

TEST_MAIN(cmocka_unit_test(test_set_count_next))
