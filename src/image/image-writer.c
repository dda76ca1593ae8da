/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image-writer.c - a new image as the difference from its parent
 *
 * The new map is built front to back while pages arrive. `map` always covers gfn 0 .. next-1:
 * whatever is skipped keeps the parent's source (copy_parent()), and each page that is given
 * becomes zero, or the parent's source when its content is the same, or the next slot of the new
 * layer.
 *
 * Frames. Pages collect in `frame`; a slot is known as soon as its page is added, because frames
 * are numbered in order. A frame closes when it has 16 pages, or at a boundary of 64 KiB of guest
 * memory when it has 8 or more. So dense memory is stored in frames that are aligned blocks of the
 * guest, which is what one fault loads, and scattered pages do not waste frames.
 *
 * Layer numbers in `map` are the parent's while it is built, and n for the new layer where the
 * parent has n. At commit only the layers that are still referred to keep a number and get a link.
 *
 * Pages in the parent's frames are compared one frame at a time: gfns ascend, so the frame that was
 * decoded for the last page usually serves the next as well.
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
#include "base/id.h"
#include "base/str.h"
#include "image/image-internal.h"
#include "image/layer-writer.h"
#include "image/outcome.h"
#include "image/seal.h"

#define CLOSE_AT_BOUNDARY 8u /* pages that make a frame worth closing at 64 KiB of guest memory */
#define NO_LAYER	  UINT32_MAX

struct image_writer {
	int dirfd; /* ours, duplicated */
	int layers_dirfd;
	int parent_dirfd; /* ours, duplicated; -1 without */
	struct image *parent;
	struct image_writer_options options;
	struct image_writer_stats stats;
	int error; /* the first failure; the writer is of no more use */
	bool committed;

	struct page_map map;
	size_t parent_run; /* the parent's run that gfn map.n_pages lies in, or one before it */

	uint8_t layer_id[LAYER_ID_BYTES];
	uint8_t layer_key[LAYER_KEY_BYTES]; /* with options.keys */
	struct layer_writer *layer;	    /* NULL until the first frame is full */
	uint8_t layer_digest[DIGEST_BYTES];
	uint32_t n_frames;
	uint32_t frame_pages; /* pages in frame[] */
	uint64_t frame_block; /* 64 KiB block of the guest that the last of them is in */

	/* the last decoded frame of the parent */
	uint32_t cached_layer;
	uint32_t cached_frame;

	/* buffers, in one aligned allocation */
	uint8_t *frame;	  /* IMAGE_FRAME_BYTES */
	uint8_t *cached;  /* IMAGE_FRAME_BYTES */
	uint8_t *scratch; /* IMAGE_FRAME_BYTES + 4096 */
};

struct image_writer *image_writer_free(struct image_writer *w)
{
	if (!w)
		return NULL;
	layer_writer_free(w->layer);
	explicit_bzero(w->layer_key, sizeof(w->layer_key));
	page_map_deinit(&w->map);
	image_unref(w->parent);
	fd_close(w->dirfd);
	fd_close(w->layers_dirfd);
	fd_close(w->parent_dirfd);
	free(w->frame);
	free(w);
	return NULL;
}

/* ---- the seal ---------------------------------------------------------------------------------
 */

/* A snapshot is sealed as a whole: layers of both kinds do not mix. */
static int begin_seal(struct image_writer *w, struct problem *problem)
{
	const struct image *parent = w->parent;

	if (parent->n_layers && parent->sealed && !parent->keys) {
		problem_set(problem, 400,
			    "image: the parent is sealed, and open for checking only");
		return error_trace(-EINVAL);
	}
	if (parent->n_layers && parent->sealed != !!w->options.keys) {
		problem_set(problem, 400,
			    "image: the parent is %s, so what is built on it must be too",
			    parent->sealed ? "sealed" : "not sealed");
		return error_trace(-EINVAL);
	}
	return w->options.keys ? seal_new_key(w->layer_key) : 0;
}

/* The keys of the layers that have a number, in that order, beside the map. */
static int write_seal(struct image_writer *w, const struct layer_name *names,
		      const uint32_t *number, uint32_t n_used, const struct buf *map,
		      struct problem *problem)
{
	const uint32_t n = image_n_layers(w->parent) + 1;
	uint8_t(*keys)[LAYER_KEY_BYTES] = calloc(n, sizeof(*keys));
	int r;

