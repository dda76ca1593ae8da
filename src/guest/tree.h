/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * tree.h - files of a root file system that lies in a directory and is not trusted
 *
 * Every path is looked up as a process in that root would (openat2 with RESOLVE_IN_ROOT): "..",
 * absolute paths and symbolic links, wherever they point, stay inside. @root_fd is the directory;
 * paths may begin with '/'. Whoever lets others write to the tree at the same time has lost nothing
 * but the tree. Any thread.
 */
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/** tree_open() - open(2) inside. Return: descriptor; negative errno */
int tree_open(int root_fd, const char *path, int flags, mode_t mode);

/**
 * tree_parent() - the directory that @path's last component lies in; missing ones are made, 0755
 * @ret_name: the last component; "." for the root itself
 * Return: descriptor; -EINVAL when the last component is ".."; negative errno
 */
int tree_parent(int root_fd, const char *path, char ret_name[256]);

/** tree_mkdir() - with its parents; one that is there gets mode and owner. @owner: NULL: leave */
struct tree_owner {
	uid_t uid;
	gid_t gid;
};
int tree_mkdir(int root_fd, const char *path, mode_t mode, const struct tree_owner *owner);

/** tree_exists() - does it lead to something? Links are followed, inside */
bool tree_exists(int root_fd, const char *path);

/** tree_read() - a regular file of at most @max bytes, zero-terminated. @ret_len may be NULL */
int tree_read(int root_fd, const char *path, size_t max, char **ret, size_t *ret_len);

/** tree_create() - a new, empty file in place of what is there, unless that is a directory.
 *  Return: descriptor for writing; negative errno */
int tree_create(int root_fd, const char *path, mode_t mode, const struct tree_owner *owner);

/** tree_write() - tree_create() and its content */
int tree_write(int root_fd, const char *path, mode_t mode, const struct tree_owner *owner,
	       const void *data, size_t len);

/** tree_user() - who @name is, by the tree's own /etc/passwd; a number is itself, with that group.
 *  Return: 0; -ENOENT */
int tree_user(int root_fd, const char *name, struct tree_owner *ret, char ret_home[256]);
