/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* snapshots.h - snapshots and templates of a host: list, inspect, verify, delete. Any thread. */
#include "image/snapshot.h"
#include "sandbox/host.h"

struct snapshot_entry {
	struct manifest manifest;
	uint64_t stored_bytes; /* of the layers that are its alone, map, device state */
	uint64_t shared_bytes; /* of the layers it has in common with others */
	const json_t *names;   /* templates that lead to it: array of strings, or NULL; borrowed */
};

typedef void (*snapshot_visit)(void *userdata, const struct snapshot_entry *entry);

/** snapshots_each() - every snapshot; damaged ones are left out (verify names the damage) */
int snapshots_each(struct host *host, snapshot_visit visit, void *userdata);

/** snapshots_exists() - Return: 0; -ENOENT with a 404 */
int snapshots_exists(struct host *host, const char *id_or_name, struct problem *problem);

/** snapshots_inspect() - everything the manifest and the layers say, as the API shows it */
int snapshots_inspect(struct host *host, const char *id_or_name, struct problem *problem,
		      json_t **ret);

/** snapshots_verify() - read every byte. @ret_bytes: what it takes on disk, shared parts included
 */
int snapshots_verify(struct host *host, const char *id_or_name, snapshot_progress progress,
		     void *userdata, struct problem *problem, uint64_t *ret_bytes);

/** snapshots_delete() - with every name that leads to it. Nothing that was made from it is affected
 */
int snapshots_delete(struct host *host, const char *id_or_name, struct problem *problem);
