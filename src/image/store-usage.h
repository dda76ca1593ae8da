/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * store-usage.h - where the space goes
 *
 * Counts blocks as du(1) does: every inode once. A file belongs to a directory (a snapshot or a
 * sandbox) alone when all of its links lie in it; those blocks are what deleting it would free.
 */
#include <stdbool.h>
#include <stdint.h>

#include "image/store.h"

struct usage_entry {
	const char *kind; /* "snapshot" or "sandbox" */
	const char *id;
	uint64_t own; /* bytes allocated that would be free if it were deleted, directories included
		       */
	uint64_t shared; /* bytes allocated that others link too */
	uint32_t n_layers;
};

struct usage_total {
	uint64_t total;	    /* everything below the root: equals `du -s --block-size=1` */
	uint64_t snapshots; /* every inode once, counted where it is first found: snapshots, */
	uint64_t sandboxes; /* then sandboxes, */
	uint64_t temporary; /* then tmp/, */
	uint64_t other;	    /* then the rest; the sum is @total */
	uint64_t apparent;  /* sizes added up as if nothing were shared */
	uint64_t free;	    /* left on the file system */
};

typedef int (*usage_visit)(void *userdata, const struct usage_entry *entry);

/** store_usage() - every snapshot, then every sandbox. @visit: non-zero ends it */
int store_usage(struct store *store, usage_visit visit, void *userdata, struct problem *problem,
		struct usage_total *ret);
