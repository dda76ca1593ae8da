/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <string.h>

#include "api/fields.h"
#include "base/mem.h"

static void test_uint(void **state)
{
	json_t *o = json_pack("{s:i, s:i, s:s, s:n, s:f}", "n", 5, "neg", -1, "text", "5", "none",
			      "real", 1.5);
	struct problem p = PROBLEM_INIT;
	uint64_t v = 77;

	assert_int_equal(fields_uint(o, "n", 1, 5, &p, &v), 0);
	assert_int_equal(v, 5);
	v = 77;
	assert_int_equal(fields_uint(o, "absent", 1, 5, &p, &v), 0);
	assert_int_equal(fields_uint(o, "none", 1, 5, &p, &v), 0);
	assert_int_equal(v, 77);
	assert_int_equal(fields_uint(o, "n", 1, 4, &p, &v), -EINVAL);
	assert_int_equal(p.status, 400);
	assert_string_equal(p.message, "n: 5 is not between 1 and 4");
	assert_int_equal(fields_uint(o, "neg", 0, 4, NULL, &v), -EINVAL);
	assert_int_equal(fields_uint(o, "text", 0, 9, NULL, &v), -EINVAL);
	assert_int_equal(fields_uint(o, "real", 0, 9, NULL, &v), -EINVAL);
	assert_int_equal(v, 77);
	json_decref(o);
}

static void test_others(void **state)
{
	json_t *o = json_pack("{s:b, s:s, s:{s:s}, s:{s:i}}", "yes", 1, "text", "hello", "map", "k",
			      "v", "bad", "k", 1);
	struct problem p = PROBLEM_INIT;
	const char *text = NULL;
	json_t *map = NULL;
	bool b = false;

	assert_int_equal(fields_bool(o, "yes", &p, &b), 0);
	assert_true(b);
	assert_int_equal(fields_bool(o, "text", NULL, &b), -EINVAL);
	assert_int_equal(fields_text(o, "text", 5, &p, &text), 0);
	assert_string_equal(text, "hello");
	assert_int_equal(fields_text(o, "text", 4, NULL, &text), -EINVAL);
	assert_int_equal(fields_text_map(o, "map", &p, &map), 0);
	assert_non_null(map);
	assert_int_equal(fields_text_map(o, "bad", &p, &map), -EINVAL);
	assert_non_null(strstr(p.message, "bad.k"));
	assert_int_equal(fields_query_uint("7", "limit", 1, 100, NULL, &(uint64_t){0}), 0);
	assert_int_equal(fields_query_uint("x", "limit", 1, 100, NULL, &(uint64_t){0}), -EINVAL);
	json_decref(o);
}

static void test_query_memory(void **state)
{
	static const char *const bad[] = {
		"", "x", "0", "1", "4095", "4097", "-4096", "4096x", "4398046515200", "1e9"};
	struct problem p = PROBLEM_INIT;
	uint64_t v = 77;

	assert_int_equal(fields_query_memory(NULL, "bytes", &p, &v), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		p = PROBLEM_INIT;
		assert_int_equal(fields_query_memory(bad[i], "bytes", &p, &v), -EINVAL);
		assert_int_equal(p.status, 400);
		assert_non_null(strstr(p.message, "bytes: "));
	}
	assert_int_equal(v, 77);
	assert_int_equal(fields_query_memory("4096", "bytes", &p, &v), 0);
	assert_int_equal(v, 4096);
	assert_int_equal(fields_query_memory("4398046511104", "bytes", &p, &v), 0);
	assert_int_equal(v, FIELDS_MAX_MEMORY);
}

static void test_metadata(void **state)
{
	json_t *o;

	/* {k: 'v w'} arrives as k%3Dv%252520w; the server has decoded it once */
	assert_int_equal(fields_metadata_filter("k=v%2520w&a=b", NULL, &o), 0);
	assert_string_equal(json_string_value(json_object_get(o, "k")), "v w");
	assert_string_equal(json_string_value(json_object_get(o, "a")), "b");
	json_decref(o);
	assert_int_equal(fields_metadata_filter("nonsense", NULL, &o), -EINVAL);
}

static uint64_t time_of(const char *text)
{
	uint64_t ns = 77;

	assert_int_equal(fields_query_time(text, "t", NULL, &ns), 0);
	return ns;
}

static void test_time(void **state)
{
	static const char *const bad[] = {"",
					  "x",
					  "2026-01-02",
					  "2026-01-02T03:04:05",
					  "2026-01-02T03:04:05+2",
					  "2026-01-02T03:04:05+02:00x",
					  "2026-01-02T03:04:05.Zx",
					  "2026-13-02T03:04:05Z",
					  "1969-12-31T23:59:59Z"};
	struct problem p = PROBLEM_INIT;
	uint64_t ns = 77;

	assert_int_equal(time_of(NULL), 77);
	assert_int_equal(time_of("1970-01-01T00:00:01Z"), 1000000000);
	assert_int_equal(time_of("1970-01-01T00:00:01.5z"), 1500000000);
	assert_int_equal(time_of("1970-01-01T00:00:01.1234567891Z"), 1123456789);
	assert_int_equal(time_of("1970-01-01T02:00:01+02:00"), 1000000000);
	assert_int_equal(time_of("1970-01-01T02:00:01 02:00"), 1000000000); /* '+' of a query */
	assert_int_equal(time_of("1969-12-31T23:00:01-01:00"), 1000000000);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(fields_query_time(bad[i], "t", NULL, &ns), -EINVAL);
	assert_int_equal(fields_query_time("x", "startedAfter", &p, &ns), -EINVAL);
	assert_int_equal(p.status, 400);
	assert_ptr_equal(strstr(p.message, "startedAfter"), p.message);
	assert_int_equal(ns, 77);
}

TEST_MAIN(cmocka_unit_test(test_time), cmocka_unit_test(test_uint), cmocka_unit_test(test_others),
	  cmocka_unit_test(test_query_memory), cmocka_unit_test(test_metadata))
