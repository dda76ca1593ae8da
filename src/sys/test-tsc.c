/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <time.h>
#include <x86intrin.h>

#include "base/clock.h"
#include "sys/tsc.h"

static uint64_t raw_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* Against a plain measurement over ten times the span. */
static void test_rate(void **state)
{
	uint64_t khz = 0, again = 0, c0, c1, t0, t1;
	double expect;

	assert_int_equal(tsc_khz(&khz), 0);
	t0 = raw_ns();
	c0 = __rdtsc();
	clock_sleep_ms(200);
	t1 = raw_ns();
	c1 = __rdtsc();
	expect = (double)(c1 - c0) * 1e6 / (double)(t1 - t0);
	assert_true((double)khz > expect * 0.999 && (double)khz < expect * 1.001);
	t0 = raw_ns();
	assert_int_equal(tsc_khz(&again), 0);
	assert_true(raw_ns() - t0 < 10 * NSEC_PER_MSEC);
	assert_int_equal(khz, again);
}

TEST_MAIN(cmocka_unit_test(test_rate))
