/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * prepare.h - POST /prepare: make the guest quiet before it is snapshotted
 *
 * Each step has its own time limit, is best effort and is reported (report.h):
 *
 *     hooks        the sandbox's own, before-sleep (hooks.h), while the workload still runs
 *     freeze       the workload's cgroup, until it is frozen
 *     connections  those to the outside are counted, for the repair to end
 *     sync         what is written reaches the disks
 *     trim         what is free is given back to them (trim.h)
 *     drop_caches  the page cache, once: what can be read again need not be in the snapshot
 *
 * With {"disks": true} in the body only the disks will be kept: writing to them is worth more time,
 * the page cache is left alone, and after the trim comes
 *
 *     freeze_disk  the disk's file system (FIFREEZE): written to the end, and not any more
 *
 * From the beginning no new request is accepted; with the answer the session is sealed
 * (channel/server.h), and the gate (agent.ready) is shut until the next init. The agent's loop
 * never waits: freezing is an event, the others that take time are child processes.
 */
#include "agent/router.h"

struct prepare;

int prepare_new(struct agent *a, struct prepare **ret);
struct prepare *prepare_free(struct prepare *p);
DEFINE_CLEANUP(struct prepare *, prepare_free)

/** prepare_add() - add the route */
int prepare_add(struct router *r);

/** prepare_cancel() - one that is still going on does nothing more */
void prepare_cancel(struct prepare *p);

/** prepare_thaw_disk() - of a prepare that kept only the disks: they can be written again */
void prepare_thaw_disk(struct prepare *p);

/** prepare_reaped() - waitpid() has returned @pid. Return: was it prepare's? */
bool prepare_reaped(struct prepare *p, pid_t pid, int wait_status);
