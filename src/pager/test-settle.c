/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "pager/settle.h"

#define MS    1000000ull
#define START 77777777777ull

/* A guest: touches in the order of time, and what the detector says when it is asked as it wants.
 */
struct touch {
	uint64_t at_ns; /* since the start */
	uint64_t n;
};

struct outcome {
	enum settle_state state;
	uint64_t at_ns;
	uint64_t seen, all; /* touches until then, and of the whole trace */
	unsigned n_asked;
};

static struct outcome play(const struct touch *touches, size_t n, const struct settle_options *o)
{
	struct outcome out = {0};
	struct settle s;
	size_t i = 0;

	for (size_t k = 0; k < n; k++)
		out.all += touches[k].n;
	settle_init(&s, o, START);
	for (uint64_t now = START;; out.n_asked++) {
		for (; i < n && touches[i].at_ns <= now - START; i++) {
			settle_note(&s, START + touches[i].at_ns, touches[i].n);
			out.seen += touches[i].n;
		}
		out.state = settle_check(&s, now);
		out.at_ns = now - START;
		if (out.state != SETTLE_NOT_YET)
			return out;
		assert_true(settle_next_check(&s, now) > now);
		now = settle_next_check(&s, now);
	}
}

/* @n pages from @from to @to ms, one at a time at equal distances. Return: behind them */
static struct touch *burst(struct touch *t, uint64_t from_ms, uint64_t to_ms, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		*t++ = (struct touch){from_ms * MS + (to_ms - from_ms) * MS * i / n, 1};
	return t;
}

static struct touch trace[200000];

static void check_converged(struct touch *end, uint64_t from_ms, uint64_t to_ms)
{
	struct outcome o = play(trace, (size_t)(end - trace), NULL);

	if (o.state != SETTLE_CONVERGED || o.at_ns < from_ms * MS || o.at_ns > to_ms * MS)
		fail_msg("state %d after %llu ms, wanted %llu .. %llu ms", o.state,
			 (unsigned long long)(o.at_ns / MS), (unsigned long long)from_ms,
			 (unsigned long long)to_ms);
	assert_true(o.n_asked < 80); /* it does not poll */
}

static void test_nothing(void **state)
{
	(void)state;
	check_converged(trace, 2000, 2000);
}

static void test_burst(void **state)
{
	(void)state;
	check_converged(burst(trace, 0, 200, 4000), 590, 620);
	check_converged(burst(trace, 0, 1, 3), 2000, 2020);	     /* very little, at once */
	check_converged(burst(trace, 0, 4000, 40000), 5850, 6100);   /* half as long again */
	check_converged(burst(trace, 1500, 1600, 4000), 2350, 2420); /* begins late */
}

static void test_pauses(void **state)
{
	struct touch *end = burst(trace, 0, 100, 3000);

	(void)state;
	end = burst(end, 400, 500, 1000);
	end = burst(end, 500, 5000, 45); /* the timer of the example */
	check_converged(end, 890, 920);
	end = burst(trace, 0, 50, 3000); /* a small second one counts as well */
	end = burst(end, 350, 400, 60);
	check_converged(end, 750, 820);
	end = burst(trace, 0, 2000, 20000); /* who was busy longer may pause longer */
	end = burst(end, 2900, 3500, 5000);
	check_converged(end, 5150, 5300);
	end = burst(trace, 0, 100, 3000); /* a pause that is too long: cut, as it is said */
	end = burst(end, 1200, 1300, 1000);
	check_converged(end, 490, 520);
}

/* A fast start, then slower and slower: it must not be cut while whole percents still come. */
static void test_tail(void **state)
{
	struct touch *end = trace;
	struct outcome o;

	(void)state;
	for (unsigned i = 0; i < 40; i++)
		end = burst(end, i * 200ull, i * 200ull + 200, 8000u >> i / 3);
	o = play(trace, (size_t)(end - trace), NULL);
	assert_int_equal(o.state, SETTLE_CONVERGED);
	assert_true(o.seen * 100 >= o.all * 98);
	assert_true(o.at_ns < 8000 * MS);
}

static void test_drip(void **state)
{
	static const uint64_t pages[] = {60, 3000, 100000};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
		struct touch *end = burst(trace, 0, 60000, pages[i]);
		struct outcome o = play(trace, (size_t)(end - trace), NULL);

		assert_int_equal(o.state, SETTLE_BOUND);
		assert_int_equal(o.at_ns, SETTLE_MAX_NS);
	}
	/* but behind a burst, a drip that is slow and adds little is no reason to wait */
	check_converged(burst(burst(trace, 0, 200, 4000), 200, 40000, 4000), 590, 700);
	check_converged(burst(burst(trace, 0, 200, 200), 200, 40000, 400), 590, 700);
	/* one that adds more is */
	check_converged(burst(burst(trace, 0, 200, 4000), 200, 9000, 8800), 13200, 13600);
}

static void test_options(void **state)
{
	const struct settle_options o = {
		.min_ns = 5000 * MS, .max_ns = 7000 * MS, .quiet_ns = 20 * MS, .idle_ns = 10 * MS};
	const struct settle_options swapped = {.min_ns = 9 * MS, .max_ns = 7 * MS};
	struct touch *end = burst(trace, 0, 10, 100);
	struct outcome out = play(trace, (size_t)(end - trace), &o);

	(void)state;
	assert_int_equal(out.state, SETTLE_CONVERGED);
	assert_int_equal(out.at_ns, 5000 * MS);
	end = burst(trace, 0, 10000, 10000);
	out = play(trace, (size_t)(end - trace), &o);
	assert_int_equal(out.state, SETTLE_BOUND);
	assert_int_equal(out.at_ns, 7000 * MS);
	assert_int_equal(play(trace, 0, &o).at_ns, 5000 * MS);
	assert_int_equal(play(trace, 0, &swapped).at_ns, 7 * MS);
}

