/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.c - an open image
 *
 * Opening joins the three levels of trust: the map's checksum covers the digests of the layers'
 * indexes, each index is checked against its digest and holds the tags of its frames, and a frame
 * is checked against its tag when it is read. So one altered bit anywhere is found either here or
 * at the read, and the image id, which is a digest of the map file, stands for all of it.
 *
 * A sealed image has a file "seal" beside the map, which authenticates the map and holds the
 * layers' keys. What an attacker could do without it is refused by one rule: with keys, everything
 * must be sealed; without, nothing may be (image_open_for_check() is the exception, and hands out
 * no page).
 *
 * After opening, the map and the indexes have been checked against each other: each slot that the
 * map names exists. That makes image_lookup() and image_frame_pages() plain arithmetic.
 */
#include "image/image.h"

#include <assert.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "image/image-internal.h"
#include "image/outcome.h"
#include "image/seal.h"

#define ull(_v) ((unsigned long long)(_v))

struct image *image_ref(struct image *image)
{
	(void)atomic_fetch_add_explicit(&image->refs, 1, memory_order_relaxed);
	return image;
}

struct image *image_unref(struct image *image)
{
	if (!image || atomic_fetch_sub_explicit(&image->refs, 1, memory_order_acq_rel) > 1)
		return NULL;
	for (uint32_t i = 0; i < image->n_layers; i++)
		layer_close(image->layers[i]);
	free(image->layers);
	free(image->names);
	if (image->keys)
		explicit_bzero(image->keys, image->n_keys * sizeof(*image->keys));
	free(image->keys);
	free(image->raw);
	page_map_deinit(&image->map);
	free(image);
	return NULL;
}

struct image *image_new(void)
{
	struct image *image = calloc(1, sizeof(*image));

	if (image)
		atomic_init(&image->refs, 1);
	return image;
}

