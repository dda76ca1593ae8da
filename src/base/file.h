/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * file.h - whole files and directory trees, relative to a directory descriptor
 *
 * @dirfd may be AT_FDCWD. Nothing here follows a symbolic link in the last component when it
 * removes. Any thread.
 */
#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/** file_mkdir_p() - make a directory and its parents; present is fine */
int file_mkdir_p(const char *path, mode_t mode);

/** file_remove_tree() - remove @name and everything below it; absent is fine */
int file_remove_tree(int dirfd, const char *name);

/**
 * file_read() - a whole file, at most @max bytes, zero-terminated in fresh memory
 * Return: 0; -EFBIG when it is larger; negative errno
 */
int file_read(int dirfd, const char *name, size_t max, char **ret, size_t *ret_len);

/**
 * file_write_atomic() - replace @name with @len bytes: temporary file, fsync, rename, fsync of the
 * directory. After a crash the old content is there or the new one. On failure nothing is left.
 */
int file_write_atomic(int dirfd, const char *name, const void *data, size_t len, mode_t mode);

/**
 * file_replace() - the same without fsync: atomic for every reader, but a host that goes down may
 * keep the old content, or none. For what has no meaning after that.
 */
int file_replace(int dirfd, const char *name, const void *data, size_t len, mode_t mode);

/** file_fsync_dir() - make renames and links in a directory durable */
int file_fsync_dir(int dirfd);

/** file_open_dir() - O_DIRECTORY|O_CLOEXEC. Return: descriptor; negative errno */
int file_open_dir(int dirfd, const char *name);

/** file_opendir() - a listing of @name; closedir(), or `_cleanup_dir_`. dirfd(3) gives its descriptor */
int file_opendir(int dirfd, const char *name, DIR **ret);

static inline void file_closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}
#define _cleanup_dir_ __attribute__((cleanup(file_closedirp)))

/** file_allocated_bytes() - st_blocks * 512 of everything below @name, hard links counted once each */
int file_allocated_bytes(int dirfd, const char *name, uint64_t *ret);
