/* SPDX-License-Identifier: Apache-2.0 */
/* durations, labels, values and control characters: what turns data into text and back */
#include "base/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/describe.h"
#include "cli/options.h"
#include "cli/output.h"

static void test_seconds(void **state)
{
	static const char *const bad[] = {"", "s", "1x", "-1", "1h30", "1 h", "1.5h", "h1", " 1"};
	uint64_t v = 42;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_int_equal(options_seconds(bad[i], &v), -EINVAL);
	assert_int_equal(options_seconds("99999999999999999999999", &v), -ERANGE);
	assert_int_equal(options_seconds("36600d1s", &v), -ERANGE);
	assert_int_equal(v, 42); /* untouched by failures */
	assert_int_equal(options_seconds("90", &v), 0);
	assert_int_equal(v, 90);
	assert_int_equal(options_seconds("90s", &v), 0);
	assert_int_equal(v, 90);
	assert_int_equal(options_seconds("1h30m", &v), 0);
	assert_int_equal(v, 5400);
	assert_int_equal(options_seconds("2d", &v), 0);
	assert_int_equal(v, 172800);
	assert_int_equal(options_seconds("0", &v), 0);
	assert_int_equal(v, 0);
}

static void test_spans(void **state)
{
	char buf[32];
	int64_t t;

	assert_string_equal(output_span(-5, buf), "0s");
	assert_string_equal(output_span(59, buf), "59s");
	assert_string_equal(output_span(3599, buf), "59m");
	assert_string_equal(output_span(86399, buf), "23h");
	assert_string_equal(output_span(INT64_MAX, buf), "106751991167300d");
	assert_string_equal(output_duration(47.26, buf), "47.3 ms");
	assert_string_equal(output_duration(2050, buf), "2.05 s");
	assert_string_equal(output_duration(200000, buf), "3m 20s");
	assert_int_equal(output_parse_time("1970-01-02T00:00:01.250Z", &t), 0);
	assert_int_equal(t, 86401);
	assert_int_equal(output_parse_time("1970-01-02T00:00:01+02:00", &t), -EINVAL);
	assert_int_equal(output_parse_time("yesterday", &t), -EINVAL);
	assert_int_equal(output_parse_time("", &t), -EINVAL);
}

static void expect_text(const char *key, json_t *value, const char *text)
{
	char *got = describe_value(key, value);

	assert_string_equal(got, text);
	free(got);
	json_decref(value);
}

static void test_values(void **state)
{
	char buf[64], longest[200];

	assert_string_equal(describe_label("snapshotID", buf), "snapshot ID");
	assert_string_equal(describe_label("memoryBytes", buf), "memory");
	assert_string_equal(describe_label("pages_stored", buf), "pages stored");
	assert_string_equal(describe_label("tsc_khz", buf), "tsc");
	assert_string_equal(describe_label("cpuCount", buf), "cpu count");
	assert_string_equal(describe_label("bytes", buf), "bytes");
	assert_string_equal(describe_label("", buf), "");
	memset(longest, 'A', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = 0;
	assert_true(strlen(describe_label(longest, buf)) < sizeof(buf));
	expect_text("storedBytes", json_integer(4096), "4.0 KiB");
	expect_text("storedBytes", json_integer(-1), "-1 B");
	expect_text("storedBytes", json_real(1e18 * 4), "4000000000000000000 B");
	expect_text("bytesStored", json_integer(4096), "4.0 KiB");
	expect_text("ms", json_real(3.25), "3.2 ms");
	expect_text("memoryMB", json_integer(512), "512 MiB");
	expect_text("totalMs", json_real(47.26), "47.3 ms");
	expect_text("count", json_integer(3), "3");
	expect_text("ratio", json_real(0.5), "0.5");
	expect_text("prepared", json_true(), "yes");
	expect_text("failure", json_null(), "-");
	expect_text("names", json_pack("[s,s]", "a", "b"), "a, b");
	expect_text("names", json_array(), "-");
	expect_text("x", json_pack("[{s:i}]", "a", 1), "[{\"a\":1}]");
}

static void test_control_characters(void **state)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	output_text(f, "a\033[2Jb\tc\nd\177 \302\233x \303\251");
	assert_int_equal(fclose(f), 0);
	assert_string_equal(text, "a?[2Jb\tc\nd? ?x \303\251");
	free(text);
}

TEST_MAIN(cmocka_unit_test(test_seconds), cmocka_unit_test(test_spans),
	  cmocka_unit_test(test_values), cmocka_unit_test(test_control_characters))
