/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include "pager/slate.h"

#define PAGES 200u

static void test_near(void **state)
{
	struct slate s;

	assert_int_equal(slate_new(-1, "test", PAGES, NULL, &s), 0);
	for (uint64_t i = 0; i < PAGES; i++)
		assert_false(slate_is_near(&s, i));
	slate_install(&s, 79, 1); /* the last of its block; then the first one of another */
	slate_install(&s, 112, 1);
	for (uint64_t i = 0; i < PAGES; i++)
		assert_int_equal(slate_is_near(&s, i),
				 (i >= 64 && i <= 80) || (i >= 111 && i < 128));
	slate_install(&s, PAGES - 1, 1);
	assert_true(slate_is_near(&s, PAGES - 1));
	assert_false(slate_is_near(&s, 0));
	slate_deinit(&s);
}

TEST_MAIN(cmocka_unit_test(test_near))
