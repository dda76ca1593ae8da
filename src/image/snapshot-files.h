/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* snapshot-files.h - what snapshot.c, snapshot-clone.c, compact.c, verify.c and image-base.c
 * share; nobody else */
#include <errno.h>

#include "image/manifest.h"
#include "image/snapshot.h"

#define SEAL_NAME_XXH3	 "xxh3" /* what a manifest says of how it is sealed */
#define SEAL_NAME_AES256 "aes-256-gcm"

/**
 * snapshot_read_manifest() - read the manifest, authenticated when there are keys
 * @check_only: without keys a sealed one is read as well
 * Return: as snapshot_open()
 */
int snapshot_read_manifest(int dirfd, const struct keyring *keys, bool check_only,
			   struct problem *problem, struct manifest *ret,
			   struct manifest_files *ret_files);

/** snapshot_error() - an outcome as the negative errno of functions that have none */
static inline int snapshot_error(int r)
{
	return r == IMAGE_E_KEY ? -ENOKEY : r > 0 ? -EBADMSG : r;
}

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

/** snapshot_fsync_parent() - make a rename of @path, which is relative to @root_fd, durable */
int snapshot_fsync_parent(int root_fd, const char *path);

/** snapshot_link_device() - the device state as it is, if there is one. Return: 0; IMAGE_E_CORRUPT;
 * negative errno */
int snapshot_link_device(int src_dirfd, int dst_dirfd, const struct manifest *m,
			 struct problem *problem);

/** snapshot_link_disks() - Return: as snapshot_link_device() */
int snapshot_link_disks(int src_dirfd, int dst_dirfd, const struct manifest *m,
			struct problem *problem);
