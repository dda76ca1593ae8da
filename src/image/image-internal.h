/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* image-internal.h - the inside of an image, for the files of this folder that make or compare
 * images */
#include <stdatomic.h>

#include "base/buf.h"
#include "image/image.h"
#include "image/layer.h"
#include "image/page-map.h"

struct image {
	atomic_uint refs;
	char id[IMAGE_ID_LEN + 1];
	uint64_t map_bytes; /* size of the map file */
	struct page_map map;
	uint32_t n_layers;
	struct layer **layers;	  /* in the order of the map's layer numbers */
	struct layer_name *names; /* as the map has them, the same order; NULL without layers */
	bool sealed;		  /* there is a file "seal" */
	struct image_raw *raw;	  /* of image_open_raw(), or NULL */
	uint32_t n_keys;
	uint8_t (*keys)[LAYER_KEY_BYTES]; /* of the layers; NULL when not sealed, or only checked */
};

/** image_new() - one reference, and nothing in it; image_unref(). NULL without memory */
struct image *image_new(void);

/** image_read_map() - the bytes of a map file @name. Return: 0; IMAGE_E_CORRUPT; negative errno */
int image_read_map(int dirfd, const char *name, struct buf *ret, struct problem *problem);

/** image_check_digest() - is the layer the one that a map means? Return: 0; IMAGE_E_CORRUPT */
int image_check_digest(const struct layer *l, const struct layer_name *name,
		       struct problem *problem);

/** image_check_runs() - do the layers, but those that are missing, have all slots that the map
 *  names? Return: 0; IMAGE_E_CORRUPT */
int image_check_runs(const struct image *image, struct problem *problem);

/** image_make_id() - IMAGE_ID_LEN digits (and a zero) from the bytes of a map file */
int image_make_id(const void *map, size_t len, char ret[IMAGE_ID_LEN + 1]);

/** image_layer_digest() - DIGEST_BYTES bytes */
const uint8_t *image_layer_digest(const struct image *image, uint32_t layer);

/** image_map_bytes() - size of the map file; 0 for a zero image */
uint64_t image_map_bytes(const struct image *image);
