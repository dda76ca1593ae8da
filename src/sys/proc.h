/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * proc.h - what /proc/PID says about another process
 *
 * Everything here answers about the process that has the pid now. A caller that must not be fooled
 * by a reused pid holds a pidfd and looks, afterwards, whether it is still alive.
 * Source: proc(5). Any thread.
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/** proc_start_time() - field 22 of stat: ticks after boot. Return: 0; -ESRCH; negative errno */
int proc_start_time(pid_t pid, uint64_t *ret);

/* One mapping of a file: addresses [start, end), and the file offset at start. */
struct proc_mapping {
	uint64_t start;
	uint64_t end;
	uint64_t offset;
};

/**
 * proc_find_mappings() - the private writable mappings of the file with this device and inode
 * @ret: fresh memory (free()), sorted by address; neighbours that continue each other are one
 * Return: 0; -ENOENT when it maps nothing of it; -ESRCH; negative errno
 */
int proc_find_mappings(pid_t pid, dev_t dev, ino_t ino, struct proc_mapping **ret, size_t *ret_n);

/**
 * proc_has_userfaultfd() - is any private mapping of that file registered with a userfaultfd?
 * Costs a walk over its page tables. Return: 1; 0; -ENOENT when it maps nothing of it; negative
 * errno
 */
int proc_has_userfaultfd(pid_t pid, dev_t dev, ino_t ino);

struct proc_memory {
	uint64_t rss_bytes;
	uint64_t pss_bytes;
	uint64_t private_bytes; /* Private_Clean + Private_Dirty */
};

/**
 * proc_anonymous_bytes() - what it alone holds: anonymous pages, copies of private file pages among
 * them, and its page tables. Counters of the kernel: costs no walk
 */
int proc_anonymous_bytes(pid_t pid, uint64_t *ret);

/** proc_memory_use() - from smaps_rollup: costs a walk over its page tables */
int proc_memory_use(pid_t pid, struct proc_memory *ret);

/**
 * proc_root_source() - what is mounted as the process's root: a device, or what a tmpfs was named
 * Return: 0; -ENOENT when its mounts do not say; -ESRCH; negative errno
 */
int proc_root_source(pid_t pid, char *buf, size_t size);