	if (!keys)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++)
		if (number[i] != NO_LAYER)
			memcpy(keys[number[i]], i < n - 1 ? w->parent->keys[i] : w->layer_key,
			       LAYER_KEY_BYTES);
	r = seal_write(w->dirfd, w->options.keys, names, keys, n_used, map->data, map->len,
		       problem);
	explicit_bzero(keys, n * sizeof(*keys));
	free(keys);
	return r;
}

static int duplicate(int fd, int *ret)
{
	*ret = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return *ret < 0 ? error_errno() : 0;
}

static int open_directories(struct image_writer *w, int dirfd, int parent_dirfd,
			    struct problem *problem)
{
	int r = duplicate(dirfd, &w->dirfd);

	if (r == 0 && parent_dirfd >= 0)
		r = duplicate(parent_dirfd, &w->parent_dirfd);
	if (r == 0 && mkdirat(dirfd, "layers", 0755) < 0 && errno != EEXIST)
		r = error_errno();
	if (r == 0) {
		w->layers_dirfd = file_open_dir(dirfd, "layers");
		r = MIN(w->layers_dirfd, 0);
	}
	if (r < 0)
		problem_errno(problem, r, "layers: the directory for a new layer");
	return r;
}

static int allocate_buffers(struct image_writer *w)
{
	w->frame = aligned_alloc(DORM_PAGE_SIZE, 3 * IMAGE_FRAME_BYTES + DORM_PAGE_SIZE);
	if (!w->frame)
		return -ENOMEM;
	w->cached = w->frame + IMAGE_FRAME_BYTES;
	w->scratch = w->cached + IMAGE_FRAME_BYTES;
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
	w->dirfd = w->layers_dirfd = w->parent_dirfd = -1;
	w->cached_layer = NO_LAYER;
	w->parent = image_ref(parent);
	w->options = options ? *options : (struct image_writer_options){.codec = IMAGE_CODEC_ZSTD};
	id_random(w->layer_id, sizeof(w->layer_id));
	r = begin_seal(w, problem);
	if (r == 0)
		r = open_directories(w, dirfd, parent_dirfd, problem);
	if (r == 0)
		r = allocate_buffers(w);
	if (r < 0) {
		problem_errno(problem, r, "image: beginning to write it");
		return error_trace(r);
	}
	*ret = take_ptr(w);
	return 0;
}

/* ---- the map ----------------------------------------------------------------------------------
 */

/* The parent's run that gfn map.n_pages lies in. Gfns only ascend, so the walk is short. */
static const struct page_run *parent_run(struct image_writer *w)
{
	const struct page_map *m = &w->parent->map;
	uint64_t gfn = w->map.n_pages;

	while (gfn >= m->runs[w->parent_run].gfn + m->runs[w->parent_run].n_pages)
		w->parent_run++;
	return &m->runs[w->parent_run];
}

/* Keep the parent's sources of all pages before @end. */
static int copy_parent(struct image_writer *w, uint64_t end)
{
	while (w->map.n_pages < end) {
		const struct page_run *run = parent_run(w);
		uint64_t skip = w->map.n_pages - run->gfn;
		uint64_t n = MIN(run->n_pages - skip, end - w->map.n_pages);
		int r = page_map_append(&w->map, n, run->layer, run->slot + skip);

		if (r < 0)
			return error_trace(r);
	}
	return 0;
}

/* ---- the new layer ----------------------------------------------------------------------------
 */

static int close_frame(struct image_writer *w, struct problem *problem)
{
	int r;

	if (!w->layer) {
		const struct layer_options options = {.codec = w->options.codec,
						      .level = w->options.level,
						      .key = w->options.keys ? w->layer_key : NULL};

		r = layer_writer_new(w->layers_dirfd, w->layer_id, &options, problem, &w->layer);
		if (r < 0)
			return r;
	}
	r = layer_writer_add(w->layer, w->frame, w->frame_pages, problem);
	if (r < 0)
		return r;
	w->n_frames++;
	w->frame_pages = 0;
	return 0;
}

static int store_page(struct image_writer *w, uint64_t gfn, const void *page,
		      struct problem *problem)
{
	const uint64_t block = gfn / IMAGE_FRAME_PAGES;
	int r;

