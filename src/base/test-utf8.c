/* SPDX-License-Identifier: Apache-2.0 */
#include "base/utf8.h"

#include <stdlib.h>

#include "base/test.h"

static void expect(const char *in, const char *want)
{
	char *out = utf8_from(in);

	assert_non_null(out);
	assert_string_equal(out, want);
	free(out);
}

static void test_from(void **state)
{
	expect("", "");
	expect("plain", "plain");
	expect("z\xc3\xbc \xe2\x82\xac \xf0\x9f\x92\xa4",
	       "z\xc3\xbc \xe2\x82\xac \xf0\x9f\x92\xa4");
	expect("a\xff"
	       "b",
	       "a\xef\xbf\xbd"
	       "b");
	expect("\xc3", "\xef\xbf\xbd");					/* cut */
	expect("\xe2\x82", "\xef\xbf\xbd\xef\xbf\xbd");			/* cut */
	expect("\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd");			/* overlong */
	expect("\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"); /* a surrogate */
}

static void test_len(void **state)
{
	assert_int_equal(utf8_len(""), 0);
	assert_int_equal(utf8_len("\xf4\x8f\xbf\xbf"), 4);
	assert_int_equal(utf8_len("\xf4\x90\x80\x80"), 0);
	assert_int_equal(utf8_len("\xf0\x8f\xbf\xbf"), 0);
	assert_int_equal(utf8_len("\xe0\x9f\xbf"), 0);
	assert_int_equal(utf8_len("\xef\xbf\xbf"), 3);
}

TEST_MAIN(cmocka_unit_test(test_from), cmocka_unit_test(test_len))
