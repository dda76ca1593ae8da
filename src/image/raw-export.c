/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw-export.c - the memory of a snapshot, for somebody who knows nothing of layers
 *
 * Pages are read in the order of the guest, frames lie in the order of the writer. So a few decoded
 * frames are kept, found by their number modulo the size of the cache: where the two orders agree,
 * one would do; where pages were stored in the order of their first use, each frame would be
 * decoded up to 16 times without.
 */
#include "image/raw-memory.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "image/image.h"
#include "image/le.h"

#define EXTENT_PAGES 256u
#define CACHE_FRAMES 32u

struct raw_exporter {
	struct image *image;
	uint64_t gfn; /* the next to look at */
	bool ended;   /* the last extent was made */
	int error;    /* the first failure, which stays */
	struct problem problem;

	uint8_t *extent; /* head and pages */
	size_t extent_len, extent_sent;

	uint8_t *scratch; /* IMAGE_FRAME_BYTES + 4096 */
	uint8_t *frames;  /* CACHE_FRAMES decoded ones */
	struct {
		uint32_t layer, frame; /* layer IMAGE_LAYER_ZERO: nothing there */
	} cached[CACHE_FRAMES];
};

struct raw_exporter *raw_exporter_free(struct raw_exporter *x)
{
	if (!x)
		return NULL;
	image_unref(x->image);
	free(x->extent);
	free(x->scratch);
	free(x->frames);
	free(x);
	return NULL;
}

static int open_memory(struct raw_exporter *x, int dirfd, const struct keyring *keys,
		       struct problem *problem)
{
	_cleanup_(manifest_deinit) struct manifest m = {0};
	int r = snapshot_open(dirfd, keys, problem, &m);

	return r ? r : image_open(dirfd, keys, problem, &x->image);
}

int raw_exporter_new(int dirfd, const struct keyring *keys, struct problem *problem,
		     struct raw_exporter **ret)
{
	_cleanup_(raw_exporter_freep) struct raw_exporter *x = calloc(1, sizeof(*x));
	int r;

	if (!x)
		return -ENOMEM;
	x->extent = malloc(RAW_EXTENT_HEAD_BYTES + EXTENT_PAGES * DORM_PAGE_SIZE);
	x->scratch = aligned_alloc(DORM_PAGE_SIZE, IMAGE_FRAME_BYTES + DORM_PAGE_SIZE);
	x->frames = aligned_alloc(DORM_PAGE_SIZE, CACHE_FRAMES * IMAGE_FRAME_BYTES);
	if (!x->extent || !x->scratch || !x->frames)
		return -ENOMEM;
	for (size_t i = 0; i < CACHE_FRAMES; i++)
		x->cached[i].layer = IMAGE_LAYER_ZERO;
	r = open_memory(x, dirfd, keys, problem);
	if (r)
		return error_trace(r);
	*ret = take_ptr(x);
	return 0;
}

static int read_frame(struct raw_exporter *x, uint32_t layer, uint32_t frame, const uint8_t **ret)
{
	const size_t at = frame % CACHE_FRAMES;
	uint8_t *decoded = x->frames + at * IMAGE_FRAME_BYTES;
	uint32_t n_pages;
	int r;

	if (x->cached[at].layer != layer || x->cached[at].frame != frame) {
		x->cached[at].layer = IMAGE_LAYER_ZERO;
		r = image_read_frame(x->image, layer, frame, x->scratch, decoded, &n_pages,
				     &x->problem);
		if (r)
			return r > 0 ? error_trace(-EBADMSG) : r;
		x->cached[at].layer = layer;
		x->cached[at].frame = frame;
	}
	*ret = decoded;
	return 0;
}

/* The pages of one run from @gfn on, as many as the extent has room for. */
static int add_pages(struct raw_exporter *x, const struct page_run *run, uint64_t gfn, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		const uint64_t slot = run->slot + (gfn + i - run->gfn);
		const uint8_t *frame;
		int r = read_frame(x, run->layer, (uint32_t)(slot / IMAGE_FRAME_PAGES), &frame);

		if (r < 0)
			return r;
		memcpy(x->extent + x->extent_len, frame + slot % IMAGE_FRAME_PAGES * DORM_PAGE_SIZE,
		       DORM_PAGE_SIZE);
		x->extent_len += DORM_PAGE_SIZE;
	}
	return 0;
}

/* The next pages that are not zero; without any, the extent that ends the memory. */
static int make_extent(struct raw_exporter *x)
{
	const uint64_t n_pages = image_n_pages(x->image);
	struct page_run run;
	uint64_t first, room = EXTENT_PAGES;
	int r = 0;

	x->extent_sent = 0;
	x->extent_len = RAW_EXTENT_HEAD_BYTES;
	for (; x->gfn < n_pages; x->gfn = run.gfn + run.n_pages) {
		image_lookup(x->image, x->gfn, &run);
		if (run.layer != IMAGE_LAYER_ZERO)
			break;
	}
	first = x->gfn;
	while (r == 0 && room && x->gfn < n_pages) {
		uint64_t n;

		image_lookup(x->image, x->gfn, &run);
		if (run.layer == IMAGE_LAYER_ZERO)
			break;
		n = MIN(run.gfn + run.n_pages - x->gfn, room);
		r = add_pages(x, &run, x->gfn, n);
		x->gfn += n;
		room -= n;
	}
	le_put64(x->extent, first * DORM_PAGE_SIZE);
	le_put64(x->extent + 8, x->extent_len - RAW_EXTENT_HEAD_BYTES);
	x->ended = x->extent_len == RAW_EXTENT_HEAD_BYTES;
	return r;
}

ssize_t raw_exporter_read(struct raw_exporter *x, void *buf, size_t len, struct problem *problem)
{
	size_t done = 0;

	len = MIN(len, (size_t)SSIZE_MAX);
	while (x->error == 0 && done < len) {
		size_t n = MIN(len - done, x->extent_len - x->extent_sent);

		if (n == 0) {
			if (x->ended)
				break;
			x->error = make_extent(x);
			continue;
		}
		memcpy((uint8_t *)buf + done, x->extent + x->extent_sent, n);
		x->extent_sent += n;
		done += n;
	}
	if (done || x->error == 0)
		return (ssize_t)done;
	problem_errno(&x->problem, x->error, "memory: reading it");
	if (problem && !problem_is_set(problem))
		*problem = x->problem;
	return error_trace(x->error);
}
