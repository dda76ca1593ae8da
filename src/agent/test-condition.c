/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/condition.h"

#include <string.h>

#include "base/mem.h"
#include "base/test.h"

static void test_dates(void **state)
{
	static const char *const forms[] = {"Sun, 06 Nov 1994 08:49:37 GMT",
					    "Sunday, 06-Nov-94 08:49:37 GMT",
					    "Sun Nov  6 08:49:37 1994"};
	char buf[32];
	time_t t;

	assert_string_equal(condition_date(784111777, buf), forms[0]);
	assert_int_equal(strlen(condition_date(INT64_MAX, buf)), 29);
	assert_int_equal(strlen(condition_date(-1, buf)), 29);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(condition_parse_date(forms[i], &t), 0);
		assert_int_equal(t, 784111777);
	}
	assert_int_equal(condition_parse_date("", &t), -22);
	assert_int_equal(condition_parse_date("yesterday", &t), -22);
	assert_int_equal(condition_parse_date("Sun, 06 Nov 1994 08:49:37 GMT+1", &t), -22);
}

static void test_encodings(void **state)
{
	static const struct {
		const char *accept;
		bool identity, gzip;
	} table[] = {
		{NULL, true, false},
		{"", true, false},
		{"gzip", true, true},
		{"GZip , deflate", true, true},
		{"deflate", true, false},
		{"gzip;q=0", true, false},
		{"gzip;q=0.000", true, false},
		{"gzip; q=0.001", true, true},
		{"*", true, true},
		{"*;q=0", false, false},
		{"gzip, *;q=0", false, true},
		{"identity;q=0", false, false},
		{"identity;q=0, *", false, true},
		{"gzipped", true, false},
		{",,,", true, false},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		struct encodings e = condition_encodings(table[i].accept);

		if (e.identity != table[i].identity || e.gzip != table[i].gzip)
			fail_msg("%s: identity %d, gzip %d", table[i].accept, e.identity, e.gzip);
	}
}

static void test_range(void **state)
{
	struct range r;

	assert_int_equal(condition_range("bytes=0-", UINT64_MAX, &r), RANGE_PART);
	assert_int_equal(r.len, UINT64_MAX);
	assert_int_equal(condition_range("bytes=-18446744073709551615", 10, &r), RANGE_PART);
	assert_int_equal(r.first, 0);
	assert_int_equal(condition_range(NULL, 10, &r), RANGE_WHOLE);
	assert_int_equal(condition_range("bytes=0-5", 0, &r), RANGE_WHOLE);
	assert_int_equal(condition_range("bytes=--1", 10, &r), RANGE_WHOLE);
}

static void test_etags(void **state)
{
	const struct validators v = {.etag = "\"a-1\"", .mtime = 100}, none = {0};

	assert_true(condition_not_modified(&v, "\"a-1\"", NULL));
	assert_true(condition_not_modified(&v, "W/\"x\" , W/\"a-1\"", NULL));
	assert_true(condition_not_modified(&v, "*", NULL));
	assert_false(condition_not_modified(&v, "\"a-1", NULL));
	assert_false(condition_not_modified(&v, "a-1", NULL));
	assert_false(condition_not_modified(&v, "\"a-11\", \"", NULL));
	assert_false(condition_not_modified(&none, "*", NULL));
	assert_true(condition_range_holds(&v, NULL));
	assert_true(condition_range_holds(&v, "\"a-1\""));
	assert_false(condition_range_holds(&v, "W/\"a-1\"")); /* not strong */
	assert_false(condition_range_holds(&none, "\"a-1\""));
}

TEST_MAIN(cmocka_unit_test(test_dates), cmocka_unit_test(test_encodings),
	  cmocka_unit_test(test_range), cmocka_unit_test(test_etags))
