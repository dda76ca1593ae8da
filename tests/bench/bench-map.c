/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench-map.c - how fast varints and page maps are, and how small maps are
 *
 * Prints one JSON object per line. Times are the median of REPEATS measurements after a warm-up,
 * and are CPU time of this one thread, page faults included: nothing here waits for anything, and
 * what else the machine does shall not count.
 *
 * Varints: COUNT numbers of three kinds, encoded and decoded all of them each time, and copied with
 * memcpy() as they are, to compare with.
 *
 * Maps: a guest of 4 GiB whose image is one layer, of which 10 % of the pages, anywhere, were
 * replaced and stored one after the other in a second layer. Four variants: no page of the first
 * image is zero; 40 % are, in stretches of 1 MiB in the mean; the first one again with the frames
 * of the second layer closed at 64 KiB of guest memory as soon as they hold 8 pages, which leaves
 * slots unused; and again with a twentieth of the first image, anywhere, stored before the rest of
 * it, as a working set is.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/varint.h"
#include "image/page-map.h"

#define COUNT	 (1u << 18) /* too many for a branch predictor to learn them by heart */
#define LOOPS	 4u
#define REPEATS	 15u
#define N_PAGES	 (1ull << 20)
#define N_LAYERS 2u

static uint64_t seed = 0x9e3779b97f4a7c15;

static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static bool chance(unsigned percent)
{
	return next_random() % 1000003 * 100 < 1000003ull * percent;
}

static uint64_t cpu_now_ns(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* every Linux has it */
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	(void)fprintf(stderr, "bench-map: %s\n", what);
	exit(1);
}

/* ---- results ----------------------------------------------------------------------------------
 */