	if (w->frame_pages >= CLOSE_AT_BOUNDARY && block != w->frame_block) {
		r = close_frame(w, problem);
		if (r < 0)
			return r;
	}
	memcpy(w->frame + w->frame_pages * DORM_PAGE_SIZE, page, DORM_PAGE_SIZE);
	r = page_map_append(&w->map, 1, image_n_layers(w->parent),
			    (uint64_t)w->n_frames * IMAGE_FRAME_PAGES + w->frame_pages);
	if (r < 0)
		return error_trace(r);
	w->stats.pages_stored++;
	w->frame_block = block;
	return ++w->frame_pages == IMAGE_FRAME_PAGES ? close_frame(w, problem) : 0;
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

/* Is @page, the next one of the map, what the parent has there? The parent's is not zero. */
static int equals_parent(struct image_writer *w, const struct page_run *run, const void *page,
			 bool *ret, struct problem *problem)
{
	uint64_t slot = run->slot + (w->map.n_pages - run->gfn);
	uint32_t frame = (uint32_t)(slot / IMAGE_FRAME_PAGES), n_pages;
	int r;

	if (w->cached_layer != run->layer || w->cached_frame != frame) {
		w->cached_layer = NO_LAYER;
		r = image_read_frame(w->parent, run->layer, frame, w->scratch, w->cached, &n_pages,
				     problem);
		if (r)
			return r;
		w->cached_layer = run->layer;
		w->cached_frame = frame;
	}
	*ret = !memcmp(page, w->cached + slot % IMAGE_FRAME_PAGES * DORM_PAGE_SIZE, DORM_PAGE_SIZE);
	return 0;
}

static int add_page(struct image_writer *w, uint64_t gfn, const void *page, struct problem *problem)
{
	const struct page_run *run = parent_run(w);
	bool same = false;
	int r;

	w->stats.pages_given++;
	if (page_is_zero(page)) {
		w->stats.pages_zero++;
		return page_map_append(&w->map, 1, IMAGE_LAYER_ZERO, 0);
	}
	if (run->layer != IMAGE_LAYER_ZERO) {
		r = equals_parent(w, run, page, &same, problem);
		if (r)
			return r;
	}
	if (!same)
		return store_page(w, gfn, page, problem);
	w->stats.pages_unchanged++;
	return copy_parent(w, gfn + 1);
}

static int check_range(const struct image_writer *w, uint64_t gfn, uint64_t n_pages,
		       struct problem *problem)
{
	uint64_t limit = image_n_pages(w->parent);

	if (gfn >= w->map.n_pages && gfn <= limit && n_pages <= limit - gfn)
		return 0;
	problem_set(
		problem, 500,
		"image: pages %llu (and %llu more) given out of order or beyond the %llu there are",
		(unsigned long long)gfn, (unsigned long long)n_pages, (unsigned long long)limit);
	return error_trace(-EINVAL);
}

static int add(struct image_writer *w, uint64_t gfn, uint64_t n_pages, const uint8_t *pages,
	       struct problem *problem)
{
	int r = check_range(w, gfn, n_pages, problem);

	if (r == 0)
		r = copy_parent(w, gfn);
	for (uint64_t i = 0; r == 0 && i < n_pages; i++)
		r = add_page(w, gfn + i, pages + i * DORM_PAGE_SIZE, problem);
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

static int finish_layer(struct image_writer *w, struct problem *problem)
{
	int r;

	r = w->frame_pages ? close_frame(w, problem) : 0;
	if (r < 0 || !w->layer)
		return r;
	return layer_writer_commit(w->layer, w->layer_digest, &w->stats.bytes_stored, problem);
}

/* Give the layers that the map uses the numbers 0, 1, ... in their old order. */
static uint32_t renumber_layers(struct image_writer *w, uint32_t *number, uint32_t n)
{
	uint32_t next = 0;

	for (uint32_t i = 0; i < n; i++)
		number[i] = NO_LAYER;
	for (size_t i = 0; i < w->map.n_runs; i++)
		if (w->map.runs[i].layer != IMAGE_LAYER_ZERO)
			number[w->map.runs[i].layer] = 0;
	for (uint32_t i = 0; i < n; i++)
		if (number[i] != NO_LAYER)
			number[i] = next++;
	for (size_t i = 0; i < w->map.n_runs; i++)
		if (w->map.runs[i].layer != IMAGE_LAYER_ZERO)
			w->map.runs[i].layer = number[w->map.runs[i].layer];
	return next;
}

static int link_layer(struct image_writer *w, int from_dirfd, uint32_t layer,
		      struct problem *problem)
{
	const char *name = image_layer_id(w->parent, layer);
	int r = plain_file_link(from_dirfd, w->layers_dirfd, name);

