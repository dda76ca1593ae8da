/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * image-commit.h - the last step of writing an image: link its layers, write its map
 *
 * Shared by image-writer.c and compact-move.c. One thread.
 */
#include "base/problem.h"
#include "image/image-internal.h"

/* What is to become an image in dirfd, which has a directory layers/. */
struct image_draft {
	int dirfd;
	int layers_dirfd;	 /* its layers/, which may have the new layer already */
	struct image *parent;	 /* whose layer numbers the map uses */
	int parent_dirfd;	 /* whose layers/ are linked from; -1 when it has none */
	struct page_map map;	 /* complete, not sealed; the parent's n layers are 0 .. n-1 in it,
				    the new one is n. Renumbered by the commit */
	struct layer_name layer; /* the new one, when the map refers to it */
	const struct keyring *keys;	    /* NULL: not sealed. Borrowed */
	uint8_t layer_key[LAYER_KEY_BYTES]; /* of the new layer; wiped by the owner */
};

/**
 * image_begin_seal() - a key for the new layer, if there are keys
 * Return: 0; -EINVAL when the parent is sealed and this is not to be, or the other way round;
 * negative errno
 */
int image_begin_seal(struct image_draft *draft, struct problem *problem);

/**
 * image_commit() - give the layers that the map refers to the numbers 0, 1, ... in their old order,
 * link those of the parent, write the map; everything fsynced
 * @ret_id: IMAGE_ID_LEN + 1 bytes
 * Return: 0; negative errno
 */
int image_commit(struct image_draft *draft, char *ret_id, uint64_t *ret_map_bytes,
		 struct problem *problem);
