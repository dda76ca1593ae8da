/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <string.h>

#include "base/str.h"

static void test_numbers(void **state)
{
	uint64_t v;
	char buf[16];

	assert_int_equal(str_to_u64("42", &v), 0);
	assert_int_equal(v, 42);
	assert_int_equal(str_to_u64("", &v), -EINVAL);
	assert_int_equal(str_to_u64("-1", &v), -EINVAL);
	assert_int_equal(str_to_u64(" 1", &v), -EINVAL);
	assert_int_equal(str_to_u64("99999999999999999999", &v), -ERANGE);
	assert_int_equal(str_to_bytes("512M", &v), 0);
	assert_int_equal(v, 512ull << 20);
	assert_int_equal(str_to_bytes("2GiB", &v), 0);
	assert_int_equal(v, 2ull << 30);
	assert_int_equal(str_to_bytes("1X", &v), -EINVAL);
	assert_int_equal(str_to_bytes("1Mx", &v), -EINVAL);
	assert_int_equal(str_to_bytes("99999999999T", &v), -ERANGE);
	assert_string_equal(str_format_bytes(1023, buf), "1023 B");
	assert_string_equal(str_format_bytes(1536, buf), "1.5 KiB");
	assert_string_equal(str_format_bytes(5ull << 30, buf), "5.0 GiB");
}

static void test_names(void **state)
{
	assert_true(str_is_name("base"));
	assert_true(str_is_name("py-3.12_a"));
	assert_false(str_is_name(""));
	assert_false(str_is_name(".."));
	assert_false(str_is_name("a/b"));
	assert_false(str_is_name("Base"));
	assert_string_equal(str_has_prefix("abc", "ab"), "c");
	assert_null(str_has_prefix("abc", "b"));
	assert_true(str_has_suffix("x.ko.xz", ".xz"));
}

static void test_hex(void **state)
{
	char s[9];
	unsigned char b[4];

	str_hex("\x00\xff\x1a\x80", 4, s);
	assert_string_equal(s, "00ff1a80");
	assert_int_equal(str_unhex(s, b, 4), 0);
	assert_memory_equal(b, "\x00\xff\x1a\x80", 4);
	assert_int_equal(str_unhex("00FF1a80", b, 4), -EINVAL);
	assert_int_equal(str_unhex("00", b, 4), -EINVAL);
}

static void test_secret(void **state)
{
	assert_true(str_equal_secret("", ""));
	assert_true(str_equal_secret("abc", "abc"));
	assert_false(str_equal_secret("abc", "abd"));
	assert_false(str_equal_secret("abc", "abcabc"));
	assert_false(str_equal_secret("abc", ""));
	assert_false(str_equal_secret("", "abc"));
}

TEST_MAIN(cmocka_unit_test(test_numbers), cmocka_unit_test(test_names), cmocka_unit_test(test_hex),
	  cmocka_unit_test(test_secret))
