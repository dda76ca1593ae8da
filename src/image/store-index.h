/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * store-index.h - what the snapshots' manifests say, in SQLite, for listing
 *
 * A cache of the directories, which are the truth: every listing first compares names and manifests
 * (inode, size, time of change) with what the index has and reads only what differs. So nothing has
 * to be told to it, it can be deleted at any time, and one that is damaged is made anew.
 *
 * The file is <root>/index.sqlite. Any thread; one at a time inside.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/id.h"
#include "base/mem.h"
#include "image/image.h"
#include "image/store.h"

struct store_index;

/* One snapshot. Texts are valid during the visit. */
struct index_entry {
	const char *id;
	const char *name, *image_id, *parent_id, *template_id, *source_id;
	const char *vmm, *accel, *seal;
	uint64_t created_ns;
	uint64_t memory_bytes;
	uint32_t cpus;
	uint32_t n_layers;
	uint64_t layer_bytes; /* sizes of all its layers */
	uint64_t map_bytes, device_bytes;
	uint64_t own_bytes;    /* what no other directory links: layers, map, device, disks */
	uint64_t shared_bytes; /* what others link too */
	const char *damage; /* the manifest cannot be used (then all above but @id is empty), or a
			       file is missing or of another size; NULL: neither */
};

typedef void (*index_progress)(void *userdata, uint64_t done, uint64_t total);
typedef int (*index_visit)(void *userdata, const struct index_entry *entry);

/** store_index_open() - open or make it; a damaged one is thrown away. @store must outlive it */
int store_index_open(struct store *store, struct problem *problem, struct store_index **ret);
struct store_index *store_index_close(struct store_index *x);
DEFINE_CLEANUP(struct store_index *, store_index_close)

/** store_index_each() - bring up to date, then every snapshot, newest first. @visit: non-zero ends
 * it */
int store_index_each(struct store_index *x, index_visit visit, void *userdata);

/** store_index_rebuild() - forget everything and read all manifests. @ret_n: snapshots found */
int store_index_rebuild(struct store_index *x, index_progress progress, void *userdata,
			uint64_t *ret_n);
