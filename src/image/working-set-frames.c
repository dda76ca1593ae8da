/* SPDX-License-Identifier: Apache-2.0 */
/*
 * working-set-frames.c - a set as what a prefetcher reads
 *
 * A bit for each frame of each layer, set while walking the set, then read out in order. So a frame
 * comes once however many pages of it are in the set and however many gfns share them, and
 * neighbours in the file are neighbours in the list, wherever their pages lie in the guest.
 *
 *     set  gfn 3-4 = layer 0 slots 40-41, 9 = layer 1 slot 7, 10 = layer 0 slot 16, 11 = zero
 *     frames  layer 0: 1, 2   layer 1: 0      runs  {0, 1, 2} {1, 0, 1}
 */
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "image/working-set.h"

/* One bitmap for all layers: where the frames of each begin, and behind the last the end. */
static size_t *starts_of(const struct image *image)
{
	const uint32_t n = image_n_layers(image);
	size_t *starts = calloc((size_t)n + 1, sizeof(*starts));

	for (uint32_t i = 0; starts && i < n; i++)
		starts[i + 1] = starts[i] + image_layer_frames(image, i);
	return starts;
}

static void mark(const struct working_set *s, const struct image *image, const size_t *starts,
		 bitmap_word *frames)
{
	struct working_set_walk walk = {.set = s, .image = image};
	struct page_run run;

	while (working_set_next(&walk, &run)) {
		if (run.layer == IMAGE_LAYER_ZERO)
			continue;
		for (uint64_t f = run.slot / IMAGE_FRAME_PAGES;
		     f <= (run.slot + run.n_pages - 1) / IMAGE_FRAME_PAGES; f++)
			bitmap_set(frames, starts[run.layer] + f);
	}
}

/* The next run of set bits at or after @i and before @end. Return: is there one? */
static bool next_run(const bitmap_word *b, size_t i, size_t end, size_t *ret_first, size_t *ret_n)
{
	size_t n = 0;

	i = bitmap_next(b, end, i);
	while (i + n < end && bitmap_test(b, i + n))
		n++;
	*ret_first = i;
	*ret_n = n;
	return n > 0;
}

/* Without @out only count. */
static size_t list(const bitmap_word *b, const size_t *starts, uint32_t n_layers,
		   struct frame_run *out)
{
	size_t n_runs = 0;

	for (uint32_t layer = 0; layer < n_layers; layer++) {
		size_t first, n;

		for (size_t i = starts[layer]; next_run(b, i, starts[layer + 1], &first, &n);
		     i = first + n, n_runs++)
			if (out)
				out[n_runs] = (struct frame_run){
					layer, (uint32_t)(first - starts[layer]), (uint32_t)n};
	}
	return n_runs;
}

int working_set_frames(const struct working_set *s, const struct image *image,
		       struct working_set_frames **ret)
{
	const uint32_t n_layers = image_n_layers(image);
	_cleanup_free_ size_t *starts = starts_of(image);
	_cleanup_free_ bitmap_word *b = starts ? bitmap_new(starts[n_layers]) : NULL;
	struct working_set_frames *f;
	size_t n_runs;

	if (!b)
		return error_trace(-ENOMEM);
	mark(s, image, starts, b);
	n_runs = list(b, starts, n_layers, NULL);
	f = malloc(sizeof(*f) + n_runs * sizeof(f->runs[0]));
	if (!f)
		return error_trace(-ENOMEM);
	f->n_runs = n_runs;
	f->n_frames = bitmap_count(b, starts[n_layers]);
	(void)list(b, starts, n_layers, f->runs);
	*ret = f;
	return 0;
}
