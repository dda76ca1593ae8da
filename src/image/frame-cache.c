/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame-cache.c - four frames for each layer, the one used longest ago goes
 *
 * A layer is mostly written in one or two ascending sequences of the guest's pages, so whoever
 * ascends needs one frame of each: four are enough. More than 64 layers share places.
 */
#include "image/frame-cache.h"

#include <errno.h>
#include <stdlib.h>

#define N_WAYS	 4u
#define MAX_SETS 64u

struct place {
	uint32_t layer, frame;
	uint64_t used; /* time of the last use; 0: empty */
	uint8_t *pages;
};

struct frame_cache {
	const struct image *image;
	uint64_t now;
	uint32_t n_sets;
	struct place places[MAX_SETS][N_WAYS];
	uint8_t *memory; /* IMAGE_FRAME_BYTES each, and the scratch behind them */
	uint8_t *scratch;
};

int frame_cache_new(const struct image *image, struct frame_cache **ret)
{
	_cleanup_(frame_cache_freep) struct frame_cache *c = calloc(1, sizeof(*c));
	const uint32_t n_layers = MAX(image_n_layers(image), 1u);
	size_t bytes;

	if (!c)
		return -ENOMEM;
	c->image = image;
	c->n_sets = MIN(n_layers, MAX_SETS);
	bytes = (size_t)c->n_sets * N_WAYS * IMAGE_FRAME_BYTES;
	c->memory = aligned_alloc(DORM_PAGE_SIZE, bytes + IMAGE_FRAME_BYTES + DORM_PAGE_SIZE);
	if (!c->memory)
		return -ENOMEM;
	c->scratch = c->memory + bytes;
	for (size_t i = 0; i < (size_t)c->n_sets * N_WAYS; i++)
		c->places[i / N_WAYS][i % N_WAYS].pages = c->memory + i * IMAGE_FRAME_BYTES;
	*ret = take_ptr(c);
	return 0;
}

struct frame_cache *frame_cache_free(struct frame_cache *c)
{
	if (!c)
		return NULL;
	free(c->memory);
	free(c);
	return NULL;
}

const uint8_t *frame_cache_find(struct frame_cache *c, uint32_t layer, uint32_t frame)
{
	struct place *set = c->places[layer % c->n_sets];

	for (unsigned i = 0; i < N_WAYS; i++)
		if (set[i].used && set[i].layer == layer && set[i].frame == frame) {
			set[i].used = ++c->now;
			return set[i].pages;
		}
	return NULL;
}

int frame_cache_read(struct frame_cache *c, uint32_t layer, uint32_t frame, const uint8_t **ret,
		     uint32_t *ret_n_pages, struct problem *problem)
{
	struct place *set = c->places[layer % c->n_sets], *oldest = set;
	int r;

	for (unsigned i = 1; i < N_WAYS; i++)
		if (set[i].used < oldest->used)
			oldest = &set[i];
	oldest->used = 0;
	r = image_read_frame(c->image, layer, frame, c->scratch, oldest->pages, ret_n_pages,
			     problem);
	if (r)
		return r;
	oldest->layer = layer;
	oldest->frame = frame;
	oldest->used = ++c->now;
	*ret = oldest->pages;
	return 0;
}