static int compare_doubles(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void report(const char *metric, const char *unit, double *values, size_t n, const char *from,
		   const char *to)
{
	qsort(values, n, sizeof(*values), compare_doubles);
	(void)printf("{\"metric\": \"%s\", \"value\": %.4g, \"unit\": \"%s\", \"min\": %.4g, "
		     "\"median\": %.4g, \"max\": %.4g, \"n\": %zu, \"from\": \"%s\", "
		     "\"to\": \"%s\"}\n",
		     metric, values[n / 2], unit, values[0], values[n / 2], values[n - 1], n, from,
		     to);
}

/* ---- varints ----------------------------------------------------------------------------------
 */

enum mix { MIX_SMALL, MIX_LENGTHS, MIX_FULL, N_MIXES };

static const char *const mix_names[N_MIXES] = {"small", "lengths_1_to_5", "full_64_bit"};

static uint64_t draw(enum mix mix)
{
	uint64_t n;

	switch (mix) {
	case MIX_SMALL: /* seven of ten have one byte, most others two */
		n = next_random() % 100;
		return next_random() % (n < 70 ? 128 : n < 97 ? 16384 : 2097152);
	case MIX_LENGTHS:
		n = 1 + next_random() % 5;
		return (1ull << 7 * (n - 1)) +
		       next_random() % ((1ull << 7 * n) - (1ull << 7 * (n - 1)));
	default:
		return next_random();
	}
}

struct varints {
	uint64_t in[COUNT], out[COUNT];
	uint8_t bytes[COUNT * VARINT_MAX];
	size_t len;
};

static void encode_all(struct varints *v)
{
	uint8_t *p = v->bytes;

	for (size_t i = 0; i < COUNT; i++)
		p += varint_put(p, v->in[i]);
	v->len = (size_t)(p - v->bytes);
}

static void decode_all(struct varints *v)
{
	const uint8_t *p = v->bytes;

	must(varint_get_many(&p, v->bytes + v->len, v->out, COUNT) == 0, "decoding failed");
}

static void decode_singly(struct varints *v)
{
	const uint8_t *p = v->bytes, *end = v->bytes + v->len;

	for (size_t i = 0; i < COUNT; i++)
		must(varint_get(&p, end, &v->out[i]) == 0, "decoding failed");
}

static void copy_all(struct varints *v)
{
	memcpy(v->out, v->in, sizeof(v->out));
	__asm__ volatile("" : : "r"(v->out) : "memory");
}

static void measure_varints(struct varints *v, const char *what, enum mix mix,
			    void (*work)(struct varints *), const char *from, const char *to)
{
	double values[REPEATS];
	char metric[96];

	work(v);
	for (unsigned i = 0; i < REPEATS; i++) {
		uint64_t start = cpu_now_ns();

		for (unsigned j = 0; j < LOOPS; j++)
			work(v);
		values[i] = (double)(cpu_now_ns() - start) / LOOPS / COUNT;
	}
	(void)snprintf(metric, sizeof(metric), "varint_%s_ns_%s", what, mix_names[mix]);
	report(metric, "ns per integer", values, REPEATS, from, to);
}

static void bench_varints(void)
{
	struct varints *v = calloc(1, sizeof(*v));

	must(v, "no memory");
	for (enum mix mix = 0; mix < N_MIXES; mix++) {
		for (size_t i = 0; i < COUNT; i++)
			v->in[i] = draw(mix);
		measure_varints(v, "encode", mix, encode_all, "array of u64", "bytes");
		memset(v->out, 0, sizeof(v->out));
		measure_varints(v, "decode", mix, decode_all, "bytes",
				"array of u64, all checked, varint_get_many()");
		must(!memcmp(v->in, v->out, sizeof(v->in)), "decoded something else");
		measure_varints(v, "decode_single", mix, decode_singly, "bytes",
				"array of u64, all checked, varint_get()");
		measure_varints(v, "memcpy", mix, copy_all, "array of u64", "array of u64");
	}
	free(v);
}

/* ---- maps -------------------------------------------------------------------------------------
 */

enum variant { ALL_STORED, PARTLY_ZERO, CLOSED_FRAMES, WORKING_SET, N_VARIANTS };

static const char *const variant_names[N_VARIANTS] = {"", "_40_percent_zero", "_closed_frames",
						      "_working_set_first"};

/* The length of a stretch of pages, @mean in the mean. */
static uint64_t stretch(uint64_t mean)
{
	return 1 + next_random() % (2 * mean - 1);
}

/* Where the next dirty page is stored; *@next is the slot after the last, in block *@block. */
static uint64_t dirty_slot(enum variant variant, uint64_t gfn, uint64_t *next, uint64_t *block)
{
	if (variant == CLOSED_FRAMES && *next % 16 >= 8 && gfn / 16 != *block)
		*next += 16 - *next % 16;
	*block = gfn / 16;
	return (*next)++;
}

static void make_map(enum variant variant, struct page_map *m, uint64_t *ret_dirty)
{
	uint64_t first = 0, base = variant == WORKING_SET ? N_PAGES / 16 : 0;
	uint64_t left = 0, dirty = 0, next = 0, block = 0;
	bool zero = true;

	for (uint64_t gfn = 0; gfn < N_PAGES; gfn++, left--) {
		uint64_t slot = 0;
		int r;

		if (left == 0) {
			zero = variant == PARTLY_ZERO && !zero;
			left = stretch(zero ? 256 : 384);
		}
		if (!zero)
			slot = variant == WORKING_SET && chance(5) ? first++ : base++;
		if (chance(10)) {
			r = page_map_append(m, 1, 1, dirty_slot(variant, gfn, &next, &block));
			dirty++;
		} else {
			r = page_map_append(m, 1, zero ? IMAGE_LAYER_ZERO : 0, slot);
		}
		must(r == 0, "no memory");
	}
	*ret_dirty = dirty;
}

static double ms_since(uint64_t start)
{
	return (double)(cpu_now_ns() - start) / 1e6;
}

static void report_map(enum variant variant, const char *what, const char *unit, double *values,
		       size_t n, const char *from, const char *to)
{
	char metric[96];

	(void)snprintf(metric, sizeof(metric), "map_%s%s", what, variant_names[variant]);
	report(metric, unit, values, n, from, to);
}

static void bench_map(enum variant variant)
{
	static const struct layer_name names[N_LAYERS] = {{.id = {1}}, {.id = {2}}};
	_cleanup_(page_map_deinit) struct page_map m = {0};
	double encode[REPEATS], decode[REPEATS], sum[REPEATS], bytes;
	uint64_t dirty;

	make_map(variant, &m, &dirty);
	for (unsigned i = 0; i <= REPEATS; i++) { /* the first is the warm-up */
		_cleanup_(page_map_deinit) struct page_map back = {0};
		_cleanup_free_ struct layer_name *back_names = NULL;
		_cleanup_buf_ struct buf file = {0};
		struct problem problem = PROBLEM_INIT;
		uint64_t start = cpu_now_ns();
		const unsigned k = i ? i - 1 : 0;
		uint32_t n;

		must(page_map_encode(&m, names, N_LAYERS, &file) == 0, "encoding failed");
		encode[k] = ms_since(start);
		start = cpu_now_ns();
		must(page_map_decode(file.data, file.len, &problem, &back, &back_names, &n) == 0,
		     problem.message);
		decode[k] = ms_since(start);
		sum[k] = encode[k] + decode[k];
		must(back.n_runs == m.n_runs && back.stored_pages == m.stored_pages,
		     "decoded something else");
		bytes = (double)file.len / (double)(variant == WORKING_SET ? m.n_runs : dirty);
	}
	if (variant == WORKING_SET) /* whose pages cost runs of their own */
		report_map(variant, "bytes_per_run", "bytes", &bytes, 1, "runs", "map file");
	else
		report_map(variant, "bytes_per_dirty_page", "bytes", &bytes, 1, "dirty pages",
			   "map file");
	report_map(variant, "encode_ms", "ms", encode, REPEATS, "map in memory",
		   "bytes of the file");
	report_map(variant, "decode_ms", "ms", decode, REPEATS, "bytes of the file",
		   "checked map in memory, ordered both ways");
	report_map(variant, "encode_decode_ms", "ms", sum, REPEATS, "map in memory",
		   "the same, through the bytes of a file");
}

int main(void)
{
	bench_varints();
	for (enum variant v = 0; v < N_VARIANTS; v++)
		bench_map(v);
	return 0;
}
