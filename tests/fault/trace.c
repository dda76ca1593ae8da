/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Orders are computed, not stored, where that is possible: a shuffle of n is a walk of a
 * full-period linear congruence over the next power of two, leaving out what is not below n. Only
 * Zipf keeps a table, of cumulated weights in 4096 classes: rank r lies in class r * 4096 / n, and
 * within a class pages are alike. That is what a working set looks like from a distance: few pages
 * very hot, and a long tail.
 */
#include "trace.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/str.h"
#include "oracle.h"

#define CLASSES	    4096u
#define FRAME_PAGES 16u

enum kind { SEQUENTIAL, UNIFORM, SHUFFLED, ZIPF, STRIDED, BACKWARD, FRAMES, RECORDED };

struct touch {
	uint64_t us;
	uint64_t gfn;
};

struct trace {
	enum kind kind;
	uint64_t n_pages;
	uint64_t state; /* of the random numbers */
	uint64_t at;	/* position in the order */
	uint64_t step;
	uint64_t stride;
	uint64_t n_classes;
	uint64_t walk, walk_step, walk_mask; /* of the shuffle */
	double cumulated[CLASSES];
	struct touch *touches;
	size_t n_touches, cap;
};

static void start_walk(struct trace *t, uint64_t n)
{
	uint64_t size = 1;

	while (size < n)
		size *= 2;
	t->walk_mask = size - 1;
	t->walk = oracle_next(&t->state) & t->walk_mask;
	t->walk_step = oracle_next(&t->state) | 1;
}

/* x -> 5x + odd visits every number of a power of two once (Hull and Dobell). */
static uint64_t next_of_walk(struct trace *t, uint64_t n)
{
	do
		t->walk = (5 * t->walk + t->walk_step) & t->walk_mask;
	while (t->walk >= n);
	return t->walk;
}

static void weigh(struct trace *t, double s)
{
	double sum = 0;

	t->n_classes = MIN(t->n_pages, (uint64_t)CLASSES);
	for (uint64_t i = 0; i < t->n_classes; i++)
		t->cumulated[i] = sum += pow((double)i + 1, -s);
}

static uint64_t next_of_zipf(struct trace *t)
{
	double x = (double)(oracle_next(&t->state) >> 11) / 9007199254740992.0 *
		   t->cumulated[t->n_classes - 1];
	uint64_t low = 0, high = t->n_classes - 1, rank;

	while (low < high) {
		uint64_t mid = (low + high) / 2;

		if (t->cumulated[mid] < x)
			low = mid + 1;
		else
			high = mid;
	}
	rank = low * t->n_pages / t->n_classes;
	rank += oracle_next(&t->state) % MAX((uint64_t)1, t->n_pages / t->n_classes);
	/* hot pages are everywhere, not at the start */
	return oracle_hash(7, MIN(rank, t->n_pages - 1)) % t->n_pages;
}

static uint64_t strided(const struct trace *t, uint64_t i)
{
	uint64_t rows = (t->n_pages + t->stride - 1) / t->stride;

	for (;; i++) { /* the last row may be short */
		uint64_t gfn = i % rows * t->stride + i / rows % t->stride;

		if (gfn < t->n_pages)
			return gfn;
	}
}

static int read_recorded(struct trace *t, const char *path)
{
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	FILE *f = fopen(path, "re");
	int r = 0;

	if (!f)
		return error_errno();
	while (r == 0 && getline(&line, &size, f) >= 0) {
		unsigned long long us, gfn;

		if (line[0] == '#' || line[0] == '\n')
			continue;
		if (sscanf(line, "%llu %llu", &us, &gfn) != 2 || gfn >= t->n_pages)
			r = -EINVAL;
		else
			r = mem_grow(&t->touches, &t->cap, t->n_touches, sizeof(*t->touches));
		if (r == 0)
			t->touches[t->n_touches++] = (struct touch){.us = us, .gfn = gfn};
	}
	(void)fclose(f);
	return r == 0 && t->n_touches == 0 ? -EINVAL : r;
}

static int number_after(const char *rest, uint64_t *ret)
{
	return *rest == ':' ? str_to_u64(rest + 1, ret) : -EINVAL;
}

static int understand(struct trace *t, const char *text)
{
	const char *rest;
	double s = 1;

	if (!strcmp(text, "sequential")) {
		t->kind = SEQUENTIAL;
	} else if (!strcmp(text, "uniform")) {
		t->kind = UNIFORM;
	} else if (!strcmp(text, "shuffled")) {
		t->kind = SHUFFLED;
		start_walk(t, t->n_pages);
	} else if (!strcmp(text, "frames")) {
		t->kind = FRAMES;
		start_walk(t, (t->n_pages + FRAME_PAGES - 1) / FRAME_PAGES);
	} else if ((rest = str_has_prefix(text, "zipf"))) {
		t->kind = ZIPF;
		if (*rest && sscanf(rest, ":%lf", &s) != 1)
			return -EINVAL;
		weigh(t, s);
	} else if ((rest = str_has_prefix(text, "strided"))) {
		t->kind = STRIDED;
		return number_after(rest, &t->stride) < 0 || t->stride == 0 ? -EINVAL : 0;
	} else if ((rest = str_has_prefix(text, "backward"))) {
		t->kind = BACKWARD;
		return number_after(rest, &t->stride) < 0 || t->stride == 0 ? -EINVAL : 0;
	} else if ((rest = str_has_prefix(text, "recorded:"))) {
		t->kind = RECORDED;
		return read_recorded(t, rest);
	} else {
		return -EINVAL;
	}
	return 0;
}

int trace_new(const char *text, uint64_t n_pages, uint64_t seed, unsigned thread,
	      unsigned n_threads, struct trace **ret)
{
	_cleanup_(trace_freep) struct trace *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return -ENOMEM;
	t->n_pages = n_pages;
	t->step = 1;
	t->state = oracle_hash(seed, thread);
	r = understand(t, text);
	if (r < 0)
		return r;
	if (t->kind == RECORDED) {
		t->at = thread;
		t->step = MAX(1u, n_threads);
	} else if (n_threads) {
		t->at = n_pages / n_threads * thread;
	}
	*ret = take_ptr(t);
	return 0;
}

struct trace *trace_free(struct trace *t)
{
	if (t)
		free(t->touches);
	free(t);
	return NULL;
}

uint64_t trace_next(struct trace *t, uint64_t *ret_us)
{
	uint64_t i = t->at, gfn;

	t->at += t->step;
	*ret_us = 0;
	switch (t->kind) {
	case SEQUENTIAL:
		return i % t->n_pages;
	case UNIFORM:
		return oracle_next(&t->state) % t->n_pages;
	case SHUFFLED:
		return next_of_walk(t, t->n_pages);
	case ZIPF:
		return next_of_zipf(t);
	case STRIDED:
		return strided(t, i);
	case BACKWARD:
		return t->n_pages - 1 - strided(t, i);
	case FRAMES:
		gfn = next_of_walk(t, (t->n_pages + FRAME_PAGES - 1) / FRAME_PAGES) * FRAME_PAGES;
		gfn += oracle_next(&t->state) % FRAME_PAGES;
		return MIN(gfn, t->n_pages - 1);
	case RECORDED:
		break;
	}
	*ret_us = t->touches[i % t->n_touches].us;
	return t->touches[i % t->n_touches].gfn;
}