int image_make_id(const void *map, size_t len, char ret[IMAGE_ID_LEN + 1])
{
	uint8_t digest[EVP_MAX_MD_SIZE];

	if (!EVP_Digest(map, len, digest, NULL, EVP_sha256(), NULL))
		return -ENOMEM; /* the only way in which hashing memory fails */
	str_hex(digest, IMAGE_ID_LEN / 2, ret);
	return 0;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

int image_read_map(int dirfd, const char *name, struct buf *ret, struct problem *problem)
{
	_cleanup_fd_ int fd = -1;
	uint64_t bytes;
	int r;

	r = plain_file_open(dirfd, name, name, problem, &fd, &bytes);
	if (r)
		return r;
	if (bytes > PAGE_MAP_MAX_BYTES)
		return image_corrupt(problem, "%s: %llu bytes, limit %u", name, ull(bytes),
				     PAGE_MAP_MAX_BYTES);
	r = buf_reserve(ret, (size_t)bytes + 1);
	if (r < 0)
		return error_trace(r);
	r = fd_pread_full(fd, ret->data, (size_t)bytes, 0);
	if (r < 0) {
		problem_errno(problem, r, "%s: reading %llu bytes", name, ull(bytes));
		return error_trace(r);
	}
	ret->len = (size_t)bytes;
	return 0;
}

int image_check_digest(const struct layer *l, const struct layer_name *name,
		       struct problem *problem)
{
	char want[DIGEST_LEN + 1], have[DIGEST_LEN + 1];

	if (!memcmp(layer_digest(l), name->digest, DIGEST_BYTES))
		return 0;
	str_hex(name->digest, DIGEST_BYTES, want);
	str_hex(layer_digest(l), DIGEST_BYTES, have);
	return image_corrupt(problem,
			     "layer %s: not the one that the map means (index digest 0x%s, "
			     "map says 0x%s)",
			     layer_id(l), have, want);
}

/* What to expect of the seal. */
struct opening {
	int dirfd;
	const struct keyring *keys;
	bool check_only; /* sealed or not, without keys */
};

/* Authenticate the map and unwrap the layers' keys, or make sure that there is nothing sealed. */
static int open_seal(struct image *image, const struct opening *o, const struct buf *map,
		     const struct layer_name *names, uint32_t n, struct problem *problem)
{
	_cleanup_(seal_deinit) struct seal seal = {0};
	int r = seal_open(o->dirfd, o->keys, o->check_only, problem, &seal);

	if (r)
		return r == SEAL_E_ABSENT ? 0 : r;
	image->sealed = true;
	if (o->keys) {
		r = seal_unwrap(&seal, o->keys, map->data, map->len, problem, &image->keys);
		image->n_keys = seal.n_layers;
	}
	return r ? r : seal_match(&seal, names, n, problem);
}

/* A layer that does not go with the others: with a key layer_open() has looked already. */
static int check_layer_seal(const struct image *image, const struct layer *l,
			    const struct opening *o, struct problem *problem)
{
	if (layer_is_sealed(l) == image->sealed)
		return 0;
	if (!o->check_only) {
		problem_set(problem, 403,
			    "layer %s: sealed, but the snapshot's file \"seal\" is missing",
			    layer_id(l));
		return IMAGE_E_KEY;
	}
	return image_corrupt(problem, "layer %s: %s, unlike the snapshot", layer_id(l),
			     image->sealed ? "not sealed" : "sealed");
}

static int open_layers(struct image *image, const struct opening *o, uint32_t n,
		       struct problem *problem)
{
	const struct layer_name *names = image->names;
	_cleanup_fd_ int layers_dirfd = -1;
	int r;

	if (n == 0)
		return 0;
	image->layers = calloc(n, sizeof(*image->layers));
	if (!image->layers)
		return -ENOMEM;
	r = plain_dir_open(o->dirfd, "layers", problem, &layers_dirfd);
	if (r)
		return r;
	for (uint32_t i = 0; i < n; i++) {
		r = layer_open(layers_dirfd, names[i].id, image->keys ? image->keys[i] : NULL,
			       problem, &image->layers[i]);
		if (r)
			return r;
		image->n_layers++;
		r = check_layer_seal(image, image->layers[i], o, problem);
		if (r == 0)
			r = image_check_digest(image->layers[i], &names[i], problem);
		if (r)
			return r;
	}
	return 0;
}

/* Does the layer have all the slots that @run names? Frames before the last must be full. */
static int check_run(const struct layer *l, const struct page_run *run, struct problem *problem)
{
	uint64_t slot = run->slot, end = run->slot + run->n_pages;

	while (slot < end) {
		uint64_t frame = slot / IMAGE_FRAME_PAGES;
		uint64_t frame_end = MIN((frame + 1) * IMAGE_FRAME_PAGES, end);

		if (frame >= layer_n_frames(l))
			return image_corrupt(problem,
					     "map: gfn %llu is in frame %llu of layer %s, "
					     "which has %u frames",
					     ull(run->gfn + slot - run->slot), ull(frame),
					     layer_id(l), layer_n_frames(l));
		if (frame_end - frame * IMAGE_FRAME_PAGES > layer_frame_pages(l, (uint32_t)frame))
			return image_corrupt(problem,
					     "map: gfn %llu is in frame %llu of layer %s, "
					     "beyond its %u pages",
					     ull(run->gfn + frame_end - 1 - run->slot), ull(frame),
					     layer_id(l), layer_frame_pages(l, (uint32_t)frame));
		slot = frame_end;
	}
	return 0;
}

int image_check_runs(const struct image *image, struct problem *problem)
{
	for (size_t i = 0; i < image->map.n_by_slot; i++) {
		const struct page_run *run = &image->map.runs[image->map.by_slot[i]];
		const struct layer *l = image->layers[run->layer];
		int r = layer_is_missing(l) ? 0 : check_run(l, run, problem);

		if (r)
			return r;
	}
	return 0;
}

static int open_image(const struct opening *o, struct problem *problem, struct image **ret)
{
	_cleanup_(image_unrefp) struct image *image = image_new();
	_cleanup_buf_ struct buf map = {0};
	uint32_t n_layers = 0;
	int r;

	if (!image)
		return -ENOMEM;
	r = image_read_map(o->dirfd, "map", &map, problem);
	if (r)
		return r;
	r = page_map_decode(map.data, map.len, problem, &image->map, &image->names, &n_layers);
	if (r)
		return error_trace(r);
	image->map_bytes = map.len;
	r = open_seal(image, o, &map, image->names, n_layers, problem);
	if (r)
		return error_trace(r);
	r = open_layers(image, o, n_layers, problem);
	if (r)
		return r;
	r = image_check_runs(image, problem);
	if (r)
		return r;
	r = image_make_id(map.data, map.len, image->id);
	if (r < 0)
		return error_trace(r);
	*ret = take_ptr(image);
	return 0;
}

static int open_or_say_why(const struct opening *o, struct problem *problem, struct image **ret)
{
	int r = open_image(o, problem, ret);

	if (r < 0)
		problem_errno(problem, r, "image: cannot be opened");
	return error_trace(r);
}

int image_open(int dirfd, const struct keyring *keys, struct problem *problem, struct image **ret)
{
	return open_or_say_why(&(struct opening){.dirfd = dirfd, .keys = keys}, problem, ret);
}

int image_open_for_check(int dirfd, struct problem *problem, struct image **ret)
{
	return open_or_say_why(&(struct opening){.dirfd = dirfd, .check_only = true}, problem, ret);
}

/* Its id is that of the map file it would have, so that content and id agree here as well. */
int image_open_zero(uint64_t n_pages, struct image **ret)
{
	_cleanup_(image_unrefp) struct image *image = image_new();
	_cleanup_buf_ struct buf map = {0};
	struct page_run shared;
	int r;

	if (n_pages == 0 || n_pages > IMAGE_MAX_PAGES)
		return -EINVAL;
	if (!image)
		return -ENOMEM;
	r = page_map_append(&image->map, n_pages, IMAGE_LAYER_ZERO, 0);
	if (r == 0)
		r = page_map_seal(&image->map, &shared);
	if (r == 0)
		r = page_map_encode(&image->map, NULL, 0, &map);
	if (r == 0)
		r = image_make_id(map.data, map.len, image->id);
	if (r < 0)
		return error_trace(r);
	*ret = take_ptr(image);
	return 0;
}

/* ---- asking -----------------------------------------------------------------------------------
 */

const char *image_id(const struct image *image)
{
	return image->id;
}

uint64_t image_n_pages(const struct image *image)
{
	return image->map.n_pages;
}

uint64_t image_stored_pages(const struct image *image)
{
	return image->map.stored_pages;
}

uint64_t image_map_bytes(const struct image *image)
{
	return image->map_bytes;
}

uint32_t image_n_layers(const struct image *image)
{
	return image->n_layers;
}

const char *image_layer_id(const struct image *image, uint32_t layer)
{
	assert(layer < image->n_layers);
	return layer_id(image->layers[layer]);
}

uint64_t image_layer_bytes(const struct image *image, uint32_t layer)
{
	assert(layer < image->n_layers);
	return layer_bytes(image->layers[layer]);
}

uint32_t image_layer_frames(const struct image *image, uint32_t layer)
{
	assert(layer < image->n_layers);
	return layer_n_frames(image->layers[layer]);
}

const uint8_t *image_layer_digest(const struct image *image, uint32_t layer)
{
	assert(layer < image->n_layers);
	return layer_digest(image->layers[layer]);
}

void image_lookup(const struct image *image, uint64_t gfn, struct page_run *ret)
{
	*ret = image->map.runs[page_map_find(&image->map, gfn)];
}

uint32_t image_frame_pages(const struct image *image, uint32_t layer, uint32_t frame,
			   struct frame_page out[IMAGE_FRAME_PAGES])
{
	const struct page_map *m = &image->map;
	const uint64_t first = (uint64_t)frame * IMAGE_FRAME_PAGES, end = first + IMAGE_FRAME_PAGES;
	uint32_t n = 0;

	for (size_t i = page_map_find_slot(m, layer, first); i < m->n_by_slot; i++) {
		const struct page_run *run = &m->runs[m->by_slot[i]];

		if (run->layer != layer || run->slot >= end)
			break;
		for (uint64_t slot = MAX(run->slot, first);
		     slot < MIN(run->slot + run->n_pages, end); slot++)
			out[n++] = (struct frame_page){.gfn = run->gfn + slot - run->slot,
						       .index = (uint32_t)(slot - first)};
	}
	return n;
}

int image_read_frame(const struct image *image, uint32_t layer, uint32_t frame, void *scratch,
		     void *out, uint32_t *ret_n_pages, struct problem *problem)
{
	assert(layer < image->n_layers);
	return layer_read_frame(image->layers[layer], frame, scratch, out, ret_n_pages, problem);
}

int image_read_frame_nowait(const struct image *image, uint32_t layer, uint32_t frame,
			    void *scratch, void *out, uint32_t *ret_n_pages,
			    struct problem *problem)
{
	assert(layer < image->n_layers);
	return layer_read_frame_nowait(image->layers[layer], frame, scratch, out, ret_n_pages,
				       problem);
}

void image_frame_extent(const struct image *image, uint32_t layer, uint32_t frame,
			struct frame_extent *ret)
{
	struct layer *l;

	assert(layer < image->n_layers);
	l = image->layers[layer];
	if (layer_is_missing(l)) {
		*ret = (struct frame_extent){.fd = -1, .direct_fd = -1};
		return;
	}
	*ret = (struct frame_extent){.fd = layer_fd(l),
				     .direct_fd = layer_direct_fd(l),
				     .offset = layer_frame_offset(l, frame),
				     .stored_bytes = layer_frame_bytes(l, frame),
				     .plain = layer_frame_is_plain(l, frame)};
}

int image_decode_frame(const struct image *image, uint32_t layer, uint32_t frame,
		       const void *stored, void *out, uint32_t *ret_n_pages,
		       struct problem *problem)
{
	assert(layer < image->n_layers);
	return layer_decode_frame(image->layers[layer], frame, stored, out, ret_n_pages, problem);
}

int image_read_page(const struct image *image, uint64_t gfn, void *out, struct problem *problem)
{
	_cleanup_free_ uint8_t *frame = NULL;
	struct page_run run;
	uint64_t slot;
	uint32_t n_pages;
	int r;

	image_lookup(image, gfn, &run);
	if (run.layer == IMAGE_LAYER_ZERO) {
		memset(out, 0, DORM_PAGE_SIZE);
		return 0;
	}
	frame = aligned_alloc(DORM_PAGE_SIZE, 2 * IMAGE_FRAME_BYTES + DORM_PAGE_SIZE);
	if (!frame)
		return -ENOMEM;
	slot = run.slot + gfn - run.gfn;
	r = image_read_frame(image, run.layer, (uint32_t)(slot / IMAGE_FRAME_PAGES),
			     frame + IMAGE_FRAME_BYTES, frame, &n_pages, problem);
	if (r)
		return r;
	memcpy(out, frame + slot % IMAGE_FRAME_PAGES * DORM_PAGE_SIZE, DORM_PAGE_SIZE);
	return 0;
}

uint64_t image_owner(const struct image *image, uint32_t layer, uint64_t slot)
{
	return page_map_owner(&image->map, layer, slot);
}

int image_check_frame(const struct image *image, uint32_t layer, uint32_t frame, void *scratch,
		      struct problem *problem)
{
	assert(layer < image->n_layers);
	return layer_check_frame(image->layers[layer], frame, scratch, problem);
}

struct live {
	uint64_t frame; /* the one that is being counted */
	uint32_t in_frame;
	uint32_t frames;
	uint64_t pages;
	uint64_t bytes;
};

/* The frame is counted: of its bytes, the share of its pages that are live. */
static void add_live_frame(const struct layer *l, struct live *live)
{
	const uint32_t frame = (uint32_t)live->frame;

	if (!live->in_frame)
		return;
	live->frames++;
	live->pages += live->in_frame;
	if (!layer_is_missing(l)) /* of a base; nothing is stored here then */
		live->bytes += (uint64_t)layer_frame_bytes(l, frame) * live->in_frame /
			       layer_frame_pages(l, frame);
	live->in_frame = 0;
}

/* Owners are ordered by slot, so each frame's pages follow each other. */
void image_layer_live(const struct image *image, uint32_t layer, uint32_t *ret_frames,
		      uint64_t *ret_pages, uint64_t *ret_stored_bytes)
{
	const struct page_map *m = &image->map;
	const struct layer *l = image->layers[layer];
	struct live live = {0};

	for (size_t i = page_map_find_slot(m, layer, 0); i < m->n_by_slot; i++) {
		const struct page_run *run = &m->runs[m->by_slot[i]];
		uint64_t slot = run->slot, end = run->slot + run->n_pages;

		if (run->layer != layer)
			break;
		while (slot < end) {
			uint64_t frame = slot / IMAGE_FRAME_PAGES;
			uint64_t next = MIN(end, (frame + 1) * IMAGE_FRAME_PAGES);

			if (frame != live.frame)
				add_live_frame(l, &live);
			live.frame = frame;
			live.in_frame += (uint32_t)(next - slot);
			slot = next;
		}
	}
	add_live_frame(l, &live);
	*ret_frames = live.frames;
	*ret_pages = live.pages;
	*ret_stored_bytes = live.bytes;
}

bool image_is_sealed(const struct image *image)
{
	return image->sealed;
}
