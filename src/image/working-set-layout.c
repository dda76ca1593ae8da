/* SPDX-License-Identifier: Apache-2.0 */
/*
 * working-set-layout.c - where the pages of a set lie in the layers
 *
 * Laid out well means: in each layer, the frames that have pages of the set come before all frames
 * that have other live pages, and no frame has both. Then one read from the front of the layer file
 * gets them. Dead pages among them do not count: they appear when a child replaces some of the set,
 * and the range is still one.
 *
 * It is told by counting. Let k be the last frame of a layer with a page of the set. The layer is
 * well laid out if, and only if, as many different live slots are in frames 0 .. k as the set has
 * in this layer. A slot that several pages share counts once, and belongs to the set if one of them
 * does.
 *
 *     set a b c, rest x y    frames  a b c . | x y     3 in frame 0, 3 of the set: well
 *                                    a x b . | c y     5 in frames 0..1, 3 of the set: mixed
 *                                    a b . . | x | c y mixed
 */
#include <errno.h>
#include <stdlib.h>

#include "base/bitmap.h"
#include "base/error.h"
#include "image/image-internal.h"
#include "image/working-set.h"

bool working_set_next(struct working_set_walk *w, struct page_run *ret)
{
	const struct working_set_run *want;
	uint64_t skip;

	if (w->run == w->set->n_runs)
		return false;
	want = &w->set->runs[w->run];
	image_lookup(w->image, want->gfn + w->n_done, ret);
	skip = want->gfn + w->n_done - ret->gfn;
	ret->gfn += skip;
	ret->slot += ret->layer == IMAGE_LAYER_ZERO ? 0 : skip;
	ret->n_pages = MIN(ret->n_pages - skip, want->n_pages - w->n_done);
	w->n_done += ret->n_pages;
	if (w->n_done == want->n_pages) {
		w->run++;
		w->n_done = 0;
	}
	return true;
}

/* Of one layer: which slots the set has. */
struct used {
	bitmap_word *slots; /* NULL: none */
	uint64_t end;	    /* of the last frame that has one, in slots */
};

static struct used *used_free(struct used *used, uint32_t n_layers)
{
	for (uint32_t i = 0; used && i < n_layers; i++)
		free(used[i].slots);
	free(used);
	return NULL;
}

static int mark(struct used *u, const struct image *image, const struct page_run *run)
{
	const uint64_t end = run->slot + run->n_pages;

	if (!u->slots)
		u->slots = bitmap_new((size_t)image_layer_frames(image, run->layer) *
				      IMAGE_FRAME_PAGES);
	if (!u->slots)
		return -ENOMEM;
	for (uint64_t slot = run->slot; slot < end; slot++)
		bitmap_set(u->slots, slot);
	u->end = MAX(u->end, (end + IMAGE_FRAME_PAGES - 1) / IMAGE_FRAME_PAGES * IMAGE_FRAME_PAGES);
	return 0;
}

static int mark_all(const struct working_set *s, const struct image *image, struct used *used)
{
	struct working_set_walk walk = {.set = s, .image = image};
	struct page_run run;
	int r = 0;

	while (r == 0 && working_set_next(&walk, &run))
		if (run.layer != IMAGE_LAYER_ZERO)
			r = mark(&used[run.layer], image, &run);
	return r;
}

/* Different live slots of a layer before @end. */
static uint64_t count_live(const struct page_map *m, uint32_t layer, uint64_t end)
{
	uint64_t n = 0;

	for (size_t i = page_map_find_slot(m, layer, 0); i < m->n_by_slot; i++) {
		const struct page_run *run = &m->runs[m->by_slot[i]];

		if (run->layer != layer || run->slot >= end)
			break;
		n += MIN(run->slot + run->n_pages, end) - run->slot;
	}
	return n;
}

int working_set_layout(const struct working_set *s, const struct image *image, bool *ret_mixed)
{
	const uint32_t n = image_n_layers(image);
	struct used *used = calloc(MAX(n, 1u), sizeof(*used));
	int r = used ? mark_all(s, image, used) : -ENOMEM;

	for (uint32_t i = 0; r == 0 && i < n; i++)
		ret_mixed[i] = used[i].slots && bitmap_count(used[i].slots, used[i].end) !=
							count_live(&image->map, i, used[i].end);
	used_free(used, n);
	return error_trace(r);
}

int working_set_is_contiguous(const struct working_set *s, const struct image *image, bool *ret)
{
	const uint32_t n = image_n_layers(image);
	_cleanup_free_ bool *mixed = calloc(MAX(n, 1u), sizeof(*mixed));
	int r = mixed ? working_set_layout(s, image, mixed) : -ENOMEM;

	if (r < 0)
		return error_trace(r);
	*ret = true;
	for (uint32_t i = 0; i < n; i++)
		*ret = *ret && !mixed[i];
	return 0;
}
