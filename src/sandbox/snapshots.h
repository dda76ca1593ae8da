/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * snapshots.h - snapshots and templates of a host: list, inspect, verify, compact, delete
 *
 * Wherever an id is asked for, a template's name does too (reference.h). Any thread.
 */
#include "image/compact.h"
#include "image/snapshot.h"
#include "sandbox/host.h"

/* One snapshot in a listing. Everything is borrowed, for the time of the visit. */
struct snapshot_entry {
	const char *id;
	const char *parent_id, *source_id; /* "" without */
	uint64_t created_ns;
	uint64_t memory_bytes;
	uint32_t cpus;
	uint32_t n_layers;
	uint64_t stored_bytes; /* of what is its alone: layers, map, device state */
	uint64_t shared_bytes; /* of what it has in common with others */
	bool sealed;
	const char *damage;  /* why its manifest cannot be used, and then only the id is known; or
				NULL */
	const json_t *names; /* templates that lead to it: array of strings, or NULL */
};

typedef void (*snapshot_visit)(void *userdata, const struct snapshot_entry *entry);

/** snapshots_each() - every snapshot, those that cannot be used too; newest first if there is an
 * index
 */
int snapshots_each(struct host *host, snapshot_visit visit, void *userdata);

/** snapshots_names() - templates by what they lead to: object of snapshot id -> array of names */
int snapshots_names(struct host *host, json_t **ret);

/** snapshots_resolve() - an id or a template's name to an id. Return: 0; -ENOENT with a 404 */
int snapshots_resolve(struct host *host, const char *id_or_name, struct problem *problem,
		      char ret_id[ID_LEN + 1]);

/** snapshots_exists() - Return: 0; -ENOENT with a 404 */
int snapshots_exists(struct host *host, const char *id_or_name, struct problem *problem);

/** snapshots_id() - what a name leads to. Return: 0; -ENOENT with a 404 */
int snapshots_id(struct host *host, const char *id_or_name, struct problem *problem,
		 char ret_id[ID_LEN + 1]);

/** snapshots_kernel_version() - of its guest; "" when it cannot be told */
void snapshots_kernel_version(struct host *host, const char *id, char ret[64]);

/** snapshots_working_set_pages() - how many pages are in its working set; 0 without one */
uint64_t snapshots_working_set_pages(struct host *host, const char *id);

/** snapshots_inspect() - everything the manifest and the layers say, as the API shows it */
int snapshots_inspect(struct host *host, const char *id_or_name, struct problem *problem,
		      json_t **ret);

/** snapshots_verify() - read every byte. @ret_bytes: what it takes on disk, shared parts included
 */
int snapshots_verify(struct host *host, const char *id_or_name, snapshot_progress progress,
		     void *userdata, struct problem *problem, uint64_t *ret_bytes);

/**
 * snapshots_compact() - merge its layers; running sandboxes and clones do not notice
 * @force: even if the host's policy would not
 * @task: progress in pages
 * Return: 0; COMPACT_E_NOT_DUE; negative errno: -EBUSY when that is under way already, -ECANCELED
 */
int snapshots_compact(struct host *host, const char *id_or_name, bool force,
		      const struct host_task *task, struct problem *problem,
		      char ret_id[ID_LEN + 1], struct compact_stats *ret);

/** snapshots_delete() - with every name that leads to it. Nothing that was made from it is affected
 */
int snapshots_delete(struct host *host, const char *id_or_name, struct problem *problem);

/** snapshots_tree() - GET /snapshots/tree; @id_or_name: only the tree it is in, or NULL */
int snapshots_tree(struct host *host, const char *id_or_name, struct problem *problem,
		   json_t **ret);
