/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * histogram.h - how long things took: counts in buckets that grow with the value
 *
 * Four buckets for every power of two, so a percentile is right to within 25 %, in one fixed array
 * without allocation. Any number of threads may add while others read; a reader sees some recent
 * state of every bucket.
 *
 *     value  0 1 2 3 | 4 5 6 7 | 8-9 10-11 12-13 14-15 | 16-19 20-23 ...
 *     bucket 0 1 2 3 | 4 5 6 7 |  8    9     10    11  |  12    13   ...
 */
#include <stdint.h>

/* the last one also takes all that is above, 2^40 ns being 18 minutes */
#define HISTOGRAM_BUCKETS 160

struct histogram {
	uint64_t count[HISTOGRAM_BUCKETS]; /* atomic */
	uint64_t sum;			   /* atomic; of all values */
};

/** histogram_bucket() - the bucket that counts @value */
uint32_t histogram_bucket(uint64_t value);

/** histogram_value() - the greatest value that @bucket counts */
uint64_t histogram_value(uint32_t bucket);

/** histogram_add() - count one @value */
void histogram_add(struct histogram *h, uint64_t value);

/** histogram_merge() - add all that @from has counted; @to is the caller's alone */
void histogram_merge(struct histogram *to, const struct histogram *from);

/** histogram_percentile() - a bound that @percent of the values do not exceed; 0 without values */
uint64_t histogram_percentile(const struct histogram *h, unsigned percent);
