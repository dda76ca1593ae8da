/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * watch-dirs.h - the directories of one recursive watch: inotify's number for each, and its path
 *
 * Numbers only grow (the kernel hands them out cyclically), so an array sorted by number is cheap
 * to append to and to search.
 */
#include <stddef.h>

#define WATCH_DIRS_MAX 65536u /* the kernel's limit, fs.inotify.max_user_watches, is often less */

struct watch_dir {
	int wd;
	char *path; /* relative to the root of the watch; "" is the root */
};

struct watch_dirs {
	struct watch_dir *list;
	size_t n, cap;
};

void watch_dirs_deinit(struct watch_dirs *d);

/** watch_dirs_find() - the path of @wd; NULL when it is not there */
const char *watch_dirs_find(const struct watch_dirs *d, int wd);

/**
 * watch_dirs_put() - @wd is the directory at @path
 * If it was known under another path, it was moved, and everything below it with it.
 * Return: 1 new; 0 known; -ENOSPC when there are WATCH_DIRS_MAX; -ENOMEM
 */
int watch_dirs_put(struct watch_dirs *d, int wd, const char *path);

void watch_dirs_remove(struct watch_dirs *d, int wd);

/** watch_dirs_drop() - remove @path and all below it, telling @dropped of each number */
void watch_dirs_drop(struct watch_dirs *d, const char *path,
		     void (*dropped)(void *userdata, int wd), void *userdata);
