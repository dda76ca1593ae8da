/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * compact.h - fewer layers, fewer dead bytes: merge layers of a snapshot into a new one
 *
 * Each sleep adds a layer, and makes pages of older ones dead. Compaction writes the pages that are
 * still alive in some of the layers into one new layer and makes a snapshot that refers to it in
 * their place. Layers that other snapshots link are left alone: rewriting them would free nothing.
 * The content of the memory stays the same to the byte, the image id changes.
 *
 * Pages of the snapshot's working set, if it has one that is of use, come first in the new layer,
 * in frames of their own; the new snapshot has the same set. So a template is laid out for its
 * wakes by compacting it once with @force after its working set is known.
 *
 * The snapshot's base, if it has one, is kept while a quarter of the stored pages are shared with
 * it.
 *
 * What is merged is chosen like in a log-structured store, so that a byte is rewritten O(log n)
 * times in n sleeps: see compact.c.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/problem.h"
#include "image/disk-merge.h"
#include "image/image.h"

struct compact_policy {
	uint32_t max_layers;	   /* own layers above which it is due */
	uint32_t max_dead_percent; /* dead bytes in own layers above which it is due */
	uint64_t min_dead_bytes;   /* ... but not for less than this */
	bool off;		   /* never due */
};

#define COMPACT_POLICY_DEFAULT                                                                     \
	((struct compact_policy){                                                                  \
		.max_layers = 8, .max_dead_percent = 50, .min_dead_bytes = 16u << 20})

/* What a snapshot's layers look like: also for `inspect`. */
struct compact_report {
	uint32_t n_layers;  /* of the image */
	uint32_t n_own;	    /* of those: no other snapshot links them */
	uint64_t own_bytes; /* size of their files */
	uint64_t own_dead;  /* bytes of it whose pages nobody refers to (estimate: by frame) */
	bool due;	    /* by the policy */
};

struct compact_options {
	struct compact_policy policy;
	bool force; /* merge all own layers, due or not; one alone if pages of it are dead or the
		       working set does not lie first in it */
	enum image_codec codec;
	int level;
	const struct keyring *keys;
	bool (*cancelled)(void *userdata); /* asked often; NULL: never */
	void (*progress)(void *userdata, uint64_t done_pages, uint64_t total_pages); /* or NULL */
	void *userdata;
};

struct compact_stats {
	uint32_t layers_before, layers_after;
	uint32_t layers_merged;
	uint64_t pages_moved;
	uint32_t set_frames;	/* the first of the new layer, which have the working set */
	uint64_t bytes_read;	/* decoded */
	uint64_t bytes_written; /* of the new layer */
	uint64_t bytes_dropped; /* of the layers it stands for */
	struct disk_merge_stats disk;
};

/* outcomes */
enum {
	COMPACT_E_NOT_DUE = 32, /* nothing to do: not an error */
};

/** compact_inspect() - @dirfd: a snapshot directory. Return: 0; an outcome of image_open();
 * negative errno */
int compact_inspect(int dirfd, const struct compact_policy *policy, struct problem *problem,
		    struct compact_report *ret);

/**
 * snapshot_compact() - write a compacted copy of @src_dirfd
 * @final: where it appears, below @root_fd: a path that does not exist; or, with @replace, the path
 *         of @src_dirfd itself, which the new one takes over in one exchange (the old one is
 * deleted)
 * @id: the copy's id; NULL keeps it
 *
 * The source is not changed. What reads from it (open images, running VMs) is not affected.
 * Return: 0; COMPACT_E_NOT_DUE; -ECANCELED; IMAGE_E_CORRUPT; IMAGE_E_KEY; negative errno
 */
int snapshot_compact(int root_fd, const char *root, int src_dirfd, const char *final, bool replace,
		     const char *id, const struct compact_options *options, struct problem *problem,
		     struct compact_stats *ret);