static void test_clock(void **state)
{
	struct settle s;

	(void)state;
	settle_init(&s, NULL, START);
	settle_note(&s, START + 100 * MS, 5000);
	settle_note(&s, START + 50 * MS, 5); /* backwards: as if at 100 ms */
	settle_note(&s, 0, 5);
	assert_int_equal(s.last_ns, 100 * MS);
	assert_int_equal(settle_check(&s, 0), SETTLE_NOT_YET);
	assert_int_equal(settle_check(&s, START + 499 * MS), SETTLE_NOT_YET);
	assert_int_equal(settle_check(&s, START + 500 * MS), SETTLE_CONVERGED);
	settle_note(&s, START + 20000 * MS, 5000); /* a step: what is new belongs to its end */
	assert_int_equal(settle_check(&s, START + 20000 * MS), SETTLE_NOT_YET);
	assert_int_equal(settle_next_check(&s, START + 20000 * MS), START + 21250 * MS + 1);
	assert_int_equal(settle_check(&s, START + 30000 * MS), SETTLE_CONVERGED);
	settle_note(&s, UINT64_MAX, 5000);
	settle_note(&s, UINT64_MAX, UINT32_MAX);
	assert_int_equal(settle_check(&s, UINT64_MAX), SETTLE_BOUND);
	assert_int_equal(settle_next_check(&s, UINT64_MAX), UINT64_MAX);
	settle_init(&s, &(struct settle_options){.max_ns = UINT64_MAX}, UINT64_MAX - 5);
	settle_note(&s, UINT64_MAX, 1);
	assert_int_equal(settle_check(&s, UINT64_MAX), SETTLE_NOT_YET);
	assert_int_equal(settle_next_check(&s, UINT64_MAX), UINT64_MAX);
}

/* Folding loses the place of a touch by a bucket, never the touch. */
static void test_folding(void **state)
{
	struct settle s;
	uint64_t sum = 0, seed = 1;

	(void)state;
	settle_init(&s, NULL, START);
	for (uint64_t t = 0, n = 0; t < SETTLE_MAX_NS; t += seed % (97 * MS), n++) {
		settle_note(&s, START + t, 1 + n % 7);
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	}
	for (unsigned i = 0; i < SETTLE_BUCKETS; i++) {
		sum += s.buckets[i];
		assert_true(i < s.n_used || !s.buckets[i]);
	}
	assert_int_equal(sum, s.n_total);
	assert_true(s.width_ns * SETTLE_BUCKETS > s.last_ns);
	assert_true(s.width_ns * SETTLE_BUCKETS <= 2 * SETTLE_MAX_NS);
}

/* ---- recorded traces --------------------------------------------------------------------------
 */

static size_t read_trace(const char *name)
{
	char path[512], line[256];
	unsigned long long us, gfn, at = 0;
	size_t n = 0;
	FILE *f;

	(void)snprintf(path, sizeof(path), "%s/tests/fault/traces/%s.trace", DORM_SOURCE_DIR, name);
	f = fopen(path, "re");
	if (!f)
		fail_msg("%s cannot be opened", path);
	while (f && fgets(line, sizeof(line), f)) {
		if (line[0] == '#')
			continue;
		assert_int_equal(sscanf(line, "%llu %llu", &us, &gfn), 2);
		at += us;
		assert_true(n < ARRAY_SIZE(trace));
		trace[n++] = (struct touch){at * 1000, 1};
	}
	if (f)
		(void)fclose(f);
	return n;
}

static void check_trace(const char *name, enum settle_state state, uint64_t from_ms, uint64_t to_ms,
			uint64_t percent)
{
	const size_t n = read_trace(name);
	const struct outcome o = play(trace, n, NULL);

	print_message("%s: %s after %llu ms, %llu of %llu first touches; asked %u times\n", name,
		      o.state == SETTLE_CONVERGED ? "settled" : "ended",
		      (unsigned long long)(o.at_ns / MS), (unsigned long long)o.seen,
		      (unsigned long long)o.all, o.n_asked);
	assert_int_equal(o.state, state);
	assert_true(o.at_ns >= from_ms * MS && o.at_ns <= to_ms * MS);
	assert_true(o.seen * 100 >= o.all * percent);
}

static void test_recorded(void **state)
{
	(void)state;
	check_trace("start", SETTLE_CONVERGED, 400, 1000, 98);
	check_trace("bursts", SETTLE_CONVERGED, 1750, 2500, 99);
	check_trace("drip", SETTLE_BOUND, 30000, 30000, 80);
}

TEST_MAIN(cmocka_unit_test(test_nothing), cmocka_unit_test(test_burst),
	  cmocka_unit_test(test_pauses), cmocka_unit_test(test_tail), cmocka_unit_test(test_drip),
	  cmocka_unit_test(test_options), cmocka_unit_test(test_clock),
	  cmocka_unit_test(test_folding), cmocka_unit_test(test_recorded))
