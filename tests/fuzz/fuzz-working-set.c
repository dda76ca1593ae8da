/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-working-set.c - any bytes as the file "working-set"
 *
 * The checksum at the end is made to fit first, and what is accepted is compared with what the
 * decoder promises: runs in order, not touching, inside the guest; weights in order, and exactly
 * those of the runs at or above the threshold; of files of the present version the same bytes when
 * written again, and of all others a set that survives being written.
 */
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "image/le.h"
#include "image/working-set.h"

#define SUM_BYTES 16u

static void require(bool ok)
{
	if (!ok)
		abort();
}

static void fit_sum(uint8_t *file, size_t len)
{
	XXH128_canonical_t sum;

	if (len < SUM_BYTES)
		return;
	XXH128_canonicalFromHash(&sum, XXH3_128bits(file, len - SUM_BYTES));
	memcpy(file + len - SUM_BYTES, sum.digest, SUM_BYTES);
}

static void check_runs(const struct working_set *s)
{
	uint64_t next = 0, n = 0;

	require(s->n_runs > 0 && s->n_runs <= WORKING_SET_MAX_RUNS);
	for (size_t i = 0; i < s->n_runs; i++) {
		require(s->runs[i].gfn >= next && s->runs[i].n_pages > 0);
		next = s->runs[i].gfn + s->runs[i].n_pages;
		require(next <= s->guest_pages);
		next++;
		n += s->runs[i].n_pages;
	}
	require(n == s->n_pages);
}

/* As somebody who refines it would have made it. */
static void check_again(const struct working_set *s)
{
	_cleanup_(working_set_deinit) struct working_set again = {.guest_pages = s->guest_pages,
								  .threshold = s->threshold};

	require(s->n_weights <= WORKING_SET_MAX_RUNS);
	for (size_t i = 0; i < s->n_weights; i++)
		require(working_set_weigh(&again, s->weights[i].gfn, s->weights[i].n_pages,
					  s->weights[i].score) == 0);
	require(again.n_weights == s->n_weights);
	require(again.n_runs == s->n_runs && again.n_pages == s->n_pages);
	require(!memcmp(again.runs, s->runs, s->n_runs * sizeof(*s->runs)));
}

static void check_file(const struct working_set *s, const uint8_t *file, size_t len)
{
	_cleanup_(working_set_deinit) struct working_set back = {0};
	_cleanup_buf_ struct buf again = {0};
	struct problem problem = PROBLEM_INIT;

	if (working_set_encode(s, &again) == -EFBIG) /* of 2.0, and its scores have no room */
		return;
	require(again.data);
	if (le_get16(file + 10) == 1)
		require(again.len == len && !memcmp(again.data, file, len));
	require(working_set_decode(again.data, again.len, &problem, &back) == 0);
	require(back.n_pages == s->n_pages && back.n_weights == s->n_weights);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	_cleanup_(working_set_deinit) struct working_set s = {0};
	_cleanup_free_ uint8_t *file = malloc(len + 1);
	struct problem problem = PROBLEM_INIT;

	require(file);
	if (len)
		memcpy(file, data, len);
	fit_sum(file, len);
	if (working_set_decode(file, len, &problem, &s)) {
		require(problem_is_set(&problem) && !s.runs);
		return 0;
	}
	check_runs(&s);
	check_again(&s);
	check_file(&s, file, len);
	return 0;
}
