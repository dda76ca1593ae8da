/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When is it over?
 *
 * First touches come in bursts: the kernel of the guest, its agent, the runtime, the program. A
 * fixed time cuts a slow guest short and makes a fast one wait. So the length of the wait is taken
 * from the guest itself. Let x be a moment in the past; the head is what was touched until x, the
 * tail what was touched since. The guest has settled when there is any x for which the tail is
 *
 *   long     as long as quiet_ns, and half as long as the head took: whoever was busy for 4 s may
 *            pause for 2 s and go on
 *   sparse   at most a 64th of the head's touches, or 8 where that is more
 *   slow     at most a 32nd of the head's touches per second (of a head shorter than quiet_ns: its
 *            touches in quiet_ns, for what came at one instant has no rate)
 *
 * A head of fewer than 8 touches says nothing about the guest; the tail then is idle_ns long.
 *
 * "Sparse" says how much of the set may be missed, "slow" that the rate has really fallen, which
 * eight touches of a hundred do not say. A guest that touches ever new memory at a steady rate
 * meets neither, at any x: it ends by max_ns. One that goes on at a low rate after a burst meets
 * both.
 *
 * Example. 3000 touches in the first 100 ms, a pause of 300 ms, 1000 touches in 100 ms, then one
 * every 100 ms (a timer somewhere):
 *
 *     at 400 ms    x = 100 ms: the tail is sparse and slow, but 300 ms are not long: not yet
 *     at 500 ms    x = 100 ms: the tail has 1000 touches, more than 3000 / 64: no more for this x
 *     at 900 ms    x = 500 ms: long (400 ms), 4 touches of 4000 in 400 ms: settled
 *
 * For one x, all three are known to begin at a certain time if nothing else is touched; the
 * earliest of these times over all x is the answer to "when to ask again", and whether it has
 * passed is the answer to "settled?".
 *
 * Touches are kept in 128 buckets of equal width that begin at the start. When a time is beyond the
 * last bucket, neighbours are added up and the width doubles: 8 ms for the first second, 256 ms at
 * 30 s. So memory is constant, and x is known to 1/64 of the time that has passed, which is fine
 * since the quiet grows with it.
 *
 * Limits. A guest that waits for something else, longer than it was busy before, is taken for
 * settled; what it touches later it faults for, and the next recording sees it. A caller that comes
 * late (a clock that jumps) is answered as if nothing had been touched since its last note.
 */
#include "pager/settle.h"

#include <string.h>

#include "base/mem.h"

#define FIRST_WIDTH_NS 8000000ull /* 8 ms */
#define SPARSE_SHARE   64u
#define SPARSE_LEAST   8u
#define FEW	       8u /* touches: as good as none */
#define SLOW_SHARE     32u
#define LOOKS_IN_QUIET 4u
#define LOOKS_IN_TIME  16u
#define LONGEST_NS     (1ull << 50) /* 13 days: sums of times do not overflow */

static uint64_t or_default(uint64_t value, uint64_t otherwise)
{
	return value ? value : otherwise;
}

void settle_init(struct settle *s, const struct settle_options *options, uint64_t now_ns)
{
	const struct settle_options none = {0}, *o = options ? options : &none;

	*s = (struct settle){.start_ns = now_ns, .width_ns = FIRST_WIDTH_NS};
	s->options.max_ns = MIN(or_default(o->max_ns, SETTLE_MAX_NS), LONGEST_NS);
	s->options.min_ns = MIN(or_default(o->min_ns, SETTLE_MIN_NS), s->options.max_ns);
	s->options.quiet_ns = MIN(or_default(o->quiet_ns, SETTLE_QUIET_NS), LONGEST_NS);
	s->options.idle_ns = MIN(or_default(o->idle_ns, SETTLE_IDLE_NS), LONGEST_NS);
}

static uint64_t since_start(const struct settle *s, uint64_t now_ns)
{
	return now_ns > s->start_ns ? now_ns - s->start_ns : 0;
}

static void fold(struct settle *s)
{
	for (uint32_t i = 0; i < SETTLE_BUCKETS / 2; i++)
		s->buckets[i] = s->buckets[2 * i] + s->buckets[2 * i + 1];
	memset(s->buckets + SETTLE_BUCKETS / 2, 0, sizeof(s->buckets) / 2);
	s->width_ns *= 2;
	s->n_used = (s->n_used + 1) / 2;
}

void settle_note(struct settle *s, uint64_t now_ns, uint64_t n)
{
	uint64_t t = MAX(since_start(s, now_ns), s->last_ns);
	uint32_t i;

	if (!n)
		return;
	t = MIN(t, s->options.max_ns); /* nobody asks what came after that */
	while (t / s->width_ns >= SETTLE_BUCKETS)
		fold(s);
	i = (uint32_t)(t / s->width_ns);
	s->buckets[i] += n;
	s->n_used = i + 1;
	s->n_total += n;
	s->last_ns = t;
}

/* When a tail of @tail touches since @x_ns will have been long and slow. It is sparse. */
static uint64_t quiet_at(const struct settle *s, uint64_t x_ns, uint64_t head, uint64_t tail)
{
	const uint64_t least = head < FEW ? s->options.idle_ns : s->options.quiet_ns;
	const uint64_t half = MAX(least, x_ns / 2);
	const uint64_t span = MAX(x_ns, s->options.quiet_ns);
	/* fits: tail / head <= 8, times <= LONGEST_NS */
	const double slow = (double)span * SLOW_SHARE * (double)tail / (double)head;

	return x_ns + MAX(half, (uint64_t)slow);
}

/* Since the start, like all times below: when it is settled if nothing else is touched. */
static uint64_t settles_at(const struct settle *s)
{
	uint64_t head = 0, best = UINT64_MAX;

	if (!s->n_total)
		return MAX(s->options.idle_ns, s->options.min_ns);
	for (uint32_t i = 0; i < s->n_used; i++) {
		const uint64_t x = MIN((i + 1) * s->width_ns, s->last_ns);
		uint64_t tail;

		head += s->buckets[i];
		tail = s->n_total - head;
		if (head && tail <= MAX(head / SPARSE_SHARE, (uint64_t)SPARSE_LEAST))
			best = MIN(best, quiet_at(s, x, head, tail));
	}
	return MAX(best, s->options.min_ns);
}

enum settle_state settle_check(const struct settle *s, uint64_t now_ns)
{
	const uint64_t t = since_start(s, now_ns), at = settles_at(s);

	if (at <= t && at <= s->options.max_ns)
		return SETTLE_CONVERGED;
	return t >= s->options.max_ns ? SETTLE_BOUND : SETTLE_NOT_YET;
}

uint64_t settle_next_check(const struct settle *s, uint64_t now_ns)
{
	const uint64_t t = MIN(since_start(s, now_ns), s->options.max_ns);
	const uint64_t step = MAX(s->options.quiet_ns / LOOKS_IN_QUIET, t / LOOKS_IN_TIME);
	uint64_t at = MIN(settles_at(s), s->options.max_ns);

	at = MIN(at, t + step + 1);
	if (at > UINT64_MAX - s->start_ns)
		return UINT64_MAX;
	return MAX(s->start_ns + at, now_ns);
}
