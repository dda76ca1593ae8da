/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sample pairs the counter with the clock: the counter is read before and after the clock, and of
 * several tries the one with the narrowest gap counts (an interrupt in between makes it wide). Two
 * samples 20 ms apart give the rate; the error is gap / 20 ms, some 0.001 %.
 */
#include "sys/tsc.h"

#include <stdatomic.h>
#include <time.h>
#include <x86intrin.h>

#include "base/clock.h"
#include "base/error.h"

#define TRIES	16
#define SPAN_MS 20

struct sample {
	uint64_t cycles;
	uint64_t ns;
};

static struct sample take_sample(void)
{
	struct sample best = {0};
	uint64_t best_gap = UINT64_MAX;

	for (int i = 0; i < TRIES; i++) {
		struct timespec ts;
		uint64_t before = __rdtsc(), gap;

		(void)clock_gettime(CLOCK_MONOTONIC_RAW, &ts); /* cannot fail */
		gap = __rdtsc() - before;
		if (gap >= best_gap)
			continue;
		best_gap = gap;
		best.cycles = before + gap / 2;
		best.ns = (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
	}
	return best;
}

int tsc_khz(uint64_t *ret)
{
	static _Atomic uint64_t cached;
	uint64_t khz = atomic_load_explicit(&cached, memory_order_relaxed);
	struct sample a, b;

	if (!khz) {
		a = take_sample();
		clock_sleep_ms(SPAN_MS);
		b = take_sample();
		if (b.cycles <= a.cycles || b.ns <= a.ns)
			return error_trace(-ENOTSUP);
		khz = (uint64_t)((__uint128_t)(b.cycles - a.cycles) * 1000000 / (b.ns - a.ns));
		if (khz < 100000 || khz > 20000000) /* 0.1 to 20 GHz */
			return error_trace(-ENOTSUP);
		atomic_store_explicit(&cached, khz, memory_order_relaxed);
	}
	*ret = khz;
	return 0;
}
