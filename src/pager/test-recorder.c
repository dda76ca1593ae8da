/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "pager/recorder.h"

#define GUEST 1000u

static bitmap_word touched[GUEST / 64 + 1];

static void touch(uint64_t gfn, uint64_t n)
{
	for (uint64_t i = gfn; i < gfn + n; i++)
		bitmap_set(touched, i);
}

static struct recorder *begin(void)
{
	struct recorder *r;

	assert_int_equal(recorder_new(GUEST, &r), 0);
	memset(touched, 0, sizeof(touched));
	return r;
}

static void test_counts(void **state)
{
	_cleanup_(recorder_freep) struct recorder *r = begin();
	struct recorder_counts c;

	(void)state;
	assert_int_equal(recorder_n_pages(r), GUEST);
	assert_int_equal(recorder_need(r, 60, 10), 10); /* over the end of a word */
	assert_int_equal(recorder_need(r, 60, 12), 2);
	assert_int_equal(recorder_need(r, 64, 64), 56);
	assert_int_equal(recorder_prefetched(r, 0, 200), 132); /* what nobody asked for yet */
	assert_int_equal(recorder_prefetched(r, 0, 200), 0);
	assert_int_equal(recorder_need(r, 0, 256), 56); /* the first has it */
	recorder_counts(r, &c);
	assert_int_equal(c.missed, 68 + 56);
	assert_int_equal(c.prefetched, 132);
}

/* Whatever a peer says, nothing is written outside. */
static void test_bounds(void **state)
{
	_cleanup_(recorder_freep) struct recorder *r = begin();
	struct recorder_report o;

	(void)state;
	assert_int_equal(recorder_need(r, GUEST, 1), 0);
	assert_int_equal(recorder_need(r, UINT64_MAX, UINT64_MAX), 0);
	assert_int_equal(recorder_need(r, GUEST - 1, UINT64_MAX), 1);
	assert_int_equal(recorder_prefetched(r, GUEST - 10, 100), 9);
	assert_int_equal(recorder_need(r, 5, 0), 0);
	memset(touched, 0xff, sizeof(touched)); /* also bits beyond the last page */
	recorder_evaluate(r, touched, &o);
	assert_int_equal(o.needed_pages, GUEST);
	assert_int_equal(o.missed_pages, 1);
	assert_int_equal(o.used_pages, 9);
}

/* The example at the head of recorder.c. */
static void test_example(void **state)
{
	_cleanup_(recorder_freep) struct recorder *r = begin();
	bitmap_word needed[GUEST / 64 + 1] = {0}, unknown[GUEST / 64 + 1] = {0};
	struct recorder_report o;

	(void)state;
	recorder_prefetched(r, 0, 64);
	recorder_need(r, 64, 16);
	touch(0, 16);
	touch(20, 1);
	touch(64, 16);
	recorder_evaluate(r, touched, &o);
	assert_true(o.has_touched);
	assert_int_equal(o.prefetched_pages, 64);
	assert_int_equal(o.used_pages, 17);
	assert_int_equal(o.missed_pages, 16);
	assert_int_equal(o.needed_pages, 33);
	assert_int_equal(o.prefetched_windows, 4);
	assert_int_equal(o.used_windows, 2);
	assert_int_equal(o.wasted_bytes, 47 * DORM_PAGE_SIZE);
	assert_true(o.precision > 0.265 && o.precision < 0.266);
	assert_true(o.recall > 0.515 && o.recall < 0.516);
	assert_true(o.window_precision > 0.499 && o.window_precision < 0.501);
	recorder_needed(r, touched, needed, unknown);
	assert_int_equal(bitmap_count(needed, GUEST), 33);
	assert_memory_equal(needed, touched, sizeof(touched));
	assert_int_equal(bitmap_count(unknown, GUEST), 0);
}

/* A page of a missed frame that the guest did not use is no miss, one of another session no use. */
static void test_scan_decides(void **state)
{
	_cleanup_(recorder_freep) struct recorder *r = begin();
	struct recorder_report o;

	(void)state;
	recorder_need(r, 100, 16);
	touch(100, 1);
	touch(500, 50); /* was there already */
	recorder_evaluate(r, touched, &o);
	assert_int_equal(o.missed_pages, 1);
	assert_int_equal(o.needed_pages, 51);
	assert_int_equal(o.wasted_bytes, 0);
	assert_true(o.precision == 1.0 && o.recall == 0.0);
}

static void test_no_scan(void **state)
{
	_cleanup_(recorder_freep) struct recorder *r = begin();
	bitmap_word needed[GUEST / 64 + 1] = {0}, unknown[GUEST / 64 + 1] = {0};
	struct recorder_report o;

	(void)state;
	recorder_prefetched(r, 0, 64);
	recorder_need(r, 60, 16);
	recorder_evaluate(r, NULL, &o);
	assert_false(o.has_touched);
	assert_int_equal(o.missed_pages, 12);
	assert_int_equal(o.prefetched_pages, 64);
	assert_int_equal(o.wasted_bytes, 0);
	recorder_needed(r, NULL, needed, unknown);
	assert_int_equal(bitmap_count(needed, GUEST), 12);
	assert_true(bitmap_test(needed, 64) && !bitmap_test(needed, 63));
	assert_int_equal(bitmap_count(unknown, GUEST), 64);
}

/* ---- threads ----------------------------------------------------------------------------------
 */

#define BIG	  100000u
#define N_THREADS 4u

struct racer {
	struct recorder *r;
	unsigned k;
	uint64_t added;
	pthread_t thread;
};

static void *race(void *arg)
{
	struct racer *me = arg;

	for (uint64_t gfn = 0; gfn < BIG; gfn += 7)
		me->added += me->k % 2 ? recorder_prefetched(me->r, gfn, 20)
				       : recorder_need(me->r, gfn, 20);
	return NULL;
}

/* Every page is new exactly once for each of the two, and the numbers add up. */
static void test_race(void **state)
{
	_cleanup_(recorder_freep) struct recorder *r = NULL;
	struct racer racers[N_THREADS];
	uint64_t added[2] = {0};
	struct recorder_counts c;
	struct recorder_report o;

	(void)state;
	assert_int_equal(recorder_new(BIG, &r), 0);
	for (unsigned k = 0; k < N_THREADS; k++) {
		racers[k] = (struct racer){.r = r, .k = k};
		assert_int_equal(pthread_create(&racers[k].thread, NULL, race, &racers[k]), 0);
	}
	for (unsigned k = 0; k < N_THREADS; k++) {
		pthread_join(racers[k].thread, NULL);
		added[k % 2] += racers[k].added;
	}
	recorder_counts(r, &c);
	assert_int_equal(c.missed, added[0]);
	assert_int_equal(c.prefetched, added[1]);
	recorder_evaluate(r, NULL, &o);
	assert_int_equal(o.missed_pages, added[0]);
	assert_int_equal(o.missed_pages + o.prefetched_pages, BIG);
}

TEST_MAIN(cmocka_unit_test(test_counts), cmocka_unit_test(test_bounds),
	  cmocka_unit_test(test_example), cmocka_unit_test(test_scan_decides),
	  cmocka_unit_test(test_no_scan), cmocka_unit_test(test_race))
