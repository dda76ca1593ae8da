/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * tree.h - make directories, remove and move whole trees
 *
 * All of it blocks on the sandbox's files: for helpers (helper.h) only. Paths are absolute and
 * without "." and ".." (caller_path()). A @problem gets the text alone; the code is in the result.
 */
#include "agent/user.h"
#include "base/problem.h"

/**
 * tree_make() - mkdir -p; what is made is 0755 and @owner's
 * Return: 1 made; 0 was there; -ENOTDIR when something else is in the way; negative errno
 */
int tree_make(const char *path, const struct user *owner, struct problem *problem);

/** tree_make_parents() - the same for the directory that @path is in */
int tree_make_parents(const char *path, const struct user *owner, struct problem *problem);

/**
 * tree_remove() - a file, or a directory with all that is in it
 * Links are removed, never followed. Nothing in another mount is touched: a mount point, @path or
 * below it, stays where it is, and so do the directories that lead to it (-EBUSY). What can be
 * removed is, also after something could not.
 * Return: 0, also when there is none; the first failure as negative errno
 */
int tree_remove(const char *path, struct problem *problem);

/**
 * tree_move() - rename, also to another file system
 * Parents of @to are made. An existing file or empty directory at @to is replaced, as rename(2)
 * does. Across file systems it is a copy beside @to under a name of its own (".dorm-move-..."),
 * renamed when it is complete, and then the removal of @from: owners, modes, times, attributes,
 * holes and special files are kept, hard links become separate files.
 * Return: 0; -ENOENT without @from; -EINVAL when @to is below @from; negative errno
 */
int tree_move(const char *from, const char *to, const struct user *owner, struct problem *problem);
