/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* snapshot-files.h - what snapshot.c, snapshot-clone.c and verify.c share; nobody else */
#include "image/manifest.h"
#include "image/snapshot.h"

/** snapshot_check_files() - is every file there, regular, and of the size the manifest says? */
int snapshot_check_files(int dirfd, const struct manifest *m, const struct manifest_files *files,
			 struct problem *problem);

/**
 * snapshot_publish() - rename a complete temporary directory to @final and make that durable
 * Afterwards @tmp has no name any more, so that snapshot_abort() only closes it. On failure it
 * still has, and nothing is at @final; but when the file system fails again as that is undone, what
 * was published stays where it is, complete, or in tmp/ until the next store_open().
 */
int snapshot_publish(struct snapshot_tmp *tmp, int root_fd, const char *final,
		     struct problem *problem);
