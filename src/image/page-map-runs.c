/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page-map-runs.c - the runs of a map file, version 2
 *
 * A run does not say where it begins in the guest: it begins where the last one ended. It is one
 * token byte in the common case:
 *
 *     bits 0-1   source: 0 zero, 1 cursor 0, 2 cursor 1, 3 a varint says which
 *     bits 2-6   low five bits of n_pages - 1
 *     bit 7      the others follow as a varint, which is not 0
 *
 * A *cursor* is a place in a layer from which this map took slots before, and guesses which slot
 * comes next. There are four of them, the one used last in front, so that cursor 0 and 1 are the
 * two that scattered changes alternate between: the layer that has them, and the one below. A
 * cursor guesses in one of two ways:
 *
 *     dense    the slot after its last run: pages stored in the order of gfns
 *     linear   the same, plus the pages that came from other layers since: the layer below goes on
 *              after the pages of it that were replaced
 *
 * Whichever was right last is tried next. If the source is 3, the varint x says:
 *
 *     0, 1       cursor 2, 3, at its guess
 *     2 + c      cursor c, at its other guess, which is the way it guesses from now on
 *     6 + c      cursor c, at the next frame: the first multiple of 16 from its dense guess on
 *     10 + n     none of them: layer n, and a zigzag varint says how far the slot is from that
 *                layer's front, the slot after the highest that this map has taken from it (0 at
 *                first). This makes a new cursor, dense
 *
 * A cursor that was used goes to the front. A new one becomes cursor 2, cursor 2 becomes 3, and the
 * old 3 is forgotten: so jumps (pages that share a slot with earlier ones) do not disturb the two
 * in front, while a second stream that is used again soon will join them.
 *
 * Example: pages of layer 0 stored in order, of which gfn 5, 6 and 9 were replaced from layer 1.
 *
 *     bytes     run                        why
 *     13 0a 00  5 pages, layer 0 slot 0    no cursor yet: x = 10 + 0, at its front
 *     07 0b 00  2 pages, layer 1 slot 0    no cursor of that layer: x = 10 + 1, at its front
 *     07 05     2 pages, layer 0 slot 7    cursor 3: not 5 (dense) but 5 + 2 (linear): x = 2 + 3
 *     03 01     1 page, layer 1 slot 2     cursor 3, dense: x = 1
 *     2a        11 pages, layer 0 slot 10  cursor 1, linear: 9 + 1. From here on one byte each
 *
 * There is exactly one encoding: of all ways to name a source, the first in the order above. The
 * decoder checks that, so the digest of the file names the content. Encoding tries them in the same
 * order, straight into a buffer that is large enough for any outcome; neither allocates per run.
 *
 * Source of the design: docs/format-image.md, "Map".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/varint.h"
#include "image/page-map-format.h"

#define N_CURSORS	4u
#define N_HOT		2u /* have a source value of their own */

#define SOURCE_ZERO	0u
#define SOURCE_EXPLICIT 3u
#define LENGTH_BITS	5u
#define LENGTH_MASK	((1u << LENGTH_BITS) - 1)
#define LENGTH_SHIFT	2u
#define LENGTH_MORE	0x80u

/* x of an explicit source */
#define X_OTHER (N_CURSORS - N_HOT)
#define X_FRAME (X_OTHER + N_CURSORS)
#define X_NEW	(X_FRAME + N_CURSORS)

struct cursor {
	uint32_t layer; /* IMAGE_LAYER_ZERO: not in use */
	bool linear;
	uint64_t next;	 /* slot after its last run */
	uint64_t others; /* how many pages came from other layers until then */
};

struct layer_so_far {
	uint64_t front;	 /* slot after the highest that was taken */
	uint64_t stored; /* pages that came from it */
};

struct predictor {
	struct cursor c[N_CURSORS];
	uint64_t stored; /* stored pages of the map so far */
	struct layer_so_far *layers;
};

