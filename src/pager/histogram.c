/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/histogram.h"

#include "base/mem.h"

#define SUB_BITS 2
#define SUBS	 (1u << SUB_BITS)

uint32_t histogram_bucket(uint64_t value)
{
	uint32_t top, bucket;

	if (value < SUBS)
		return (uint32_t)value;
	top = 63 - (uint32_t)__builtin_clzll(value); /* position of the highest bit, >= SUB_BITS */
	bucket = (top - SUB_BITS + 1) * SUBS + ((uint32_t)(value >> (top - SUB_BITS)) & (SUBS - 1));
	return MIN(bucket, (uint32_t)HISTOGRAM_BUCKETS - 1);
}

uint64_t histogram_value(uint32_t bucket)
{
	uint32_t shift;

	if (bucket < 2 * SUBS)
		return bucket;
	shift = bucket / SUBS - 1;
	return ((uint64_t)(SUBS + bucket % SUBS + 1) << shift) - 1;
}

void histogram_add(struct histogram *h, uint64_t value)
{
	__atomic_fetch_add(&h->count[histogram_bucket(value)], 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&h->sum, value, __ATOMIC_RELAXED);
}

void histogram_merge(struct histogram *to, const struct histogram *from)
{
	for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
		to->count[i] += __atomic_load_n(&from->count[i], __ATOMIC_RELAXED);
	to->sum += __atomic_load_n(&from->sum, __ATOMIC_RELAXED);
}

uint64_t histogram_percentile(const struct histogram *h, unsigned percent)
{
	uint64_t count[HISTOGRAM_BUCKETS], total = 0, seen = 0, want;

	for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
		count[i] = __atomic_load_n(&h->count[i], __ATOMIC_RELAXED);
		total += count[i];
	}
	want = (total * percent + 99) / 100;
	for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += count[i];
		if (count[i] && seen >= want)
			return histogram_value(i);
	}
	return 0;
}
