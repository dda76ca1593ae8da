/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * oracle.h - what every page of a made image holds, without the image
 *
 * A page is a function of a seed and its gfn, so a process that plays a VM can check any page with
 * nothing of the store or the pager in between. Three kinds, in runs of one to many blocks of 32
 * pages: zeros, text (shrinks well) and noise (does not shrink). Single zero pages lie between
 * stored ones as well, so that short runs of zeros occur. Where there are zeros, a few pages are
 * also the same as others (ORACLE_COMMON contents in all), which a writer stores once.
 *
 * A fork is an image that differs from its parent: `own_percent` of the blocks of 16 pages come
 * from another seed. Which blocks, its last two digits say: forks with own seeds 99 and 199 own the
 * same ones, and more of them with a greater percentage. A percentage of 100 + N means the first N
 * MiB. Written pages have a content of their own: a function of seed, gfn and version.
 *
 * As text: SEED[:ZERO[:NOISE[:OWN_SEED:OWN_PERCENT]]], the percentages being whole numbers.
 */
#include <stdbool.h>
#include <stdint.h>

#define ORACLE_COMMON 64u

struct oracle {
	uint64_t seed;
	unsigned zero_percent;	/* of the blocks */
	unsigned noise_percent; /* of the blocks that are not zero */
	uint64_t own_seed;
	unsigned own_percent; /* 0: no fork; above 100: see above */
};

/** oracle_parse() - see above. Return: 0; -EINVAL */
int oracle_parse(const char *text, struct oracle *ret);

/** oracle_page() - the content of a page; @out is 4096 bytes, aligned to 8 */
void oracle_page(const struct oracle *o, uint64_t gfn, void *out);

/** oracle_is_own() - does the fork differ from its parent here? */
bool oracle_is_own(const struct oracle *o, uint64_t gfn);

/** oracle_is_zero() - is it a page of zeros? */
bool oracle_is_zero(const struct oracle *o, uint64_t gfn);

/** oracle_differs() - is this page something else? */
bool oracle_differs(const struct oracle *o, uint64_t gfn, const void *page);

/** oracle_written() - what a VM writes into a page the @version-th time */
void oracle_written(uint64_t seed, uint64_t gfn, uint32_t version, void *out);

/** oracle_hash() - a number that two numbers determine, evenly spread */
uint64_t oracle_hash(uint64_t a, uint64_t b);

/** oracle_next() - the next of a sequence of such numbers */
uint64_t oracle_next(uint64_t *state);