static int predictor_init(struct predictor *p, uint32_t n_layers)
{
	*p = (struct predictor){.layers = calloc((size_t)n_layers + 1, sizeof(*p->layers))};
	for (unsigned i = 0; i < N_CURSORS; i++)
		p->c[i].layer = IMAGE_LAYER_ZERO;
	return p->layers ? 0 : -ENOMEM;
}

static void predictor_deinit(struct predictor *p)
{
	free(p->layers);
}

static inline uint64_t others(const struct predictor *p, uint32_t layer)
{
	return p->stored - p->layers[layer].stored;
}

static inline uint64_t guess(const struct predictor *p, const struct cursor *c, bool linear)
{
	return c->next + (linear ? others(p, c->layer) - c->others : 0);
}

static inline uint64_t next_frame(const struct cursor *c)
{
	return (c->next + IMAGE_FRAME_PAGES - 1) / IMAGE_FRAME_PAGES * IMAGE_FRAME_PAGES;
}

static inline void note(struct predictor *p, struct cursor *c, const struct page_run *run)
{
	struct layer_so_far *layer = &p->layers[run->layer];

	p->stored += run->n_pages;
	layer->stored += run->n_pages;
	c->next = run->slot + run->n_pages;
	c->others = others(p, run->layer);
	if (layer->front < c->next)
		layer->front = c->next;
}

/* @run came from cursor @i, which guesses @linear from now on. */
static inline void use_cursor(struct predictor *p, unsigned i, bool linear,
			      const struct page_run *run)
{
	struct cursor c = p->c[i];

	c.linear = linear;
	note(p, &c, run);
	for (; i; i--)
		p->c[i] = p->c[i - 1];
	p->c[0] = c;
}

static void new_cursor(struct predictor *p, const struct page_run *run)
{
	struct cursor c = {.layer = run->layer};

	note(p, &c, run);
	memmove(&p->c[N_HOT + 1], &p->c[N_HOT], (N_CURSORS - N_HOT - 1) * sizeof(c));
	p->c[N_HOT] = c;
}

/* Does cursor @i stand at this source at its guess? */
static inline bool hits(const struct predictor *p, unsigned i, const struct page_run *run)
{
	const struct cursor *c = &p->c[i];

	return c->layer == run->layer && guess(p, c, c->linear) == run->slot;
}

/* The first of the ways to name this source that an explicit token has: its x */
static uint64_t find_x(const struct predictor *p, const struct page_run *run)
{
	for (unsigned i = N_HOT; i < N_CURSORS; i++)
		if (hits(p, i, run))
			return i - N_HOT;
	for (unsigned i = 0; i < N_CURSORS; i++)
		if (p->c[i].layer == run->layer && guess(p, &p->c[i], !p->c[i].linear) == run->slot)
			return X_OTHER + i;
	for (unsigned i = 0; i < N_CURSORS; i++)
		if (p->c[i].layer == run->layer && next_frame(&p->c[i]) == run->slot)
			return X_FRAME + i;
	return X_NEW + run->layer;
}

static void use_x(struct predictor *p, uint64_t x, const struct page_run *run)
{
	if (x < X_OTHER)
		use_cursor(p, (unsigned)x + N_HOT, p->c[x + N_HOT].linear, run);
	else if (x < X_FRAME)
		use_cursor(p, (unsigned)(x - X_OTHER), !p->c[x - X_OTHER].linear, run);
	else if (x < X_NEW)
		use_cursor(p, (unsigned)(x - X_FRAME), p->c[x - X_FRAME].linear, run);
	else
		new_cursor(p, run);
}

/* ---- encoding ---------------------------------------------------------------------------------
 */

static inline uint8_t *put_token(uint8_t *out, unsigned source, uint64_t n_pages)
{
	uint64_t v = n_pages - 1;

	*out++ = (uint8_t)(source | (v & LENGTH_MASK) << LENGTH_SHIFT |
			   (v > LENGTH_MASK ? LENGTH_MORE : 0));
	return v > LENGTH_MASK ? out + varint_put(out, v >> LENGTH_BITS) : out;
}

