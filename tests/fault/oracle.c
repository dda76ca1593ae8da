/* SPDX-License-Identifier: Apache-2.0 */
#include "oracle.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

#define WORDS	      (DORM_PAGE_SIZE / sizeof(uint64_t))
#define KIND_PAGES    32u
#define OWN_PAGES     16u
#define PAGES_PER_MIB 256u
#define OWN_PLACES    100u /* own seeds that are equal modulo this own the same blocks */

/* The finaliser of splitmix64: every bit of the input reaches every bit of the result. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

uint64_t oracle_hash(uint64_t a, uint64_t b)
{
	return mix(mix(a + 0x9e3779b97f4a7c15ull) ^ b * 0xd6e8feb86659fd93ull);
}

uint64_t oracle_next(uint64_t *state)
{
	return mix(*state += 0x9e3779b97f4a7c15ull);
}

int oracle_parse(const char *text, struct oracle *ret)
{
	unsigned long long seed, own_seed = 0;
	struct oracle o = {.zero_percent = 25, .noise_percent = 50};
	char rest;
	int n = sscanf(text, "%llu:%u:%u:%llu:%u%c", &seed, &o.zero_percent, &o.noise_percent,
		       &own_seed, &o.own_percent, &rest);

	if (n < 1 || n == 4 || n > 5 || o.zero_percent > 100 || o.noise_percent > 100)
		return -EINVAL;
	o.seed = seed;
	o.own_seed = own_seed;
	*ret = o;
	return 0;
}

bool oracle_is_own(const struct oracle *o, uint64_t gfn)
{
	if (o->own_percent > 100)
		return gfn < (o->own_percent - 100) * PAGES_PER_MIB;
	return o->own_percent &&
	       oracle_hash(o->own_seed % OWN_PLACES ^ 0x6f776e, gfn / OWN_PAGES) % 100 <
		       o->own_percent;
}

static uint64_t seed_of(const struct oracle *o, uint64_t gfn)
{
	return oracle_is_own(o, gfn) ? o->own_seed : o->seed;
}

bool oracle_is_zero(const struct oracle *o, uint64_t gfn)
{
	uint64_t seed = seed_of(o, gfn);

	if (o->zero_percent == 0)
		return false;
	return oracle_hash(seed, gfn / KIND_PAGES) % 100 < o->zero_percent ||
	       oracle_hash(seed ^ 0x7a65726f, gfn) % 23 == 0;
}

/*
 * Text is like a guest's memory to a compressor, which makes a third of it: words of a small
 * vocabulary, every fourth a number of its own.
 */
static void fill(uint64_t *w, uint64_t seed, uint64_t gfn, bool noise)
{
	uint64_t x = oracle_hash(seed, gfn ^ 0x70616765) | 1, vocabulary = mix(seed) | 1;

	for (size_t i = 0; i < WORDS; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		w[i] = noise || (x >> 60) % 4 == 0 ? x : vocabulary * (1 + (x >> 32) % 32);
		if (!noise && (x >> 60) % 4 == 0)
			w[i] &= 0xffffffff;
	}
}

/* Pages that are the same, near each other and far apart. @ret: what stands for all of them */
static bool is_common(const struct oracle *o, uint64_t seed, uint64_t gfn, uint64_t *ret)
{
	uint64_t x = oracle_hash(seed ^ 0x73616d65, gfn);

	*ret = (1ull << 40) + (x >> 32) % ORACLE_COMMON;
	return o->zero_percent && x % 31 == 0;
}

void oracle_page(const struct oracle *o, uint64_t gfn, void *out)
{
	uint64_t seed = seed_of(o, gfn), common;

	if (oracle_is_zero(o, gfn))
		memset(out, 0, DORM_PAGE_SIZE);
	else if (is_common(o, seed, gfn, &common))
		fill(out, seed, common, true);
	else
		fill(out, seed, gfn,
		     oracle_hash(seed ^ 0x6e6f6973, gfn / KIND_PAGES) % 100 < o->noise_percent);
}

bool oracle_differs(const struct oracle *o, uint64_t gfn, const void *page)
{
	uint64_t want[WORDS];

	oracle_page(o, gfn, want);
	return memcmp(want, page, DORM_PAGE_SIZE) != 0;
}

void oracle_written(uint64_t seed, uint64_t gfn, uint32_t version, void *out)
{
	fill(out, oracle_hash(seed, 0x77726974ull + version), gfn, true);
}
