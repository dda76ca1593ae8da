/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <stdlib.h>

#include "net/flows.h"

static struct address remote(unsigned n)
{
	return (struct address){4, {1, (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n}};
}

static struct flow *find(struct flows *f, unsigned n)
{
	struct address a = remote(n);

	return flows_find(f, &a, 443, (uint16_t)n);
}

static struct flow *add(struct flows *f, unsigned n)
{
	struct address a = remote(n);

	return flows_add(f, &a, 443, (uint16_t)n);
}

static void test_find(void **state)
{
	_cleanup_(flows_freep) struct flows *f = NULL;
	struct address a = remote(1);

	assert_int_equal(flows_new(&f), 0);
	assert_null(find(f, 1));
	add(f, 1)->guest_next = 77;
	assert_int_equal(find(f, 1)->guest_next, 77);
	assert_null(flows_find(f, &a, 444, 1));
	assert_null(flows_find(f, &a, 443, 2));
	a.family = 6;
	assert_null(flows_find(f, &a, 443, 1));
	flows_remove(f, find(f, 1));
	assert_null(find(f, 1));
	assert_int_equal(flows_count(f), 0);
}

/* Full: the one that was silent longest goes; one that speaks stays. */
static void test_oldest_goes(void **state)
{
	_cleanup_(flows_freep) struct flows *f = NULL;

	assert_int_equal(flows_new(&f), 0);
	for (unsigned i = 0; i < FLOWS_MAX; i++)
		add(f, i);
	assert_int_equal(flows_count(f), FLOWS_MAX);
	assert_non_null(find(f, 0));
	add(f, FLOWS_MAX);
	assert_int_equal(flows_count(f), FLOWS_MAX);
	assert_non_null(find(f, 0));
	assert_null(find(f, 1));
	assert_non_null(find(f, 2));
}

static void drop_even(void *userdata, struct flow *flow)
{
	if (flow->guest_port % 2 == 0)
		flows_remove(userdata, flow);
}

/* Against an array, at random. */
static void test_model(void **state)
{
	_cleanup_(flows_freep) struct flows *f = NULL;
	static bool there[3000];
	unsigned n = 0;

	assert_int_equal(flows_new(&f), 0);
	srandom(7);
	for (int i = 0; i < 200000; i++) {
		unsigned k = (unsigned)random() % 3000;
		struct flow *flow = find(f, k);

		assert_int_equal(flow != NULL, there[k]);
		if (flow)
			flows_remove(f, flow);
		else
			add(f, k);
		there[k] = !there[k];
		n += there[k] ? 1 : -1u;
		assert_int_equal(flows_count(f), n);
	}
	flows_each(f, drop_even, f);
	for (unsigned k = 0; k < 3000; k++)
		assert_int_equal(find(f, k) != NULL, there[k] && k % 2);
}

TEST_MAIN(cmocka_unit_test(test_find), cmocka_unit_test(test_oldest_goes),
	  cmocka_unit_test(test_model))
