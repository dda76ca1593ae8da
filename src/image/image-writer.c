/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image-writer.c - a new image as the difference from its parent
 *
 * Each page that is given is one of four things: zero; what the parent has there, then nothing is
 * noted; what was stored before, then it shares that slot; or a new page, which frame-packer.c puts
 * into the new layer in the order of the calls. given-pages.c notes what is not the parent's.
 * At commit, both are merged into the new map in the order of gfn, and image-commit.c does the
 * rest.
 *
 *     parent   gfn 0..99 at layer 0, slot 0..99
 *     given    40 zero, 7 new, 8 as before, 90 the same as 7
 *     noted    40: zero, 7: slot 0, 90: slot 0
 *     map      0..6 of layer 0; 7 at slot 0 of layer 1; 8..39 of layer 0; 40 zero; 41..89 of
 *              layer 0; 90 at slot 0 of layer 1; 91..99 of layer 0
 *
 * Pages in the parent's frames are compared one frame at a time: within a sequence of ascending
 * gfns, the frame that was decoded for the last page usually serves the next as well.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "image/frame-packer.h"
#include "image/given-pages.h"
#include "image/image-commit.h"
#include "image/outcome.h"

#define NO_LAYER UINT32_MAX

struct image_writer {
	struct image_draft draft; /* its descriptors are ours, the parent is a reference */
	struct image_writer_options options;
	struct image_writer_stats stats;
	int error; /* the first failure; the writer is of no more use */
	bool committed;

	struct given_pages given;
	struct frame_packer *packer;
	size_t parent_run; /* the parent's run that was asked for last */

	/* the last decoded frame of the parent */
	uint32_t cached_layer;
	uint32_t cached_frame;
	uint8_t *cached;  /* IMAGE_FRAME_BYTES, and after it */
	uint8_t *scratch; /* IMAGE_FRAME_BYTES + 4096 */
};

struct image_writer *image_writer_free(struct image_writer *w)
{
	if (!w)
		return NULL;
	frame_packer_free(w->packer);
	explicit_bzero(w->draft.layer_key, sizeof(w->draft.layer_key));
	given_pages_deinit(&w->given);
	page_map_deinit(&w->draft.map);
	image_unref(w->draft.parent);
	fd_close(w->draft.dirfd);
	fd_close(w->draft.layers_dirfd);
	fd_close(w->draft.parent_dirfd);
	free(w->cached);
	free(w);
	return NULL;
}

static int duplicate(int fd, int *ret)
{
	*ret = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return *ret < 0 ? error_errno() : 0;
}

static int open_directories(struct image_draft *d, int dirfd, int parent_dirfd,
			    struct problem *problem)
{
	int r = duplicate(dirfd, &d->dirfd);

	if (r == 0 && parent_dirfd >= 0)
		r = duplicate(parent_dirfd, &d->parent_dirfd);
	if (r == 0 && mkdirat(dirfd, "layers", 0755) < 0 && errno != EEXIST)
		r = error_errno();
	if (r == 0) {
		d->layers_dirfd = file_open_dir(dirfd, "layers");
		r = MIN(d->layers_dirfd, 0);
	}
	if (r < 0)
		problem_errno(problem, r, "layers: the directory for a new layer");
	return r;
}

static int prepare(struct image_writer *w, struct problem *problem)
{
	struct layer_options layer = {.codec = w->options.codec, .level = w->options.level};
	int r = image_begin_seal(&w->draft, problem);

	if (r < 0)
		return r;
	layer.key = w->draft.keys ? w->draft.layer_key : NULL;
	r = given_pages_init(&w->given, image_n_pages(w->draft.parent));

	if (r == 0)
		r = frame_packer_new(w->draft.layers_dirfd, &layer, w->options.frame_pages, problem,
				     &w->packer);
	if (r < 0)
		return r;
	w->cached = aligned_alloc(DORM_PAGE_SIZE, 2 * IMAGE_FRAME_BYTES + DORM_PAGE_SIZE);
	if (!w->cached)
		return -ENOMEM;
	w->scratch = w->cached + IMAGE_FRAME_BYTES;
	w->cached_layer = NO_LAYER;
	return 0;
}

