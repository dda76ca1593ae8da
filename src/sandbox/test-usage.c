/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>

#include "base/clock.h"
#include "base/mem.h"
#include "sandbox/usage.h"

#define SECOND NSEC_PER_SEC

static struct usage_sample at(uint64_t s)
{
	return (struct usage_sample){.when_ns = s * SECOND, .cpu_count = 2, .mem_used = s};
}

static void test_empty(void **state)
{
	struct usage u = {0};
	json_t *o = usage_describe(&u, 0, UINT64_MAX);

	assert_int_equal(json_array_size(o), 0);
	json_decref(o);
	assert_true(usage_is_due(&u, 0));
	usage_deinit(&u);
}

static void test_ring(void **state)
{
	struct usage u = {0};
	json_t *o;

	for (uint64_t i = 1; i <= USAGE_MAX + 50; i++) {
		struct usage_sample s = at(i);

		assert_int_equal(usage_add(&u, &s), 0);
		s.when_ns += SECOND - 1;
		assert_false(usage_is_due(&u, s.when_ns));
		assert_int_equal(usage_add(&u, &s), 0); /* not kept */
	}
	o = usage_describe(&u, 0, UINT64_MAX);
	assert_int_equal(json_array_size(o), USAGE_MAX);
	for (size_t i = 0; i < USAGE_MAX; i++)
		assert_int_equal(
			json_integer_value(json_object_get(json_array_get(o, i), "timestampUnix")),
			51 + i);
	json_decref(o);
	o = usage_describe(&u, 100 * SECOND, 109 * SECOND);
	assert_int_equal(json_array_size(o), 10);
	assert_string_equal(json_string_value(json_object_get(json_array_get(o, 0), "timestamp")),
			    "1970-01-01T00:01:40.000Z");
	json_decref(o);
	assert_true(usage_is_due(&u, SECOND)); /* the clock was set back */
	usage_deinit(&u);
}

static void test_parse(void **state)
{
	static const char *const bad[] = {"[]", "{}", "{\"mem_total\":\"x\"}", "3"};
	struct usage_sample s;
	json_t *o;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		o = json_loads(bad[i], JSON_DECODE_ANY, NULL);
		assert_int_equal(usage_parse(o, 1, &s), -EBADMSG);
		json_decref(o);
	}
	o = json_loads("{\"cpu_count\":2,\"cpu_used_pct\":12.5,\"mem_total\":100,\"mem_used\":-7,"
		       "\"disk_total\":5}",
		       0, NULL);
	assert_int_equal(usage_parse(o, 7, &s), 0);
	assert_int_equal(s.when_ns, 7);
	assert_true(s.cpu_used_pct == 12.5);
	assert_int_equal(s.mem_total, 100);
	assert_int_equal(s.mem_used, 0);
	assert_int_equal(s.disk_total, 5);
	json_object_set_new(o, "cpu_used_pct", json_real(1e300));
	assert_int_equal(usage_parse(o, 7, &s), 0);
	assert_true(s.cpu_used_pct == 0);
	json_decref(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_ring),
		cmocka_unit_test(test_parse),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
