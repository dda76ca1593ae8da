/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * reclaim.h - descriptors of our own that only a VM's process has any more
 *
 * When a pager dies, its VMs still hold what it needs: their userfaultfds, open for life, and the
 * image's memfd, mapped. Needs the right to trace the process (CAP_SYS_PTRACE, or the same user);
 * for memory that it maps without having a descriptor of it also CAP_CHECKPOINT_RESTORE. The memory
 * has mode 0444, on purpose: only its owner, the user that the last pager was, can write to it.
 *
 * The process may be in a guest's hands. So its descriptors are believed only as far as the kernel
 * vouches for them: a userfaultfd that is really registered at the regions, a file with the inode
 * that the journal names. Control thread.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/problem.h"
#include "pager/handshake.h"

/**
 * reclaim_process() - the process that had this pid and started at that time
 * Return: a pidfd; -ESRCH it is gone; negative errno, @problem says
 */
int reclaim_process(int pid, uint64_t start_time, struct problem *problem);

/**
 * reclaim_uffd() - the userfaultfd with which it registered these regions
 * @pidfd: of @pid. @any: some of them are enough. Return: descriptor; -ENOENT it has none; -ESRCH;
 * -EPERM; negative errno,
 * @problem says
 */
int reclaim_uffd(int pid, int pidfd, const struct handshake *map, bool any,
		 struct problem *problem);

/**
 * reclaim_memory() - a read-write descriptor of the file with this inode, which the process maps
 * Return: descriptor; -ENOENT it does not map it; -ESRCH; -EPERM, -EACCES; negative errno, @problem
 * says
 */
int reclaim_memory(int pid, uint64_t dev, uint64_t ino, struct problem *problem);
