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

/** prepare_reaped() - waitpid() has returned @pid. Return: was it prepare's? */
bool prepare_reaped(struct prepare *p, pid_t pid, int wait_status);