static uint8_t *put_explicit(struct predictor *p, const struct page_run *run, uint8_t *out)
{
	uint64_t x = find_x(p, run);

	out = put_token(out, SOURCE_EXPLICIT, run->n_pages);
	out += varint_put(out, x);
	if (x >= X_NEW)
		out += varint_put(
			out, varint_zigzag((int64_t)(run->slot - p->layers[run->layer].front)));
	use_x(p, x, run);
	return out;
}

static inline uint8_t *put_run(struct predictor *p, const struct page_run *run, uint8_t *out)
{
	if (run->layer == IMAGE_LAYER_ZERO)
		return put_token(out, SOURCE_ZERO, run->n_pages);
	for (unsigned i = 0; i < N_HOT; i++)
		if (hits(p, i, run)) {
			use_cursor(p, i, p->c[i].linear, run);
			return put_token(out, 1 + i, run->n_pages);
		}
	return put_explicit(p, run, out);
}

/* The run that begins at runs[*i], with what a seal cut off it. *@i advances past it */
static inline struct page_run join_run(const struct page_map *m, size_t *i)
{
	struct page_run run = m->runs[(*i)++];

	while (*i < m->n_runs && page_run_continues(&run, m->runs[*i].layer, m->runs[*i].slot))
		run.n_pages += m->runs[(*i)++].n_pages;
	return run;
}

int map_encode_runs(const struct page_map *m, uint32_t n_layers, uint8_t *out, size_t *ret_len,
		    uint64_t *ret_n_runs)
{
	_cleanup_(predictor_deinit) struct predictor p;
	uint8_t *start = out;
	uint64_t n = 0;
	int r = predictor_init(&p, n_layers);

	if (r < 0)
		return r;
	for (size_t i = 0; i < m->n_runs; n++) {
		struct page_run run = join_run(m, &i);

		out = put_run(&p, &run, out);
	}
	*ret_len = (size_t)(out - start);
	*ret_n_runs = n;
	return 0;
}

/* ---- decoding ---------------------------------------------------------------------------------
 */

struct decoder {
	const uint8_t *p, *end;
	const struct map_header *h;
	struct predictor predictor;
	const char *why; /* when something is refused */
};

static inline bool refuse(struct decoder *d, const char *why)
{
	d->why = why;
	return false;
}

static bool get_number(struct decoder *d, uint64_t *ret)
{
	return varint_get(&d->p, d->end, ret) == 0 || refuse(d, "bad number");
}

/* Pages beyond the first 32 */
static bool get_length(struct decoder *d, uint64_t *n_pages)
{
	uint64_t more;

	if (!get_number(d, &more))
		return false;
	if (more == 0)
		return refuse(d, "bad number");
	if (more > IMAGE_MAX_PAGES >> LENGTH_BITS)
		return refuse(d, "more pages than the image has");
	*n_pages += more << LENGTH_BITS;
	return true;
}

static bool get_new(struct decoder *d, uint64_t layer, struct page_run *run)
{
	uint64_t delta;
	int64_t slot;

	if (layer >= d->h->n_layers)
		return refuse(d, "a layer that is not named");
	if (!get_number(d, &delta))
		return false;
	if (__builtin_add_overflow((int64_t)d->predictor.layers[layer].front,
				   varint_unzigzag(delta), &slot) ||
	    slot < 0)
		return refuse(d, "a slot out of range");
	run->layer = (uint32_t)layer;
	run->slot = (uint64_t)slot;
	return true;
}

/* The source that @x names; whether it was the right way to name it is checked by the caller. */
static bool get_x(struct decoder *d, uint64_t x, struct page_run *run)
{
	const struct predictor *p = &d->predictor;
	const struct cursor *c;

	if (x >= X_NEW)
		return get_new(d, x - X_NEW, run);
	c = &p->c[x < X_OTHER ? x + N_HOT : (x - X_OTHER) % N_CURSORS];
	if (c->layer == IMAGE_LAYER_ZERO)
		return refuse(d, "a cursor that is not in use");
	run->layer = c->layer;
	if (x < X_OTHER)
		run->slot = guess(p, c, c->linear);
	else
		run->slot = x < X_FRAME ? guess(p, c, !c->linear) : next_frame(c);
	return true;
}

