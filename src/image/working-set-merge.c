/* SPDX-License-Identifier: Apache-2.0 */
/*
 * working-set-merge.c - what one more recording says
 *
 * Each page has a score from 0 (never heard of) to 255 (which nothing reaches: 253 stays 253). With
 * every recording it becomes
 *
 *     needed        score * 3/4 + 64, but at least 96
 *     not needed    score * 3/4
 *     not known     what it was: nobody saw whether it was needed
 *
 * and below 16 it is forgotten. In the set is what has the threshold, usually 64:
 *
 *     needed in every recording     96 136 166 188 205 217 ... 253           in
 *     needed once                   96  72 | 54  40  30  22  16 forgotten    in for two restores
 *     needed every second time      96  72 118  88 130  97 136 102 ...       in
 *     needed every third time       96  72  54 104  78  58 107  80  60 ...   in two of three
 *
 * So a set follows a guest that changes within a few restores, one odd run does not undo it, and
 * what a single run needed costs two restores in vain. If runs agree to 93 %, the others being ever
 * new pages, a set has at most 2 * 7 pages for nothing beside 93: 13 %.
 *
 * Workloads that alternate are in it all together, which is right as long as they agree in most of
 * what they need. Where they do not, the threshold goes up: when more than a quarter of the set was
 * not needed this time, by a quarter; when less than an eighth was not, it sinks by a sixteenth,
 * but never below 64. It is the only thing that looks back at how good the set was, and it is part
 * of the set.
 *
 * The set is bounded, by default to half of what the image stores (but 16 MiB are always fine):
 * what takes nearly all of the memory is better read in order from the front. The highest scores
 * stay; among equals the lowest pages. What does not fit, and as much again of candidates, is
 * remembered as candidates, the former with a score just below the threshold.
 *
 * Pages of long runs of zeros cost neither disk nor memory: they are scored like others, but are no
 * part of the bound, nor of how good the set was.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/str.h"
#include "image/working-set.h"

#define GAIN	      64u
#define FORGOTTEN     16u /* scores below */
#define ALWAYS_FINE   4096u
#define LONG_ZEROS    16u
#define THRESHOLD_MAX 240u
#define N_SCORES      (WORKING_SET_MAX_SCORE + 1)

struct merge {
	const struct working_set *old;
	const struct image *image;
	const bitmap_word *needed, *unknown;
	uint64_t n_pages;
	size_t weight;	  /* of the old set: the first that ends behind the place */
	uint64_t map_end; /* the map's run at the place ends here */
	bool zeros;	  /* and is a long run of zeros */
};

/* Pages to which the same happens. */
struct piece {
	uint64_t gfn, n_pages;
	uint8_t old, score;
	bool needed, unknown;
	bool free; /* of a long run of zeros */
};

static uint8_t next_score(const struct piece *p)
{
	const unsigned decayed = p->old * 3u / 4;
	unsigned risen;

	if (p->unknown)
		return p->old;
	if (!p->needed)
		return decayed < FORGOTTEN ? 0 : (uint8_t)decayed;
	risen = MIN(decayed + GAIN, WORKING_SET_MAX_SCORE);
	return (uint8_t)MAX(risen, WORKING_SET_FIRST);
}

/* How far bits like the one at @i go, at most to @end. Whole words are skipped. */
static uint64_t same_bits(const bitmap_word *b, uint64_t i, uint64_t end)
{
	const bool first = bitmap_test(b, i);

	while (i < end) {
		const bitmap_word w = (first ? ~b[i / 64] : b[i / 64]) >> i % 64;

		if (w)
			return MIN(i + (uint64_t)__builtin_ctzll(w), end);
		i = (i / 64 + 1) * 64;
	}
	return end;
}

/* The score at @gfn, and where it may be another: *@end becomes less. */
static uint8_t old_score(struct merge *m, uint64_t gfn, uint64_t *end)
{
	const struct working_set_weight *w;

	while (m->old && m->weight < m->old->n_weights) {
		w = &m->old->weights[m->weight];
		if (gfn < w->gfn) {
			*end = MIN(*end, w->gfn);
			return 0;
		}
		if (gfn < w->gfn + w->n_pages) {
			*end = MIN(*end, w->gfn + w->n_pages);
			return w->score;
		}
		m->weight++;
	}
	return 0;
}

static bool in_long_zeros(struct merge *m, uint64_t gfn, uint64_t *end)
{
	struct page_run run;

	if (gfn >= m->map_end) {
		image_lookup(m->image, gfn, &run);
		m->map_end = run.gfn + run.n_pages;
		m->zeros = run.layer == IMAGE_LAYER_ZERO && run.n_pages >= LONG_ZEROS;
	}
	*end = MIN(*end, m->map_end);
	return m->zeros;
}

/* The piece behind @p, which begins as all zero. Return: is there one? */
static bool piece_next(struct merge *m, struct piece *p)
{
	const uint64_t gfn = p->gfn + p->n_pages;
	uint64_t end = m->n_pages;

	if (gfn >= m->n_pages)
		return false;
	*p = (struct piece){.gfn = gfn, .old = old_score(m, gfn, &end)};
	end = same_bits(m->needed, gfn, end);
	p->needed = bitmap_test(m->needed, gfn);
	if (m->unknown) {
		end = same_bits(m->unknown, gfn, end);
		p->unknown = !p->needed && bitmap_test(m->unknown, gfn);
	}
	p->free = (p->needed || p->old) && in_long_zeros(m, gfn, &end);
	p->n_pages = end - gfn;
	p->score = next_score(p);
	return true;
}

static void restart(struct merge *m)
{
	m->weight = 0;
	m->map_end = 0;
}

/* ---- how good the old one was, and what there is to choose from --------------------------------
 */

