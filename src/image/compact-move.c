/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact-move.c - the live pages of the chosen layers go into a new one
 *
 * For each slot of a chosen layer, `moved` says which slot of the new layer has its page. So pages
 * that share a slot share the new one, and identical pages of different layers come to share one
 * (frame-packer.c finds them). When all are moved, the new map is the old one with the slots
 * replaced.
 *
 *     image     gfn 0 1 2 3        chosen: 1 and 2    moved[1][0] = 1, moved[2][0] = 0
 *     before    layer 2 slot 0, layer 1 slot 0, layer 0 slot 0, layer 2 slot 0
 *     after     layer 3 slot 0, layer 3 slot 1, layer 0 slot 0, layer 3 slot 0
 *
 * The order in which pages are moved is the order in the new layer: first the working set, then the
 * rest, both in the order of the guest, which gives dense memory aligned frames again. A frame ends
 * with the set. So its pages are in the first frames of the layer and nothing else is, which is one
 * range of the file. A page of the set that lies in a layer which is not chosen stays there.
 *
 *     set 40..41, 90     guest 0..99 (one layer)     frames 40 41 90 | 0..15 | 16..31 | ...
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "image/compact-internal.h"
#include "image/frame-cache.h"
#include "image/frame-packer.h"
#include "image/image-commit.h"

#define NOT_MOVED	UINT32_MAX
#define CANCEL_PAGES	64u   /* how often a cancellation is looked for: every 4 frames */
#define PROGRESS_PAGES	4096u /* how often progress is told */
#define MEMORY_PER_SLOT sizeof(uint32_t)

struct move {
	struct image *image;
	const struct compact_layer *layers;
	const struct working_set *set;
	const struct compact_options *options;
	struct compact_stats *stats;
	struct frame_packer *packer;
	struct frame_cache *cache;
	uint32_t **moved; /* per layer, NULL of those that are not chosen; then per slot */
	uint64_t done, total;
};

static void move_deinit(struct move *m)
{
	for (uint32_t i = 0; m->moved && i < image_n_layers(m->image); i++)
		free(m->moved[i]);
	free(m->moved);
	frame_cache_free(m->cache);
	frame_packer_free(m->packer);
}

static int move_init(struct move *m, const struct image_draft *draft, struct problem *problem)
{
	const struct layer_options layer = {.codec = m->options->codec,
					    .level = m->options->level,
					    .key = draft->keys ? draft->layer_key : NULL};
	int r = frame_packer_new(draft->layers_dirfd, &layer, 0, problem, &m->packer);

	if (r == 0)
		r = frame_cache_new(m->image, &m->cache);
	if (r < 0)
		return r;
	m->moved = calloc(MAX(image_n_layers(m->image), 1u), sizeof(*m->moved));
	if (!m->moved)
		return -ENOMEM;
	for (uint32_t i = 0; i < image_n_layers(m->image); i++) {
		size_t bytes = (size_t)image_layer_frames(m->image, i) * IMAGE_FRAME_PAGES *
			       MEMORY_PER_SLOT;

		if (!m->layers[i].chosen)
			continue;
		m->moved[i] = malloc(bytes);
		if (!m->moved[i])
			return -ENOMEM;
		memset(m->moved[i], 0xff, bytes); /* NOT_MOVED */
	}
	return 0;
}

static bool is_chosen(const struct move *m, const struct page_run *run)
{
	return run->layer != IMAGE_LAYER_ZERO && m->layers[run->layer].chosen;
}

/* ---- moving -----------------------------------------------------------------------------------
 */

static int find_page(struct move *m, uint32_t layer, uint64_t slot, const uint8_t **ret,
		     struct problem *problem)
{
	const uint32_t frame = (uint32_t)(slot / IMAGE_FRAME_PAGES);
	const uint8_t *pages = frame_cache_find(m->cache, layer, frame);
	uint32_t n_pages;
	int r;

	if (!pages) {
		frame_packer_settle(m->packer); /* it may have pages of the frame that goes */
		r = frame_cache_read(m->cache, layer, frame, &pages, &n_pages, problem);
		if (r)
			return r;
		m->stats->bytes_read += n_pages * DORM_PAGE_SIZE;
	}
	*ret = pages + slot % IMAGE_FRAME_PAGES * DORM_PAGE_SIZE;
	return 0;
}

static bool is_cancelled(const struct move *m)
{
	return m->options->cancelled && m->options->cancelled(m->options->userdata);
}

static int advance(struct move *m, struct problem *problem)
{
	if (m->done % CANCEL_PAGES == 0 && is_cancelled(m)) {
		problem_set(problem, 409, "compaction: cancelled after %llu of %llu pages",
			    (unsigned long long)m->done, (unsigned long long)m->total);
		return -ECANCELED; /* no surprise: not traced */
	}
	m->done++;
	if (m->options->progress && (m->done % PROGRESS_PAGES == 0 || m->done == m->total))
		m->options->progress(m->options->userdata, m->done, m->total);
	return 0;
}

static int move_page(struct move *m, uint64_t gfn, uint32_t layer, uint64_t slot,
		     struct problem *problem)
{
	const uint8_t *page;
	int r = advance(m, problem);

