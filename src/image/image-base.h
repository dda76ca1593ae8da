/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * image-base.h - the base of an image: an ancestor whose memory it can share
 *
 * A sandbox that was put to sleep has an image of its own, but most of its pages still are those of
 * the image that it once ran from, normally a template's. Its directory holds that image's map in
 * the file "base", so that a wake can share the template's memory, also when the template has been
 * deleted since. Which image is the base of which: see image-base.c.
 *
 * A base is an optimisation: without it, or with a damaged one, a snapshot is complete.
 *
 *     image_open() -> image_open_base() -> image_diff_bitmap(); image_unref() both, in any order
 *
 * The base shares the open layers of the image it was opened for. Layers that the directory has not
 * got (any more) are *missing* in it: no page of the image is in one. So a base with missing layers
 * serves what the image shares with it, and nobody who runs from the base itself.
 */
#include "base/bitmap.h"
#include "image/image.h"
#include "image/snapshot.h"

#define IMAGE_BASE_NAME "base"

/**
 * image_open_base() - the base of @image
 * @dirfd: the snapshot directory that @image was opened from
 * @keys:  as for image_open(), only used during the call
 * @ret:   one reference; an image of as many pages, under the id that it has everywhere
 *
 * What the manifest names is what is opened: the manifest is authenticated in a sealed snapshot,
 * the map has that digest, and the layers are those that @image has verified.
 * Every positive outcome means the same for a wake: there is no base. Only IMAGE_E_ABSENT describes
 * no problem. Return: 0; IMAGE_E_ABSENT; IMAGE_E_CORRUPT; IMAGE_E_VERSION; IMAGE_E_KEY; negative
 * errno (not for a file that cannot be read: that is IMAGE_E_CORRUPT)
 */
int image_open_base(int dirfd, struct image *image, const struct keyring *keys,
		    struct problem *problem, struct image **ret);

/** image_missing_layers() - how many layers of a base are missing; 0 for every other image */
uint32_t image_missing_layers(const struct image *image);

/** image_layer_is_missing() - image_read_frame() of each of its frames is IMAGE_E_MISSING, and
 *  image_layer_frames() is 0 */
bool image_layer_is_missing(const struct image *image, uint32_t layer);

/**
 * image_diff_bitmap() - the pages of @image that are not @base's: another slot, another layer, or
 * zero in one of them only
 * @own: zeroed, a bit for each page, set where it differs; NULL: only count
 * @ret_own_pages:           bits that are set
 * @ret_own_stored_pages:    of those: not zero in @image
 * @ret_shared_stored_pages: not set, and not zero
 *
 * O(runs of both). Return: 0; -EINVAL when they are not of as many pages; -ENOMEM
 */
int image_diff_bitmap(const struct image *image, const struct image *base, bitmap_word *own,
		      uint64_t *ret_own_pages, uint64_t *ret_own_stored_pages,
		      uint64_t *ret_shared_stored_pages);

/**
 * image_base_put() - give a new image the base that it should have, if any
 * @dirfd:        a directory under construction with its map, before snapshot_commit()
 * @parent_dirfd: the directory of the image it was made from; -1: it was made from nothing
 * @parent:       that directory's manifest
 * @others:       others may run from that image too: it is a candidate itself
 * @ret_id: IMAGE_ID_LEN + 1 bytes, for manifest.base_image_id: "" without one. May be @parent's
 *
 * A base of the parent that is damaged or out of reach is passed over. Not synced: the commit does.
 * Return: 0; negative errno
 */
int image_base_put(int dirfd, int parent_dirfd, const struct manifest *parent, bool others,
		   struct problem *problem, char ret_id[IMAGE_ID_LEN + 1]);

/**
 * image_base_check() - is the base of a snapshot directory, if it has one, what it should be?
 * @id: what its manifest says
 * The problem says also what a bad one costs. Return: 0; IMAGE_E_CORRUPT; IMAGE_E_VERSION; -ENOMEM
 */
int image_base_check(int dirfd, struct image *image, const char *id, struct problem *problem);