struct tally {
	uint64_t pages[N_SCORES]; /* by new score */
	struct working_set_verdict verdict;
};

static void survey(struct merge *m, struct tally *t)
{
	const uint8_t threshold = m->old ? working_set_threshold(m->old) : 0;
	struct working_set_verdict *v = &t->verdict;
	struct piece p = {0};

	restart(m);
	while (piece_next(m, &p)) {
		if (p.free)
			continue;
		t->pages[p.score] += p.n_pages;
		v->needed_pages += p.needed ? p.n_pages : 0;
		if (!m->old || !p.old || p.old < threshold)
			continue;
		v->set_pages += p.n_pages;
		v->hit_pages += p.needed ? p.n_pages : 0;
		v->unknown_pages += p.unknown ? p.n_pages : 0;
	}
}

/* Never so high that nothing would have it although there is something. */
static unsigned reachable(const struct tally *t, unsigned threshold)
{
	unsigned best = WORKING_SET_MAX_SCORE;

	while (best > 0 && !t->pages[best])
		best--;
	best = MAX(best, WORKING_SET_THRESHOLD);
	return MIN(best, threshold);
}

static uint8_t next_threshold(const struct working_set *old, const struct tally *tally)
{
	const struct working_set_verdict *v = &tally->verdict;
	const uint64_t known = v->set_pages - v->unknown_pages, missed = known - v->hit_pages;
	unsigned t = old ? working_set_threshold(old) : WORKING_SET_THRESHOLD;

	if (missed * 4 > known)
		t = MIN(t + t / 4, THRESHOLD_MAX);
	else if (known && missed * 8 < known)
		t = MAX(t - t / 16, WORKING_SET_THRESHOLD);
	return (uint8_t)reachable(tally, t);
}

/* ---- choosing ---------------------------------------------------------------------------------
 */

/* What stays of pages with scores below @below: all of those above @least, @room of those with it.
 */
struct cut {
	unsigned least;
	uint64_t room;
};

static struct cut cut_at(const struct tally *t, unsigned from, unsigned below, uint64_t room)
{
	for (unsigned score = below; score-- > from;) {
		if (t->pages[score] > room)
			return (struct cut){score, room};
		room -= t->pages[score];
	}
	return (struct cut){from, UINT64_MAX};
}

/* How many of @n pages with @score pass. */
static uint64_t pass(struct cut *c, unsigned score, uint64_t n)
{
	if (score != c->least)
		return score > c->least ? n : 0;
	n = MIN(n, c->room);
	c->room -= n;
	return n;
}

/* Candidates are worth no error: where there is no room for them they are left out. */
static int keep(struct working_set *s, uint64_t gfn, uint64_t n, unsigned score)
{
	const bool candidate = score < working_set_threshold(s);

	if (!n || !score || (candidate && s->n_weights >= WORKING_SET_MAX_RUNS / 2))
		return 0;
	return working_set_weigh(s, gfn, n, (uint8_t)score);
}

/* What the set has no room for becomes candidates. */
static void demote(struct tally *t, unsigned threshold, uint64_t max_pages)
{
	uint64_t n = 0;

	for (unsigned score = threshold; score < N_SCORES; score++)
		n += t->pages[score];
	t->pages[threshold - 1] += n > max_pages ? n - max_pages : 0;
}

static int choose(struct merge *m, struct tally *t, uint64_t max_pages, struct working_set *s)
{
	const unsigned threshold = working_set_threshold(s);
	struct cut set = cut_at(t, threshold, N_SCORES, max_pages), rest;
	struct piece p = {0};
	int r = 0;

	demote(t, threshold, max_pages);
	rest = cut_at(t, FORGOTTEN, threshold, max_pages);
	restart(m);
	while (r == 0 && piece_next(m, &p)) {
		uint64_t in = p.score < threshold ? 0
			      : p.free		  ? p.n_pages
						  : pass(&set, p.score, p.n_pages);

		r = keep(s, p.gfn, in, p.score);
		if (r == 0 && p.score >= threshold)
			r = keep(s, p.gfn + in, pass(&rest, threshold - 1, p.n_pages - in),
				 threshold - 1);
		else if (r == 0)
			r = keep(s, p.gfn, p.free ? p.n_pages : pass(&rest, p.score, p.n_pages),
				 p.score);
	}
	/* more runs than a file can have: the set ends here */
	return r == -EFBIG ? 0 : r;
}

static uint64_t default_bound(const struct image *image)
{
	return MAX(image_stored_pages(image) / 2, (uint64_t)ALWAYS_FINE);
}

int working_set_merge(const struct working_set *old, const struct image *image,
		      const bitmap_word *needed, const bitmap_word *unknown, uint64_t max_pages,
		      struct working_set *ret, struct working_set_verdict *ret_verdict)
{
	struct merge m = {.old = old && old->n_weights ? old : NULL,
			  .image = image,
			  .needed = needed,
			  .unknown = unknown,
			  .n_pages = image_n_pages(image)};
	_cleanup_(working_set_deinit) struct working_set s = {0};
	struct tally t = {0};
	int r;

	if (m.old && (strcmp(m.old->image_id, image_id(image)) || m.old->guest_pages != m.n_pages))
		return error_trace(-EINVAL);
	survey(&m, &t);
	working_set_init(&s, image);
	s.threshold = next_threshold(m.old, &t);
	s.recordings = m.old ? m.old->recordings + 1 : 1;
	r = choose(&m, &t, max_pages ? max_pages : default_bound(image), &s);
	if (r < 0)
		return error_trace(r);
	*ret = s;
	s = (struct working_set){0};
	if (ret_verdict)
		*ret_verdict = t.verdict;
	return 0;
}
