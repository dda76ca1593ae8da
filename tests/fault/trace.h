/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * trace.h - in which order a VM touches its pages
 *
 *     sequential       0, 1, 2, ... and from the start again
 *     uniform          any page, each as likely as the others
 *     shuffled         every page once per round, in random order
 *     zipf[:S]         page of rank r with probability ~ 1/r^S (default 1), ranks spread at random
 *     strided:N        0, N, 2N, ... then 1, N+1, ...: every page once per round
 *     backward:N       the same from the end
 *     frames           one page of each 16, in random order of the sixteens; once per round
 *     recorded:FILE    lines "MICROSECONDS GFN", replayed at those times; '#' begins a comment
 *
 * A trace of several threads is several traces with different @seed. Deterministic.
 */
#include <stdint.h>

#include "base/mem.h"

struct trace;

/** trace_new() - @thread of @n_threads: sequential ones divide the pages among themselves
 *  Return: 0; -EINVAL not a trace; -ENOMEM; negative errno of the file */
int trace_new(const char *text, uint64_t n_pages, uint64_t seed, unsigned thread,
	      unsigned n_threads, struct trace **ret);
struct trace *trace_free(struct trace *t);
DEFINE_CLEANUP(struct trace *, trace_free)

/** trace_next() - the next page; @ret_us: not before so many microseconds after the start (0: now)
 */
uint64_t trace_next(struct trace *t, uint64_t *ret_us);
