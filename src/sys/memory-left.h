/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * memory-left.h - how much memory can still be taken on this host?
 *
 * What the kernel estimates (MemAvailable: free, and what of caches can go), or what is left below
 * the limit of this process's control group or of one above it, whichever is less. Of a group, page
 * cache that is not in use counts as left.
 * Source: proc(5), Documentation/admin-guide/cgroup-v2.rst. Any thread.
 */
#include <stdint.h>

/**
 * memory_left() - bytes that are available, and all that there are
 * @ret_total: the host's memory, or the least limit of a group
 */
int memory_left(uint64_t *ret_available, uint64_t *ret_total);

/** memory_left_of_group() - the same for the group at @path ("/sys/fs/cgroup/a/b") alone
 *  Return: 0; -ENOENT when it has no limit; negative errno */
int memory_left_of_group(const char *path, uint64_t *ret_available, uint64_t *ret_limit);
