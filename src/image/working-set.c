/* SPDX-License-Identifier: Apache-2.0 */
/*
 * working-set.c - the set in memory
 *
 * What is known is the weights: ascending ranges of pages, each with a score. The set is what has a
 * score of the threshold or more, and its runs are kept beside the weights, because whoever reads,
 * stores or prefetches the set has no use for scores. Both only ever grow at their ends.
 *
 *     weights   3-4: 160   5: 96   6-9: 40   10: 255      threshold 64
 *     runs      3-5                          10
 */
#include "image/working-set.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/str.h"

void working_set_init(struct working_set *s, const struct image *image)
{
	*s = (struct working_set){.guest_pages = image_n_pages(image)};
	str_copy(s->image_id, sizeof(s->image_id), image_id(image));
}

void working_set_deinit(struct working_set *s)
{
	free(s->runs);
	free(s->weights);
	*s = (struct working_set){0};
}

uint8_t working_set_threshold(const struct working_set *s)
{
	return s->threshold ? s->threshold : WORKING_SET_THRESHOLD;
}

static uint64_t known_end(const struct working_set *s)
{
	const struct working_set_weight *last = s->n_weights ? &s->weights[s->n_weights - 1] : NULL;

	return last ? last->gfn + last->n_pages : 0;
}

/* The last of each, if the pages go on where it ends; else NULL. */
static struct working_set_weight *weight_before(struct working_set *s, uint64_t gfn, uint8_t score)
{
	struct working_set_weight *last = s->n_weights ? &s->weights[s->n_weights - 1] : NULL;

	return last && last->score == score && last->gfn + last->n_pages == gfn ? last : NULL;
}

static struct working_set_run *run_before(struct working_set *s, uint64_t gfn)
{
	struct working_set_run *last = s->n_runs ? &s->runs[s->n_runs - 1] : NULL;

	return last && last->gfn + last->n_pages == gfn ? last : NULL;
}

/* Room for one more of both, so that adding them cannot fail half-way. */
static int reserve(struct working_set *s)
{
	int r;

	if (s->n_weights >= WORKING_SET_MAX_RUNS)
		return -EFBIG;
	r = mem_grow(&s->weights, &s->cap_weights, s->n_weights, sizeof(*s->weights));
	return r ? r : mem_grow(&s->runs, &s->cap_runs, s->n_runs, sizeof(*s->runs));
}

static void add_run(struct working_set *s, uint64_t gfn, uint64_t n_pages)
{
	struct working_set_run *run = run_before(s, gfn);

	if (run)
		run->n_pages += n_pages;
	else
		s->runs[s->n_runs++] = (struct working_set_run){gfn, n_pages};
	s->n_pages += n_pages;
}

int working_set_weigh(struct working_set *s, uint64_t gfn, uint64_t n_pages, uint8_t score)
{
	struct working_set_weight *weight;
	int r;

	if (gfn < known_end(s) || gfn > s->guest_pages || n_pages == 0 || score == 0 ||
	    n_pages > s->guest_pages - gfn)
		return error_trace(-EINVAL);
	weight = weight_before(s, gfn, score);
	r = weight ? 0 : reserve(s);
	if (r < 0)
		return error_trace(r);
	if (weight)
		weight->n_pages += n_pages;
	else
		s->weights[s->n_weights++] = (struct working_set_weight){gfn, n_pages, score};
	if (score >= working_set_threshold(s))
		add_run(s, gfn, n_pages);
	return 0;
}

int working_set_add(struct working_set *s, uint64_t gfn, uint64_t n_pages)
{
	return working_set_weigh(s, gfn, n_pages, MAX(WORKING_SET_FIRST, working_set_threshold(s)));
}
