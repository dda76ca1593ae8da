/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* compact-internal.h - what compact.c, compact-choose.c and compact-move.c share; nobody else */
#include "image/compact.h"
#include "image/image-internal.h"
#include "image/working-set.h"

/* A layer of the image under consideration. */
struct compact_layer {
	uint64_t bytes; /* of its frames, as stored */
	uint64_t
		live; /* of those: of pages that the image refers to, in proportion in each frame */
	bool own;     /* no other snapshot links it */
	bool mixed;   /* the working set does not lie first in it */
	bool chosen;  /* to be merged */
};

/** compact_due() - does the policy ask for a compaction of these? */
bool compact_due(const struct compact_layer *layers, uint32_t n,
		 const struct compact_policy *policy);

/** compact_choose() - mark what to merge. Return: how many; 0 when it would gain nothing */
uint32_t compact_choose(struct compact_layer *layers, uint32_t n,
			const struct compact_policy *policy, bool force);

/**
 * compact_move() - write the image of @src_dirfd into @dirfd with the chosen layers merged into one
 * @set: its pages come first, in frames of their own; bound to the new image in the end. May be
 *       empty
 * @dirfd: a temporary snapshot directory, which has an empty layers/
 * @ret_id: IMAGE_ID_LEN + 1 bytes
 * Return: 0; -ECANCELED; IMAGE_E_CORRUPT; negative errno
 */
int compact_move(int dirfd, int src_dirfd, struct image *image, const struct compact_layer *layers,
		 struct working_set *set, const struct compact_options *options,
		 struct problem *problem, struct compact_stats *stats, char *ret_id);
