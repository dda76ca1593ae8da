/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/trace.h"

#include <string.h>

#include "base/test.h"

static void work(void)
{
	TRACE("outer");
	{
		TRACE("inner");
	}
}

static double number(const json_t *event, const char *key)
{
	return json_number_value(json_object_get(event, key));
}

static void test_nest(void **state)
{
	struct trace t = {0};
	json_t *o, *inner, *outer;

	work(); /* nobody traces */
	assert_int_equal(t.n, 0);
	trace_begin(&t);
	work();
	trace_end();
	work();
	assert_int_equal(t.n, 2);
	o = trace_describe(&t);
	inner = json_array_get(json_object_get(o, "traceEvents"), 0);
	outer = json_array_get(json_object_get(o, "traceEvents"), 1);
	assert_string_equal(json_string_value(json_object_get(inner, "name")), "inner");
	assert_string_equal(json_string_value(json_object_get(outer, "name")), "outer");
	assert_true(number(outer, "ts") == 0);
	assert_true(number(inner, "ts") + number(inner, "dur") <= number(outer, "dur"));
	json_decref(o);
	trace_deinit(&t);
}

/* Steps lie one after the other inside, also when they claim to have taken longer. */
static void test_steps(void **state)
{
	json_t *steps =
		json_pack("[{s:s,s:f},{s:s,s:f},{s:s,s:f}]", "name", "a", "ms", 0.001, "name",
			  "a very long name of a step", "ms", 0.003, "name", "c", "ms", -1.0);
	struct trace t = {0};

	trace_begin(&t);
	trace_steps(steps, 1000, 11000);
	trace_steps(steps, 1000, 3000);
	trace_steps(NULL, 1000, 3000);
	trace_end();
	assert_int_equal(t.n, 6);
	assert_int_equal(t.spans[0].begin_ns, 4000);
	assert_int_equal(t.spans[0].end_ns, 5000);
	assert_int_equal(t.spans[1].end_ns, 8000);
	assert_int_equal(strlen(t.spans[1].name), sizeof(t.spans[1].name) - 1);
	assert_int_equal(t.spans[3].begin_ns, 1000);
	assert_int_equal(t.spans[4].end_ns, 3000);
	assert_int_equal(t.spans[5].end_ns, 3000);
	trace_deinit(&t);
	json_decref(steps);
}

static void test_join(void **state)
{
	struct trace a = {0}, b = {0};

	trace_begin(&b);
	work();
	trace_end();
	trace_join(&a, &b, 7);
	assert_int_equal(a.n, 2);
	assert_int_equal(a.spans[1].lane, 7);
	assert_int_equal(a.spans[1].begin_ns, b.spans[1].begin_ns);
	trace_deinit(&a);
	trace_deinit(&b);
}

TEST_MAIN(cmocka_unit_test(test_nest), cmocka_unit_test(test_steps), cmocka_unit_test(test_join))