	if (r == -ENOENT) {
		problem_set(problem, 500, "layer %s: gone from the parent's directory", name);
		problem_hint(problem, "was the parent deleted while this was written? try again");
	} else if (r < 0) {
		problem_errno(problem, r, "layer %s: cannot be linked", name);
	}
	return error_trace(r);
}

/* Link and name the parent's layers that have a number. */
static int keep_layers(struct image_writer *w, const uint32_t *number, struct layer_name *names,
		       struct problem *problem)
{
	_cleanup_fd_ int from_dirfd = -1;
	int r;

	for (uint32_t i = 0; i < image_n_layers(w->parent); i++) {
		if (number[i] == NO_LAYER)
			continue;
		if (from_dirfd < 0) {
			from_dirfd = file_open_dir(w->parent_dirfd, "layers");
			if (from_dirfd < 0) {
				problem_errno(problem, from_dirfd,
					      "layers: the parent's directory");
				return error_trace(from_dirfd);
			}
		}
		r = link_layer(w, from_dirfd, i, problem);
		if (r < 0)
			return r;
		r = str_unhex(image_layer_id(w->parent, i), names[number[i]].id, LAYER_ID_BYTES);
		assert(r == 0); /* we made this text from bytes */
		memcpy(names[number[i]].digest, image_layer_digest(w->parent, i), DIGEST_BYTES);
	}
	return 0;
}

static int write_map(struct image_writer *w, const struct layer_name *names, const uint32_t *number,
		     uint32_t n, char *ret_id, struct problem *problem)
{
	_cleanup_buf_ struct buf map = {0};
	int r;

	r = page_map_encode(&w->map, names, n, &map);
	if (r == -EFBIG)
		problem_set(problem, 500,
			    "map: %zu runs do not fit into its %u bytes: the memory is "
			    "too fragmented",
			    w->map.n_runs, PAGE_MAP_MAX_BYTES);
	if (r < 0)
		return error_trace(r);
	r = image_make_id(map.data, map.len, ret_id);
	if (r == 0 && w->options.keys)
		r = write_seal(w, names, number, n, &map, problem);
	if (r < 0)
		return error_trace(r);
	if (fsync(w->layers_dirfd) < 0) {
		r = error_errno();
		problem_errno(problem, r, "layers: fsync");
		return r;
	}
	r = file_write_atomic(w->dirfd, "map", map.data, map.len, 0444); /* syncs dirfd as well */
	if (r < 0)
		problem_errno(problem, r, "map: writing %zu bytes", map.len);
	w->stats.map_bytes = map.len;
	return error_trace(r);
}

static int commit(struct image_writer *w, char *ret_id, struct problem *problem)
{
	const uint32_t n = image_n_layers(w->parent) + 1; /* the last is the new one */
	_cleanup_free_ struct layer_name *names = calloc(n, sizeof(*names));
	_cleanup_free_ uint32_t *number = calloc(n, sizeof(*number));
	uint32_t n_used;
	int r;

	if (!names || !number)
		return -ENOMEM;
	r = copy_parent(w, image_n_pages(w->parent));
	if (r < 0)
		return error_trace(r);
	r = finish_layer(w, problem);
	if (r < 0)
		return r;
	n_used = renumber_layers(w, number, n);
	if (n_used > PAGE_MAP_MAX_LAYERS) {
		problem_set(problem, 500, "image: more than %u layers", PAGE_MAP_MAX_LAYERS);
		return error_trace(-E2BIG);
	}
	r = keep_layers(w, number, names, problem);
	if (r < 0)
		return r;
	if (number[n - 1] != NO_LAYER) {
		memcpy(names[number[n - 1]].id, w->layer_id, LAYER_ID_BYTES);
		memcpy(names[number[n - 1]].digest, w->layer_digest, DIGEST_BYTES);
	}
	return write_map(w, names, number, n_used, ret_id, problem);
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