int image_writer_new(int dirfd, struct image *parent, int parent_dirfd,
		     const struct image_writer_options *options, struct problem *problem,
		     struct image_writer **ret)
{
	_cleanup_(image_writer_freep) struct image_writer *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	w->draft.dirfd = w->draft.layers_dirfd = w->draft.parent_dirfd = -1;
	w->draft.parent = image_ref(parent);
	w->options = options ? *options : (struct image_writer_options){.codec = IMAGE_CODEC_ZSTD};
	w->draft.keys = w->options.keys;
	r = open_directories(&w->draft, dirfd, parent_dirfd, problem);
	if (r == 0)
		r = prepare(w, problem);
	if (r < 0) {
		problem_errno(problem, r, "image: beginning to write it");
		return error_trace(r);
	}
	*ret = take_ptr(w);
	return 0;
}

/* ---- comparing --------------------------------------------------------------------------------
 */

static bool page_is_zero(const void *page)
{
	uint64_t first;

	memcpy(&first, page, sizeof(first));
	return first == 0 &&
	       !memcmp(page, (const uint8_t *)page + sizeof(first), DORM_PAGE_SIZE - sizeof(first));
}

/* The parent's run that @gfn lies in: mostly the one of the last page, or the next one. */
static const struct page_run *parent_run(struct image_writer *w, uint64_t gfn)
{
	const struct page_map *m = &w->draft.parent->map;

	for (unsigned step = 0; step < 2 && w->parent_run < m->n_runs; step++, w->parent_run++)
		if (gfn - m->runs[w->parent_run].gfn < m->runs[w->parent_run].n_pages)
			return &m->runs[w->parent_run];
	w->parent_run = page_map_find(m, gfn);
	return &m->runs[w->parent_run];
}

/* Is @page what the parent has there? The parent's is not zero. */
static int equals_parent(struct image_writer *w, const struct page_run *run, uint64_t gfn,
			 const void *page, bool *ret, struct problem *problem)
{
	uint64_t slot = run->slot + (gfn - run->gfn);
	uint32_t frame = (uint32_t)(slot / IMAGE_FRAME_PAGES), n_pages;
	int r;

	if (w->cached_layer != run->layer || w->cached_frame != frame) {
		w->cached_layer = NO_LAYER;
		r = image_read_frame(w->draft.parent, run->layer, frame, w->scratch, w->cached,
				     &n_pages, problem);
		if (r)
			return r;
		w->cached_layer = run->layer;
		w->cached_frame = frame;
	}
	*ret = !memcmp(page, w->cached + slot % IMAGE_FRAME_PAGES * DORM_PAGE_SIZE, DORM_PAGE_SIZE);
	return 0;
}

/* ---- adding -----------------------------------------------------------------------------------
 */

static int store_page(struct image_writer *w, uint64_t gfn, const uint8_t *page,
		      struct problem *problem)
{
	uint32_t slot;
	int r = frame_packer_put(w->packer, gfn, page, &slot, problem);

	if (r < 0)
		return r;
	if (r)
		w->stats.pages_shared++;
	else
		w->stats.pages_stored++;
	return given_pages_append(&w->given, gfn, slot);
}

static int add_page(struct image_writer *w, uint64_t gfn, const uint8_t *page,
		    struct problem *problem)
{
	const struct page_run *run = parent_run(w, gfn);
	const bool zero = page_is_zero(page);
	bool same = zero;
	int r;

	w->stats.pages_given++;
	w->stats.pages_zero += zero;
	if (zero && run->layer != IMAGE_LAYER_ZERO)
		return given_pages_append(&w->given, gfn, GIVEN_ZERO);
	if (run->layer != IMAGE_LAYER_ZERO) {
		r = equals_parent(w, run, gfn, page, &same, problem);
		if (r)
			return r;
	}
	if (!same)
		return store_page(w, gfn, page, problem);
	w->stats.pages_unchanged += !zero;
	return 0;
}