	if (r < 0 || m->moved[layer][slot] != NOT_MOVED)
		return r;
	r = find_page(m, layer, slot, &page, problem);
	if (r)
		return r;
	r = frame_packer_put(m->packer, gfn, page, &m->moved[layer][slot], problem);
	if (r < 0)
		return r;
	m->stats->pages_moved++;
	return 0;
}

static int move_run(struct move *m, const struct page_run *run, struct problem *problem)
{
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < run->n_pages; i++)
		r = move_page(m, run->gfn + i, run->layer, run->slot + i, problem);
	return r;
}

/* For the progress: a page of the set is looked at twice. */
static uint64_t count_pages(const struct move *m)
{
	struct working_set_walk walk = {.set = m->set, .image = m->image};
	const struct page_map *map = &m->image->map;
	struct page_run run;
	uint64_t n = 0;

	while (working_set_next(&walk, &run))
		n += is_chosen(m, &run) ? run.n_pages : 0;
	for (size_t i = 0; i < map->n_runs; i++)
		n += is_chosen(m, &map->runs[i]) ? map->runs[i].n_pages : 0;
	return n;
}

static int move_set(struct move *m, struct problem *problem)
{
	struct working_set_walk walk = {.set = m->set, .image = m->image};
	struct page_run run;
	int r = 0;

	while (r == 0 && working_set_next(&walk, &run))
		if (is_chosen(m, &run))
			r = move_run(m, &run, problem);
	if (r == 0)
		r = frame_packer_end_frame(m->packer, problem);
	if (r == 0)
		m->stats->set_frames = frame_packer_frames(m->packer);
	return r;
}

/* What was moved is not moved again. */
static int move_all(struct move *m, struct problem *problem)
{
	const struct page_map *map = &m->image->map;
	int r;

	m->total = count_pages(m);
	r = move_set(m, problem);
	for (size_t i = 0; r == 0 && i < map->n_runs; i++)
		if (is_chosen(m, &map->runs[i]))
			r = move_run(m, &map->runs[i], problem);
	frame_packer_settle(m->packer);
	return r;
}

/* ---- the new image ----------------------------------------------------------------------------
 */

static int append_moved(const struct move *m, const struct page_run *run, struct page_map *map)
{
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < run->n_pages; i++)
		r = page_map_append(map, 1, image_n_layers(m->image),
				    m->moved[run->layer][run->slot + i]);
	return r;
}

static int make_map(const struct move *m, struct page_map *map)
{
	const struct page_map *old = &m->image->map;
	int r = 0;

	for (size_t i = 0; r == 0 && i < old->n_runs; i++) {
		const struct page_run *run = &old->runs[i];

		r = is_chosen(m, run) ? append_moved(m, run, map)
				      : page_map_append(map, run->n_pages, run->layer, run->slot);
	}
	return error_trace(r);
}

static void count_layers(struct move *m)
{
	m->stats->layers_before = image_n_layers(m->image);
	m->stats->layers_after = 1;
	for (uint32_t i = 0; i < image_n_layers(m->image); i++) {
		if (!m->layers[i].chosen) {
			m->stats->layers_after++;
			continue;
		}
		m->stats->layers_merged++;
		m->stats->bytes_dropped += image_layer_bytes(m->image, i);
	}
}

static int move_and_commit(struct move *m, struct image_draft *draft, char *ret_id,
			   struct problem *problem)
{
	uint64_t map_bytes;
	int r = image_begin_seal(draft, problem);

	if (r == 0)
		r = move_init(m, draft, problem);
	if (r == 0)
		r = move_all(m, problem);
	if (r == 0)
		r = frame_packer_finish(m->packer, &draft->layer, &m->stats->bytes_written,
					problem);
	if (r == 0)
		r = make_map(m, &draft->map);
	if (r == 0)
		r = image_commit(draft, ret_id, &map_bytes, problem);
	if (r == 0)
		count_layers(m);
	return r;
}

/* The same pages of the guest, under the id of the new image. */
static int put_set(struct working_set *set, int dirfd, const char *id, struct problem *problem)
{
	if (!set->n_runs)
		return 0;
	memcpy(set->image_id, id, sizeof(set->image_id));
	return working_set_write(dirfd, set, problem);
}

int compact_move(int dirfd, int src_dirfd, struct image *image, const struct compact_layer *layers,
		 struct working_set *set, const struct compact_options *options,
		 struct problem *problem, struct compact_stats *stats, char *ret_id)
{
	struct image_draft draft = {
		.dirfd = dirfd, .parent = image, .parent_dirfd = src_dirfd, .keys = options->keys};
	struct move m = {
		.image = image, .layers = layers, .set = set, .options = options, .stats = stats};
	int r;

	draft.layers_dirfd = file_open_dir(dirfd, "layers");
	if (draft.layers_dirfd < 0) {
		problem_errno(problem, draft.layers_dirfd, "layers: the directory for a new layer");
		return error_trace(draft.layers_dirfd);
	}
	r = move_and_commit(&m, &draft, ret_id, problem);
	if (r == 0)
		r = put_set(set, dirfd, ret_id, problem);
	move_deinit(&m);
	page_map_deinit(&draft.map);
	explicit_bzero(draft.layer_key, sizeof(draft.layer_key));
	fd_close(draft.layers_dirfd);
	return r;
}