static bool get_explicit(struct decoder *d, struct page_run *run)
{
	struct predictor *p = &d->predictor;
	uint64_t x;

	if (!get_number(d, &x) || !get_x(d, x, run))
		return false;
	if (run->slot > PAGE_MAP_MAX_SLOTS - run->n_pages)
		return refuse(d, "a slot out of range");
	if (hits(p, 0, run) || hits(p, 1, run) || find_x(p, run) != x)
		return refuse(d, "a source that has a shorter name");
	use_x(p, x, run);
	return true;
}

static inline bool get_hot(struct decoder *d, unsigned i, struct page_run *run)
{
	struct predictor *p = &d->predictor;
	const struct cursor *c = &p->c[i];

	if (c->layer == IMAGE_LAYER_ZERO)
		return refuse(d, "a cursor that is not in use");
	run->layer = c->layer;
	run->slot = guess(p, c, c->linear);
	if (run->slot > PAGE_MAP_MAX_SLOTS - run->n_pages)
		return refuse(d, "a slot out of range");
	if (i && hits(p, 0, run))
		return refuse(d, "a source that has a shorter name");
	use_cursor(p, i, c->linear, run);
	return true;
}

/* One run at d->p. Its gfn is known; every number of it is in range when the result is true. */
static inline bool get_run(struct decoder *d, struct page_run *run)
{
	unsigned token, source;

	if (d->p == d->end)
		return refuse(d, "bad number");
	token = *d->p++;
	source = token & SOURCE_EXPLICIT;
	run->n_pages = (token >> LENGTH_SHIFT & LENGTH_MASK) + 1;
	if (token & LENGTH_MORE && !get_length(d, &run->n_pages))
		return false;
	if (run->n_pages > d->h->n_pages - run->gfn)
		return refuse(d, "more pages than the image has");
	run->layer = IMAGE_LAYER_ZERO;
	run->slot = 0;
	if (source == SOURCE_ZERO)
		return true;
	return source == SOURCE_EXPLICIT ? get_explicit(d, run) : get_hot(d, source - 1, run);
}

/* All runs. Return: how many came before the one that is refused, if one is */
static uint64_t get_runs(struct decoder *d, struct page_map *m, const uint8_t **ret_start)
{
	for (uint64_t i = 0; i < d->h->n_runs; i++) {
		struct page_run *run = &m->runs[i];

		*ret_start = d->p;
		run->gfn = m->n_pages;
		if (!get_run(d, run))
			return i;
		if (i && page_run_continues(run - 1, run->layer, run->slot)) {
			d->why = "continues the run before it";
			return i;
		}
		m->n_pages += run->n_pages;
		m->n_runs++;
	}
	m->stored_pages = d->predictor.stored;
	return d->h->n_runs;
}

int map_decode_runs(const uint8_t *data, size_t offset, const struct map_header *h,
		    struct page_map *m, struct problem *problem)
{
	struct decoder d = {.p = data + offset, .end = data + offset + h->runs_len, .h = h};
	const uint8_t *start = d.p;
	uint64_t n = 0;
	int r = predictor_init(&d.predictor, h->n_layers);

	if (r == 0)
		r = page_map_reserve(m, h->n_runs);
	if (r == 0)
		n = get_runs(&d, m, &start);
	predictor_deinit(&d.predictor);
	if (r < 0)
		return error_trace(r);
	if (!d.why) {
		start = d.p;
		if (d.p != d.end)
			d.why = "bytes follow the last run";
		else if (m->n_pages != h->n_pages)
			d.why = "pages are missing after the last run";
	}
	return d.why ? map_refuse_run(problem, n, (size_t)(start - data), d.why) : 0;
}
