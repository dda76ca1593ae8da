/* SPDX-License-Identifier: Apache-2.0 */
#include "image/given-pages.h"

#include <stdlib.h>

#include "base/test.h"
#include "image/test-fixture.h"

static void give(struct given_pages *g, uint64_t gfn, uint32_t slot)
{
	assert_true(given_pages_mark(g, gfn));
	assert_int_equal(given_pages_append(g, gfn, slot), 0);
}

static void check_run(const struct given_run *run, uint32_t gfn, uint32_t n_pages, uint32_t slot)
{
	assert_int_equal(run->gfn, gfn);
	assert_int_equal(run->n_pages, n_pages);
	assert_int_equal(run->slot, slot);
}

static void test_runs(void **state)
{
	struct given_pages g;

	assert_int_equal(given_pages_init(&g, 1000), 0);
	for (uint32_t i = 0; i < 10; i++)
		give(&g, 500 + i, i);
	give(&g, 510, GIVEN_ZERO);
	give(&g, 511, GIVEN_ZERO);
	give(&g, 0, 10);
	give(&g, 1, 11);
	give(&g, 2, 13); /* a gap in the slots */
	assert_false(given_pages_mark(&g, 511));
	assert_int_equal(g.n_runs, 4);
	assert_int_equal(given_pages_sort(&g), 0);
	assert_int_equal(g.n_runs, 4);
	check_run(&g.runs[0], 0, 2, 10);
	check_run(&g.runs[1], 2, 1, 13);
	check_run(&g.runs[2], 500, 10, 0);
	check_run(&g.runs[3], 510, 2, GIVEN_ZERO);
	given_pages_deinit(&g);
}

/* The last page before "zero" in slots is not the zero page. */
static void test_zero_does_not_continue(void **state)
{
	struct given_pages g;

	assert_int_equal(given_pages_init(&g, 4), 0);
	give(&g, 0, GIVEN_ZERO - 1);
	give(&g, 1, GIVEN_ZERO);
	assert_int_equal(g.n_runs, 2);
	given_pages_deinit(&g);
}

static void check_order(struct given_pages *g, uint32_t n)
{
	assert_int_equal(given_pages_sort(g), 0);
	assert_int_equal(g->n_runs, n);
	for (uint32_t i = 0; i < n; i++) /* every second page, each with the slot it was given */
		check_run(&g->runs[i], 2 * i, 1, 2 * i * 7 % 1024);
	assert_int_equal(given_pages_sort(g), 0);
}

static void test_sort(void **state)
{
	for (uint32_t n = 0; n < 200; n += n < 20 ? 1 : 37) {
		struct given_pages up, down, mixed;
		uint32_t *order = calloc(n + 1, sizeof(*order));
		uint64_t seed = n;

		assert_non_null(order);
		assert_int_equal(given_pages_init(&up, 1024), 0);
		assert_int_equal(given_pages_init(&down, 1024), 0);
		assert_int_equal(given_pages_init(&mixed, 1024), 0);
		for (uint32_t i = 0; i < n; i++) {
			uint32_t j = (uint32_t)(fixture_random(&seed) % (i + 1));

			order[i] = order[j];
			order[j] = i;
			give(&up, 2 * i, 2 * i * 7 % 1024);
			give(&down, 2 * (n - 1 - i), 2 * (n - 1 - i) * 7 % 1024);
		}
		for (uint32_t i = 0; i < n; i++)
			give(&mixed, 2 * order[i], 2 * order[i] * 7 % 1024);
		check_order(&up, n);
		check_order(&down, n);
		check_order(&mixed, n);
		given_pages_deinit(&up);
		given_pages_deinit(&down);
		given_pages_deinit(&mixed);
		free(order);
	}
}

TEST_MAIN(cmocka_unit_test(test_runs), cmocka_unit_test(test_zero_does_not_continue),
	  cmocka_unit_test(test_sort))
