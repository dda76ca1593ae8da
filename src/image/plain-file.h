/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * plain-file.h - the files of a snapshot directory: opened with suspicion, linked, copied, digested
 *
 * A store may have been restored from a backup or altered by hand, so nothing but a regular file is
 * ever opened: no symbolic link is followed, a FIFO does not block. Any thread.
 */
#include <stdint.h>

#include "base/problem.h"

#define DIGEST_BYTES                                                                               \
	16	      /* XXH3-128 in its canonical (big-endian) form, as xxhsum -H128 prints it    \
		       */
#define DIGEST_LEN 32 /* the same in hexadecimal */

/**
 * plain_file_open() - open a regular file for reading
 * @what:      how a problem names it, for example "layer 3f..."
 * @ret_fd:    owned by the caller
 * @ret_bytes: its size; may be NULL
 * Return: 0; IMAGE_E_CORRUPT when it is absent or not a regular file; negative errno
 */
int plain_file_open(int dirfd, const char *name, const char *what, struct problem *problem,
		    int *ret_fd, uint64_t *ret_bytes);

/**
 * plain_dir_open() - open a directory that is not a symbolic link
 * Return: 0; IMAGE_E_CORRUPT when it is absent or something else; negative errno
 */
int plain_dir_open(int dirfd, const char *name, struct problem *problem, int *ret_fd);

/** plain_file_digest() - XXH3-128 of a whole file in hexadecimal (DIGEST_LEN + 1 bytes) */
int plain_file_digest(int fd, char ret_hex[DIGEST_LEN + 1]);

/**
 * plain_file_copy() - a new read-only file @name with the content of @from_fd, fsynced: a reflink
 * where that can be had, else a copy with the same holes (image/disk.h)
 * On failure nothing is left. Return: 0; -EEXIST; negative errno
 */
int plain_file_copy(int from_fd, int dirfd, const char *name);

/**
 * plain_file_link() - hard-link @name from one directory into another
 * A file with as many links as its file system allows (ext4: 65000) is copied instead.
 * Return: 0; -ENOENT; -EEXIST; negative errno
 */
int plain_file_link(int from_dirfd, int to_dirfd, const char *name);

/** plain_file_link_as() - the same under another name */
int plain_file_link_as(int from_dirfd, const char *from, int to_dirfd, const char *to);
