/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * cell.h - a cgroup for each program, below the workload's
 *
 * Whatever a program starts, also what leaves its session, is born into the program's cell: one
 * write ends all of it, and what is left when the program itself has ended can still be found. The
 * cells are frozen with the workload that they lie in.
 *
 * No controller is switched on below the workload, so the rule against processes in inner cgroups
 * does not apply, and the workload may hold processes of its own.
 *
 *     cell_new()    the directory "pN"; the child enters it through a descriptor
 *     cell_leave()  the program has ended: the directory goes at once, or, when something of the
 *                   program lives on, in a later cells_sweep(), after a child of init has died
 *
 * Nothing is polled, and no descriptor is kept open.
 * Source: Documentation/admin-guide/cgroup-v2.rst, "cgroup.kill" (Linux 5.14)
 */
#include <stdint.h>
#include <sys/types.h>

#include "agent/cgroup.h"

struct cell;

struct cells {
	const struct cgroup *workload; /* borrowed */
	uint64_t last;		       /* number of the newest directory */
	struct cell *left;	       /* those whose program has ended */
};

/**
 * cell_new() - a cell for a program that is about to start
 * @ret_procs_fd: cgroup.procs, for the child to write "0" to; the caller's
 * Return: 0; -ENODEV when there are no cgroups; negative errno
 */
int cell_new(struct cells *cs, struct cell **ret, int *ret_procs_fd);

/** cell_set_pid() - under which number cells_kill_left() finds it */
void cell_set_pid(struct cell *c, pid_t pid);

/** cell_kill() - SIGKILL to all in it. Return: 0; negative errno: use the process group then */
int cell_kill(struct cell *c);

/** cell_leave() - the program has ended, or never began; @c may be NULL. Return: NULL */
struct cell *cell_leave(struct cell *c);

/** cells_kill_left() - SIGKILL to what an ended program has left. Return: 0; -ESRCH */
int cells_kill_left(struct cells *cs, pid_t pid);

/** cells_sweep() - remove the cells that have become empty */
void cells_sweep(struct cells *cs);

/** cells_deinit() - forget those that are left, without removing what is in use */
void cells_deinit(struct cells *cs);
