/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <string.h>

#include "base/id.h"

static void test_ids(void **state)
{
	char a[ID_LEN + 1], b[ID_LEN + 1];

	id_new('i', a);
	id_new('i', b);
	assert_int_equal(strlen(a), ID_LEN);
	assert_int_equal(a[0], 'i');
	assert_string_not_equal(a, b);
	assert_true(id_is_valid(a));
	assert_false(id_is_valid("../../etc/passwd000000"));
	assert_false(id_is_valid(""));
}

TEST_MAIN(cmocka_unit_test(test_ids))
