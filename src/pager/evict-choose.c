/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evict-choose.c - who goes first: images, and frames within one. Theory: evict.c
 */
#include "base/clock.h"
#include "pager/bring.h"
#include "pager/evict-internal.h"

#define BATCH_FRAMES 32u   /* evicted with the lock held once */
#define BATCH_STEPS  4096u /* and looked at */

/* ---- one image --------------------------------------------------------------------------------
 */

/* Frames of the working sets of @r that stay in any case. */
static uint64_t floor_of(const struct evict *e, const struct resident *r)
{
	const uint64_t limit = get(e->p->budget.limit), percent = e->floor_percent;
	uint64_t all = 0, own = get(r->favoured_frames) * percent / 100;

	for (const struct resident *o = e->p->residents; o; o = o->next)
		all += get(o->favoured_frames) * percent / 100 * IMAGE_FRAME_PAGES;
	if (limit && all > limit / 2)
		own = own * (limit / 2) / all;
	return own;
}

static uint64_t count_favoured(const struct resident *r)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < r->frames.n; i++)
		n += resident_is_favoured(r, i) && frames_state(&r->frames, i) == FRAME_RESIDENT;
	return n;
}

static void wake(struct evict *e, struct resident *r, uint64_t index, enum frame_wake whom)
{
	struct frame_page pages[IMAGE_FRAME_PAGES];
	uint32_t layer, frame;

	if (whom == WAKE_ALL) {
		pager_wake_memory(e->p, r);
	} else if (whom == WAKE_FRAME) {
		frames_name(&r->frames, index, &layer, &frame);
		pager_wake_all(e->p, r, pages, image_frame_pages(r->image, layer, frame, pages));
	}
}

/* The hand is at a frame. Return: was it evicted? */
static bool look_at(struct evict *e, struct resident *r, uint64_t i, uint64_t floor,
		    uint64_t *freed)
{
	bool favoured = resident_is_favoured(r, i);
	enum frame_wake whom = WAKE_NOBODY;

	if (frames_state(&r->frames, i) != FRAME_RESIDENT)
		return false;
	if (!get(r->idle_ns)) {
		if (favoured && e->level == SPARE_FAVOURED)
			return false;
		if (favoured && r->hand.favoured <= floor) {
			count(e->n.floor_hits, 1);
			return false;
		}
		if (frames_tick(&r->frames, i))
			return false;
	}
	if (!resident_evict(r, i, freed, &whom))
		return false;
	r->hand.favoured -= favoured && r->hand.favoured;
	wake(e, r, i, whom);
	return true;
}

/* The loose pages that belong to so many steps of the other hand. */
static uint64_t sweep_loose(struct resident *r, uint64_t steps)
{
	const uint64_t frames = MAX(r->frames.n, (uint64_t)1);
	uint64_t n = MIN((r->n_pages * steps + frames - 1) / frames, r->n_pages - r->hand.gfn);
	uint64_t freed = 0;

	if (get(r->loose_pages))
		freed = resident_evict_loose(r, r->hand.gfn, n);
	r->hand.gfn = (r->hand.gfn + n) % r->n_pages;
	return freed;
}

/* Return: pages freed */
static uint64_t turn(struct evict *e, struct resident *r)
{
	const uint64_t n = r->frames.n, floor = floor_of(e, r);
	uint64_t freed = 0, steps = 0;
	unsigned taken = 0;

	if (e->level == TAKE_FAVOURED && !r->hand.vain)
		r->hand.favoured = count_favoured(r);
	for (; steps < MIN(n, (uint64_t)BATCH_STEPS) && taken < BATCH_FRAMES; steps++) {
		r->hand.frame = r->hand.frame + 1 < n ? r->hand.frame + 1 : 0;
		taken += look_at(e, r, r->hand.frame, floor, &freed);
	}
	freed += sweep_loose(r, MAX(steps, (uint64_t)1));
	r->hand.vain = freed ? 0 : r->hand.vain + MAX(steps, (uint64_t)1);
	/* so often round that every clock has run down, and nothing: this image has no more */
	if (r->hand.vain > (FRAMES_CLOCK_MAX + 2) * (n + 1))
		r->hand.exhausted = (uint8_t)(e->level + 1);
	return freed;
}

/* ---- which image ------------------------------------------------------------------------------
 */

static bool can_give(const struct evict *e, const struct resident *r)
{
	return get(r->present_pages) && !get(r->n_kept) && r->hand.exhausted <= e->level;
}

static struct resident *most_above(struct evict *e, uint64_t image_pages)
{
	struct resident *best = NULL;

	for (struct resident *r = e->p->residents; r; r = r->next)
		if (can_give(e, r) && get(r->present_pages) > image_pages &&
		    (!best || get(r->present_pages) > get(best->present_pages)))
			best = r;
	return best;
}

static struct resident *longest_idle(struct evict *e)
{
	struct resident *best = NULL;

	for (struct resident *r = e->p->residents; r; r = r->next)
		if (can_give(e, r) && get(r->idle_ns) &&
		    (!best || get(r->idle_ns) < get(best->idle_ns)))
			best = r;
	return best;
}

static struct resident *by_credit(struct evict *e)
{
	struct resident *best = NULL;
	int64_t sum = 0;

	for (struct resident *r = e->p->residents; r; r = r->next) {
		if (!can_give(e, r)) {
			r->hand.credit = 0;
			continue;
		}
		r->hand.credit += (int64_t)get(r->present_pages);
		sum += (int64_t)get(r->present_pages);
		if (!best || r->hand.credit > best->hand.credit)
			best = r;
	}
	if (best)
		best->hand.credit -= sum;
	return best;
}

static struct resident *choose(struct evict *e, const struct goal *g, enum evict_cause *ret)
{
	struct resident *r = most_above(e, g->image_pages);

	*ret = r ? EVICT_IMAGE_LIMIT : g->cause;
	if (!r && get(e->p->budget.pages) > g->pages)
		r = longest_idle(e);
	if (!r && get(e->p->budget.pages) > g->pages)
		r = by_credit(e);
	return r;
}

bool evict_is_reached(const struct evict *e, const struct goal *g)
{
	if (get(e->p->budget.pages) > g->pages)
		return false;
	for (const struct resident *r = e->p->residents; r; r = r->next)
		if (get(r->present_pages) > g->image_pages && !get(r->n_kept))
			return false;
	return true;
}

/* Nothing else is left: look at everything again, with other eyes. */
static void raise_level(struct evict *e)
{
	e->level++;
	for (struct resident *r = e->p->residents; r; r = r->next)
		r->hand.vain = 0;
}

uint64_t evict_step(struct evict *e, const struct goal *g)
{
	enum evict_cause cause;
	struct resident *r;
	uint64_t freed;

	if (evict_is_reached(e, g))
		return UINT64_MAX;
	while (!(r = choose(e, g, &cause))) {
		if (e->level + 1 == N_LEVELS) {
			count(e->n.stalls, 1);
			__atomic_store_n(&e->rest_until_ns, deadline_after_ms(EVICT_REST_MS),
					 __ATOMIC_RELAXED);
			return UINT64_MAX;
		}
		raise_level(e);
	}
	freed = turn(e, r);
	count(e->n.pages[cause], freed);
	return freed;
}

void evict_begin(struct evict *e)
{
	e->level = SPARE_FAVOURED;
	for (struct resident *r = e->p->residents; r; r = r->next) {
		r->hand.exhausted = 0;
		r->hand.vain = 0;
	}
}
