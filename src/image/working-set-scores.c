/* SPDX-License-Identifier: Apache-2.0 */
/*
 * working-set-scores.c - the scores in the file
 *
 * The scores of the set come as steps along its pages, whatever lies between them: so many pages
 * have this score, so many that. Most pages of a set that was recorded often have the highest, and
 * the steps take fewer bytes than the runs. Candidates are runs with a score each.
 *
 *     weights 3-5: 96   6-9: 40   10: 253      steps 3 pages 96, 1 page 253   candidate 6-9: 40
 *
 * To read them is to walk three lists at once, the runs, the steps and the candidates, and to give
 * what comes next by its gfn to working_set_weigh(). That refuses what is not behind the page
 * before, so a candidate that overlaps the set is found without looking for it.
 */
#include "image/working-set-scores.h"

#include <errno.h>

#include "base/error.h"
#include "base/varint.h"
#include "image/outcome.h"

#define SCORES_HEAD_NUMBERS 4u
#define STEP_MIN_BYTES	    2u
#define CANDIDATE_MIN_BYTES 3u
#define WEIGHT_MAX_BYTES    (3u * VARINT_MAX)

size_t working_set_scores_max_bytes(const struct working_set *s)
{
	return SCORES_HEAD_NUMBERS * VARINT_MAX + s->n_weights * WEIGHT_MAX_BYTES;
}

/* Along the pages of the set: how many have the same score. Begin with zero. */
struct step {
	size_t next; /* weight */
	uint64_t n_pages;
	uint8_t score;
};

static bool step_next(const struct working_set *s, struct step *step)
{
	step->n_pages = 0;
	for (; step->next < s->n_weights; step->next++) {
		const struct working_set_weight *w = &s->weights[step->next];

		if (w->score < working_set_threshold(s))
			continue;
		if (step->n_pages && w->score != step->score)
			break;
		step->score = w->score;
		step->n_pages += w->n_pages;
	}
	return step->n_pages > 0;
}

static size_t put_steps(const struct working_set *s, uint8_t *out)
{
	struct step step = {0};
	uint8_t *p = out;

	while (step_next(s, &step)) {
		p += varint_put(p, step.n_pages - 1);
		p += varint_put(p, step.score);
	}
	return (size_t)(p - out);
}

static size_t put_candidates(const struct working_set *s, uint8_t *out)
{
	uint64_t next = 0;
	uint8_t *p = out;

	for (size_t i = 0; i < s->n_weights; i++) {
		const struct working_set_weight *w = &s->weights[i];

		if (w->score >= working_set_threshold(s))
			continue;
		p += varint_put(p, w->gfn - next);
		p += varint_put(p, w->n_pages - 1);
		p += varint_put(p, w->score);
		next = w->gfn + w->n_pages;
	}
	return (size_t)(p - out);
}

/* recordings | threshold | steps | candidates | the steps | the candidates */
size_t working_set_put_scores(const struct working_set *s, uint8_t *out)
{
	uint64_t n_steps = 0, n_candidates = 0;
	struct step step = {0};
	uint8_t *p = out;

	while (step_next(s, &step))
		n_steps++;
	for (size_t i = 0; i < s->n_weights; i++)
		n_candidates += s->weights[i].score < working_set_threshold(s);
	p += varint_put(p, s->recordings);
	p += varint_put(p, working_set_threshold(s));
	p += varint_put(p, n_steps);
	p += varint_put(p, n_candidates);
	p += put_steps(s, p);
	p += put_candidates(s, p);
	return (size_t)(p - out);
}

/* Where the numbers of the scores are taken from, and what was understood so far. */
struct scores {
	const uint8_t *p, *end;
	uint64_t recordings, threshold, n_steps, n_candidates; /* not yet read of the latter two */
	uint64_t step_left, step_score;			       /* pages of the set that have it */
	struct working_set_weight candidate; /* the next; of no pages behind the last */
};

static int bad_scores(struct problem *problem, const char *why)
{
	return image_corrupt(problem, "working-set: its scores %s", why);
}

static int get_scores_head(struct scores *c, struct problem *problem)
{
	uint64_t n[SCORES_HEAD_NUMBERS];

	if (varint_get_many(&c->p, c->end, n, SCORES_HEAD_NUMBERS) < 0)
		return bad_scores(problem, "are cut off or malformed");
	c->recordings = n[0];
	c->threshold = n[1];
	c->n_steps = n[2];
	c->n_candidates = n[3];
	if (c->threshold == 0 || c->threshold > WORKING_SET_MAX_SCORE)
		return bad_scores(problem, "have a threshold that cannot be");
	if (c->n_steps > (uint64_t)(c->end - c->p) / STEP_MIN_BYTES ||
	    c->n_candidates > (uint64_t)(c->end - c->p) / CANDIDATE_MIN_BYTES)
		return bad_scores(problem, "are more than there is room for");
	return 0;
}

