/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * disk.h - copies of raw disks and checks of qcow2 ones
 *
 * Immutable disks are hard-linked like layers and need nothing of this. A writable raw disk is
 * copied: by reflink where the file system can (O(1)), else only its data (SEEK_DATA,
 * copy_file_range), holes staying holes. A qcow2 overlay names its backing file; before it becomes
 * part of a snapshot, or is believed, that name must be one of the snapshot's own disks.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/problem.h"

enum disk_reflink {
	DISK_REFLINK_AUTO,   /* try, then copy */
	DISK_REFLINK_ALWAYS, /* or fail: never the slow way */
	DISK_REFLINK_NEVER,  /* always copy */
};

struct disk_copy_stats {
	bool reflinked;
	uint64_t bytes_total;  /* apparent size */
	uint64_t bytes_copied; /* data that had to be read and written */
};

/** disk_reflink_parse() - "auto", "always", "never". Return: 0; -EINVAL */
int disk_reflink_parse(const char *text, enum disk_reflink *ret);

/**
 * disk_copy() - a new file @name with the content of @from_fd, fsynced
 * @mode: its permissions: 0444 for an immutable one
 * On failure nothing is left. Return: 0; -EEXIST; -EOPNOTSUPP when DISK_REFLINK_ALWAYS cannot be
 * had, @problem says why; negative errno
 */
int disk_copy(int from_fd, int to_dirfd, const char *name, unsigned mode, enum disk_reflink reflink,
	      struct problem *problem, struct disk_copy_stats *ret);

struct qcow2_info {
	uint64_t virtual_bytes;
	char backing[64]; /* name of the backing file; "" without */
};

/* outcomes */
enum {
	DISK_E_CORRUPT = 1, /* not a qcow2 file, or one that names things it must not */
};

/**
 * qcow2_read_info() - header of a qcow2 file, which nobody trusts
 * Refuses external data files, encryption we do not know, and backing names that are not plain file
 * names of `[a-z0-9._-]` (no path, no protocol, no "json:").
 */
int qcow2_read_info(int fd, struct problem *problem, struct qcow2_info *ret);

struct snapshot_disk;
/**
 * disk_check_chain() - every qcow2 disk of the list is one, its size is believable, its backing
 * file is another disk of the list, and no chain comes back to itself
 * @disks_dirfd: the directory with the files
 * Return: 0; DISK_E_CORRUPT; negative errno
 */
int disk_check_chain(int disks_dirfd, const struct snapshot_disk *disks, size_t n,
		     struct problem *problem);
