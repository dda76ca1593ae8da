/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * disk.h - copies of raw disks
 *
 * Immutable disks are hard-linked like layers and need nothing of this. A writable raw disk is
 * copied: by reflink where the file system can (O(1)), else only its data (SEEK_DATA,
 * copy_file_range), holes staying holes. What qcow2 disks name is checked by image/qcow2.h, which
 * comes with this header.
 * Any thread.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/problem.h"
#include "image/qcow2.h"

enum disk_reflink {
	DISK_REFLINK_AUTO,   /* try, then copy */
	DISK_REFLINK_ALWAYS, /* or fail: never the slow way */
	DISK_REFLINK_NEVER,  /* always copy: the two share no block afterwards */
};

struct disk_copy_stats {
	bool reflinked;
	uint64_t bytes_total;  /* apparent size */
	uint64_t bytes_copied; /* data that had to be read and written */
};

/** disk_reflink_parse() - "auto", "always", "never". Return: 0; -EINVAL */
int disk_reflink_parse(const char *text, enum disk_reflink *ret);

/**
 * disk_copy() - a new file @name with the content of @from_fd, fsynced (its directory is not)
 * @from_fd: a regular file, whose position is moved; nobody may change it meanwhile
 * @mode:    the copy's permissions: 0444 for an immutable one
 * @ret:     may be NULL
 * On failure nothing is left. Return: 0; -EEXIST; -EOPNOTSUPP when DISK_REFLINK_ALWAYS cannot be
 * had, @problem says why; negative errno
 */
int disk_copy(int from_fd, int to_dirfd, const char *name, unsigned mode, enum disk_reflink reflink,
	      struct problem *problem, struct disk_copy_stats *ret);