/* Candidates come behind all steps in the file, but are needed together with them. */
static int skip_steps(struct scores *steps, struct scores *candidates, struct problem *problem)
{
	uint64_t n[2];

	*candidates = *steps;
	for (uint64_t i = 0; i < steps->n_steps; i++)
		if (varint_get_many(&candidates->p, candidates->end, n, 2) < 0)
			return bad_scores(problem, "are cut off or malformed");
	steps->end = candidates->p;
	return 0;
}

static int next_step(struct scores *c, struct problem *problem)
{
	uint64_t n[2];

	if (c->n_steps == 0 || varint_get_many(&c->p, c->end, n, 2) < 0)
		return bad_scores(problem, "are of fewer pages than the set has");
	if (n[1] < c->threshold || n[1] > WORKING_SET_MAX_SCORE || n[1] == c->step_score ||
	    n[0] == UINT64_MAX)
		return bad_scores(problem, "have a step that cannot be");
	c->step_left = n[0] + 1;
	c->step_score = n[1];
	c->n_steps--;
	return 0;
}

static int next_candidate(struct scores *c, uint64_t guest_pages, struct problem *problem)
{
	const struct working_set_weight last = c->candidate;
	const uint64_t from = last.gfn + last.n_pages;
	uint64_t n[3];

	c->candidate = (struct working_set_weight){0};
	if (c->n_candidates == 0)
		return 0;
	if (varint_get_many(&c->p, c->end, n, 3) < 0)
		return bad_scores(problem, "are cut off or malformed");
	if (n[0] >= guest_pages - from || n[1] >= guest_pages - from - n[0])
		return bad_scores(problem, "have a candidate beyond the pages of the guest");
	if (n[2] == 0 || n[2] >= c->threshold || (last.n_pages && n[0] == 0 && n[2] == last.score))
		return bad_scores(problem, "have a candidate that cannot be");
	c->candidate = (struct working_set_weight){from + n[0], n[1] + 1, (uint8_t)n[2]};
	c->n_candidates--;
	return 0;
}

static int weigh(struct working_set *s, uint64_t gfn, uint64_t n_pages, uint64_t score,
		 struct problem *problem)
{
	int r = working_set_weigh(s, gfn, n_pages, (uint8_t)score);

	if (r == -EINVAL)
		return bad_scores(problem, "have a candidate that is in the set");
	return r == -EFBIG ? bad_scores(problem, "are of too many ranges") : r;
}

/* All candidates that begin before @gfn. */
static int weigh_candidates(struct working_set *s, struct scores *c, uint64_t gfn,
			    struct problem *problem)
{
	int r = 0;

	while (r == 0 && c->candidate.n_pages && c->candidate.gfn < gfn) {
		r = weigh(s, c->candidate.gfn, c->candidate.n_pages, c->candidate.score, problem);
		if (r == 0)
			r = next_candidate(c, s->guest_pages, problem);
	}
	return r;
}

static int weigh_run(struct working_set *s, struct scores *c, const struct working_set_run *run,
		     struct problem *problem)
{
	int r = 0;

	for (uint64_t done = 0, n; r == 0 && done < run->n_pages; done += n) {
		n = 0;
		r = c->step_left ? 0 : next_step(c, problem);
		if (r)
			break;
		n = MIN(c->step_left, run->n_pages - done);
		c->step_left -= n;
		r = weigh(s, run->gfn + done, n, c->step_score, problem);
	}
	return r;
}

int working_set_get_scores(const uint8_t *data, size_t len, const struct working_set *plain,
			   struct working_set *s, struct problem *problem)
{
	struct scores steps = {.p = data, .end = data + len}, candidates = {0};
	int r = get_scores_head(&steps, problem);

	if (r == 0)
		r = skip_steps(&steps, &candidates, problem);
	if (r == 0)
		r = next_candidate(&candidates, s->guest_pages, problem);
	s->recordings = steps.recordings;
	s->threshold = (uint8_t)steps.threshold;
	for (size_t i = 0; r == 0 && i < plain->n_runs; i++) {
		r = weigh_candidates(s, &candidates, plain->runs[i].gfn, problem);
		if (r == 0)
			r = weigh_run(s, &steps, &plain->runs[i], problem);
	}
	if (r == 0)
		r = weigh_candidates(s, &candidates, UINT64_MAX, problem);
	if (r == 0 && (steps.step_left || steps.n_steps || candidates.p != candidates.end))
		r = bad_scores(problem, "are of more pages than the set has");
	return r;
}
