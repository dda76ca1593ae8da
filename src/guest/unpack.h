/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * unpack.h - extract a tar archive that somebody else made into a directory
 *
 * libarchive reads (tar of every kind; gzip, bzip2, xz, zstd, lz4), we write, by tree.h: no entry
 * can create or change anything outside the directory, whatever its name or the links before it.
 *
 *     entry                               what becomes of it
 *     name with ".." in it                the archive is refused
 *     absolute name                       taken relative to the directory
 *     symbolic link                       made as it is; only a guest follows it, in its own root
 *     hard link                           to a file of the tree, or the archive is refused
 *     device, fifo, socket                left out and counted: a guest has its own /dev
 *     set-user-id, owner, capabilities    kept: the directory must lie where only root can enter
 *     more bytes or entries than allowed  the archive is refused, before the bytes are written
 *
 * Times are not kept (the file system is made with one time for all).
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/problem.h"
#include "guest/tree.h"

struct unpack_limits {
	uint64_t bytes; /* of all files together, as they would be read, holes included */
	uint64_t entries;
	uint64_t free_bytes;		   /* that must remain on the file system */
	bool (*cancelled)(void *userdata); /* asked for every entry and megabyte; may be NULL */
	void *userdata;
};

#define UNPACK_LIMITS_DEFAULT                                                                      \
	((struct unpack_limits){                                                                   \
		.bytes = 16ull << 30, .entries = 2000000, .free_bytes = 512ull << 20})

struct unpack_stats {
	uint64_t bytes, entries;
	uint64_t left_out; /* devices, fifos, sockets */
	char first_left_out[128];
};

/**
 * unpack_tar() - everything in the archive @fd, below @root_fd
 * @name:  of the archive, for problems
 * @into:  directory in the tree, made when absent; "/" for its root
 * @owner: of everything, instead of what the archive says; NULL: that
 * Return: 0; -EINVAL for a refused archive, -ENOSPC, -ECANCELED, negative errno; @problem names the
 * entry. What was extracted before that remains, for the caller to remove
 */
int unpack_tar(int fd, const char *name, int root_fd, const char *into,
	       const struct tree_owner *owner, const struct unpack_limits *limits,
	       struct problem *problem, struct unpack_stats *ret);