static int check_range(const struct image_writer *w, uint64_t gfn, uint64_t n_pages,
		       struct problem *problem)
{
	uint64_t limit = image_n_pages(w->draft.parent);

	if (gfn <= limit && n_pages <= limit - gfn)
		return 0;
	problem_set(problem, 500, "image: pages %llu (and %llu more) are beyond the %llu there are",
		    (unsigned long long)gfn, (unsigned long long)n_pages,
		    (unsigned long long)limit);
	return error_trace(-EINVAL);
}

static int mark(struct image_writer *w, uint64_t gfn, struct problem *problem)
{
	if (given_pages_mark(&w->given, gfn))
		return 0;
	problem_set(problem, 500, "image: page %llu was given twice", (unsigned long long)gfn);
	return error_trace(-EINVAL);
}

static int add(struct image_writer *w, uint64_t gfn, uint64_t n_pages, const uint8_t *pages,
	       struct problem *problem)
{
	int r = check_range(w, gfn, n_pages, problem);

	for (uint64_t i = 0; r == 0 && i < n_pages; i++) {
		r = mark(w, gfn + i, problem);
		if (r == 0)
			r = add_page(w, gfn + i, pages + i * DORM_PAGE_SIZE, problem);
	}
	frame_packer_settle(w->packer);
	return r;
}

int image_writer_add(struct image_writer *w, uint64_t gfn, uint64_t n_pages, const void *pages,
		     struct problem *problem)
{
	assert(!w->committed);
	if (!w->error)
		w->error = add(w, gfn, n_pages, pages, problem);
	if (w->error < 0)
		problem_errno(problem, w->error, "image: adding pages from gfn %llu on",
			      (unsigned long long)gfn);
	return error_trace(w->error);
}

/* ---- committing -------------------------------------------------------------------------------
 */

/* Append the parent's sources of all pages before @end to the map. */
static int copy_parent(struct image_writer *w, uint64_t end)
{
	struct page_map *map = &w->draft.map;

	while (map->n_pages < end) {
		const struct page_run *run = parent_run(w, map->n_pages);
		uint64_t skip = map->n_pages - run->gfn;
		uint64_t n = MIN(run->n_pages - skip, end - map->n_pages);
		int r = page_map_append(map, n, run->layer, run->slot + skip);

		if (r < 0)
			return error_trace(r);
	}
	return 0;
}

static int make_map(struct image_writer *w)
{
	const uint32_t new_layer = image_n_layers(w->draft.parent);
	int r = given_pages_sort(&w->given);

	for (size_t i = 0; r == 0 && i < w->given.n_runs; i++) {
		const struct given_run *run = &w->given.runs[i];

		r = copy_parent(w, run->gfn);
		if (r == 0)
			r = page_map_append(&w->draft.map, run->n_pages,
					    run->slot == GIVEN_ZERO ? IMAGE_LAYER_ZERO : new_layer,
					    run->slot);
	}
	return r < 0 ? error_trace(r) : copy_parent(w, image_n_pages(w->draft.parent));
}

static int commit(struct image_writer *w, char *ret_id, struct problem *problem)
{
	int r = frame_packer_finish(w->packer, &w->draft.layer, &w->stats.bytes_stored, problem);

	if (r == 0)
		r = make_map(w);
	return r < 0 ? r : image_commit(&w->draft, ret_id, &w->stats.map_bytes, problem);
}

int image_writer_commit(struct image_writer *w, struct image_writer_stats *ret_stats,
			char ret_id[IMAGE_ID_LEN + 1], struct problem *problem)
{
	char id[IMAGE_ID_LEN + 1];
	int r;

	assert(!w->committed);
	if (!w->error)
		w->error = commit(w, id, problem);
	if (w->error) {
		/* the parent's corruption was add()'s outcome; commit has only errors */
		r = w->error > 0 ? -EBADMSG : w->error;
		problem_errno(problem, r, "image: writing it");
		return error_trace(r);
	}
	w->committed = true;
	*ret_stats = w->stats;
	memcpy(ret_id, id, sizeof(id));
	return 0;
}
