/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact-choose.c - which layers are worth merging
 *
 * Only a snapshot's own layers: rewriting one that others link frees nothing and costs its size.
 * A layer's number is its age, the highest is the newest.
 *
 * When. More than max_layers own layers; or more than max_dead_percent of their bytes dead, if that
 * is min_dead_bytes or more.
 *
 * Which. Merging everything each time would rewrite n layers n times. Instead, like a binary
 * counter and like the levels of a log-structured store: from the newest own layer to older ones,
 * the next is included while it has at most twice the live bytes of those included so far, or while
 * more than max_layers would remain otherwise. So a byte is only rewritten together with at least
 * half as many younger ones, into a layer at least half as large again: after k times it is in a
 * layer of 1.5^k times its first size, which makes O(log n) times in n sleeps. Besides, every own
 * layer of which more than max_dead_percent is dead is included: that costs less than it frees.
 *
 * By force all own layers are merged. One alone is, if there is something to gain: dead pages go,
 * or the working set comes first.
 *
 * Example: a template of 100 MiB that the sandbox owns, 1 MiB stored by each sleep, max_layers 8.
 * Layers from the oldest to the newest:
 *
 *     sleep  8   100 1 1 1 1 1 1 1 1   nine: due. 1, 1 <= 2, 1 <= 4 ... 1 <= 14; 100 > 16: stop
 *                100 8
 *     sleep 15   100 8 1 1 1 1 1 1 1   seven times 1, 8 <= 14; 100 > 30: stop
 *                100 15
 *     sleep 22   100 15 1 1 1 1 1 1 1  15 > 14: stop
 *                100 15 7
 *     sleep 28   100 15 7 1 1 1 1 1 1  six times 1, 7 <= 12, 15 <= 26; 100 > 56: stop
 *                100 28
 *     ...
 *     at last    100 50 ...            100 <= 2 * 50: the template is rewritten once, after it has
 *                                      been overwritten to a good part
 */
#include "image/compact-internal.h"

struct totals {
	uint32_t n_own;
	uint64_t bytes, live; /* of the own layers */
	bool mixed;	      /* one of them is */
};

static struct totals sum(const struct compact_layer *layers, uint32_t n)
{
	struct totals t = {0};

	for (uint32_t i = 0; i < n; i++)
		if (layers[i].own) {
			t.n_own++;
			t.bytes += layers[i].bytes;
			t.live += layers[i].live;
			t.mixed |= layers[i].mixed;
		}
	return t;
}

/* Bytes of a layer and percentages: at most 2^43 * 100. */
static bool mostly_dead(uint64_t bytes, uint64_t live, const struct compact_policy *policy)
{
	return (bytes - live) * 100 > bytes * policy->max_dead_percent;
}

bool compact_due(const struct compact_layer *layers, uint32_t n,
		 const struct compact_policy *policy)
{
	const struct totals t = sum(layers, n);

	if (policy->off)
		return false;
	return t.n_own > policy->max_layers ||
	       (mostly_dead(t.bytes, t.live, policy) && t.bytes - t.live >= policy->min_dead_bytes);
}

/* The newest own layers, as long as it pays. Return: how many. */
static uint32_t choose_newest(struct compact_layer *layers, uint32_t n, uint32_t n_own,
			      const struct compact_policy *policy)
{
	uint64_t included = 0;
	uint32_t n_chosen = 0;

	for (uint32_t i = n; i-- > 0;) {
		struct compact_layer *l = &layers[i];

		if (!l->own)
			continue;
		if (n_chosen && l->live > 2 * included &&
		    n_own - n_chosen + 1 <= MAX(policy->max_layers, 1u))
			break;
		l->chosen = true;
		included += l->live;
		n_chosen++;
	}
	return n_chosen;
}

static void unchoose(struct compact_layer *layers, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		layers[i].chosen = false;
}

static uint32_t choose_all(struct compact_layer *layers, uint32_t n)
{
	const struct totals t = sum(layers, n);

	if (t.n_own == 0 || (t.n_own == 1 && t.live == t.bytes && !t.mixed))
		return 0;
	for (uint32_t i = 0; i < n; i++)
		layers[i].chosen = layers[i].own;
	return t.n_own;
}

uint32_t compact_choose(struct compact_layer *layers, uint32_t n,
			const struct compact_policy *policy, bool force)
{
	uint32_t n_chosen = 0;

	unchoose(layers, n);
	if (force)
		return choose_all(layers, n);
	if (choose_newest(layers, n, sum(layers, n).n_own, policy) == 1)
		unchoose(layers, n); /* one alone: nothing is merged by it */
	for (uint32_t i = 0; i < n; i++) {
		if (layers[i].own && mostly_dead(layers[i].bytes, layers[i].live, policy))
			layers[i].chosen = true;
		n_chosen += layers[i].chosen;
	}
	return n_chosen;
}
