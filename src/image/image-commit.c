/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image-commit.c - from a draft to an image on disk
 *
 * A map under construction numbers layers as its parent does. Only those that it still refers to
 * keep a number and get a link, so a layer goes away with the last snapshot that needs it.
 *
 *     the parent's layers 0 1 2, the new one 3; nothing refers to 1 any more:  0 -> 0, 2 -> 1, 3 ->
 * 2
 */
#include "image/image-commit.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/plain-file.h"
#include "image/seal.h"

#define NO_NUMBER UINT32_MAX

/* @number: of each of the @n layers, or NO_NUMBER. Return: how many have one. */
static uint32_t renumber_layers(struct page_map *map, uint32_t *number, uint32_t n)
{
	uint32_t next = 0;

	for (uint32_t i = 0; i < n; i++)
		number[i] = NO_NUMBER;
	for (size_t i = 0; i < map->n_runs; i++)
		if (map->runs[i].layer != IMAGE_LAYER_ZERO)
			number[map->runs[i].layer] = 0;
	for (uint32_t i = 0; i < n; i++)
		if (number[i] != NO_NUMBER)
			number[i] = next++;
	for (size_t i = 0; i < map->n_runs; i++)
		if (map->runs[i].layer != IMAGE_LAYER_ZERO)
			map->runs[i].layer = number[map->runs[i].layer];
	return next;
}

static int link_layer(const struct image_draft *d, int from_dirfd, uint32_t layer,
		      struct problem *problem)
{
	const char *name = image_layer_id(d->parent, layer);
	int r = plain_file_link(from_dirfd, d->layers_dirfd, name);

	if (r == -ENOENT) {
		problem_set(problem, 500, "layer %s: gone from the parent's directory", name);
		problem_hint(problem, "was the parent deleted while this was written? try again");
	} else if (r < 0) {
		problem_errno(problem, r, "layer %s: cannot be linked", name);
	}
	return error_trace(r);
}

/* Link and name the parent's layers that have a number. */
static int keep_layers(const struct image_draft *d, const uint32_t *number,
		       struct layer_name *names, struct problem *problem)
{
	_cleanup_fd_ int from_dirfd = -1;
	int r;

	for (uint32_t i = 0; i < image_n_layers(d->parent); i++) {
		if (number[i] == NO_NUMBER)
			continue;
		if (from_dirfd < 0) {
			from_dirfd = file_open_dir(d->parent_dirfd, "layers");
			if (from_dirfd < 0) {
				problem_errno(problem, from_dirfd,
					      "layers: the parent's directory");
				return error_trace(from_dirfd);
			}
		}
		r = link_layer(d, from_dirfd, i, problem);
		if (r < 0)
			return r;
		r = str_unhex(image_layer_id(d->parent, i), names[number[i]].id, LAYER_ID_BYTES);
		assert(r == 0); /* we made this text from bytes */
		memcpy(names[number[i]].digest, image_layer_digest(d->parent, i), DIGEST_BYTES);
	}
	return 0;
}

static int encode_map(const struct image_draft *d, const struct layer_name *names, uint32_t n,
		      struct buf *ret, char *ret_id, struct problem *problem)
{
	int r = page_map_encode(&d->map, names, n, ret);

	if (r == -EFBIG)
		problem_set(problem, 500,
			    "map: %zu runs do not fit into its %u bytes: the memory is "
			    "too fragmented",
			    d->map.n_runs, PAGE_MAP_MAX_BYTES);
	return error_trace(r < 0 ? r : image_make_id(ret->data, ret->len, ret_id));
}

/* ---- the seal ---------------------------------------------------------------------------------
 */

/* A snapshot is sealed as a whole: layers of both kinds do not mix. */
int image_begin_seal(struct image_draft *d, struct problem *problem)
{
	const struct image *parent = d->parent;

	if (parent->n_layers && parent->sealed && !parent->keys) {
		problem_set(problem, 400,
			    "image: the parent is sealed, and open for checking only");
		return error_trace(-EINVAL);
	}
	if (parent->n_layers && parent->sealed != !!d->keys) {
		problem_set(problem, 400,
			    "image: the parent is %s, so what is built on it must be too",
			    parent->sealed ? "sealed" : "not sealed");
		return error_trace(-EINVAL);
	}
	return d->keys ? seal_new_key(d->layer_key) : 0;
}

/* The keys of the layers that have a number, in that order, beside the map. */
static int write_seal(const struct image_draft *d, const struct layer_name *names,
		      const uint32_t *number, uint32_t n_used, const struct buf *map,
		      struct problem *problem)
{
	const uint32_t n = image_n_layers(d->parent) + 1;
	uint8_t(*keys)[LAYER_KEY_BYTES] = calloc(n, sizeof(*keys));
	int r;

	if (!keys)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++)
		if (number[i] != NO_NUMBER)
			memcpy(keys[number[i]], i < n - 1 ? d->parent->keys[i] : d->layer_key,
			       LAYER_KEY_BYTES);
	r = seal_write(d->dirfd, d->keys, names, keys, n_used, map->data, map->len, problem);
	explicit_bzero(keys, n * sizeof(*keys));
	free(keys);
	return r;
}

/* ---- the map ----------------------------------------------------------------------------------
 */

static int write_map(const struct image_draft *d, const struct buf *map, struct problem *problem)
{
	int r = fd_sync(d->layers_dirfd);

	if (r < 0) {
		problem_errno(problem, r, "layers: fsync");
		return r;
	}
	r = file_write_atomic(d->dirfd, "map", map->data, map->len, 0444); /* syncs dirfd too */
	if (r < 0)
		problem_errno(problem, r, "map: writing %zu bytes", map->len);
	return error_trace(r);
}

int image_commit(struct image_draft *d, char *ret_id, uint64_t *ret_map_bytes,
		 struct problem *problem)
{
	const uint32_t n = image_n_layers(d->parent) + 1; /* the last is the new one */
	_cleanup_free_ struct layer_name *names = calloc(n, sizeof(*names));
	_cleanup_free_ uint32_t *number = calloc(n, sizeof(*number));
	_cleanup_buf_ struct buf map = {0};
	uint32_t n_used;
	int r;

	if (!names || !number)
		return -ENOMEM;
	n_used = renumber_layers(&d->map, number, n);
	if (n_used > PAGE_MAP_MAX_LAYERS) {
		problem_set(problem, 500, "image: more than %u layers", PAGE_MAP_MAX_LAYERS);
		return error_trace(-E2BIG);
	}
	r = keep_layers(d, number, names, problem);
	if (r < 0)
		return r;
	if (number[n - 1] != NO_NUMBER)
		names[number[n - 1]] = d->layer;
	r = encode_map(d, names, n_used, &map, ret_id, problem);
	if (r == 0 && d->keys)
		r = write_seal(d, names, number, n_used, &map, problem);
	if (r == 0)
		r = write_map(d, &map, problem);
	*ret_map_bytes = map.len;
	return r;
}
