/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <string.h>

#include "base/buf.h"

static void test_append_consume(void **state)
{
	struct buf b = {0};
	char block[1000];

	memset(block, 'x', sizeof(block));
	for (int i = 0; i < 10; i++)
		assert_int_equal(buf_append(&b, block, sizeof(block)), 0);
	assert_int_equal(b.len, 10000);
	buf_consume(&b, 9998);
	assert_string_equal(b.data, "xx");
	assert_int_equal(buf_printf(&b, "-%d-", 42), 0);
	assert_string_equal(b.data, "xx-42-");
	buf_deinit(&b);
	assert_null(b.data);
}

TEST_MAIN(cmocka_unit_test(test_append_consume))
