/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * prepare.h - POST /prepare: make the guest quiet before it is snapshotted
 *
 * freeze the workload's cgroup, sync file systems, drop the page cache; each with its own time
 * limit, each best effort, each reported. From the beginning no new request is accepted; with the
 * answer the session is sealed (channel/server.h), and the gate (agent.ready) is shut until the
 * next init. The agent's loop never waits: freezing is an event, the other two are child processes.
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

/** prepare_report() - append {"name", "ok", "ms", "error"} to @report; @r: 0 or negative errno */
void prepare_report(json_t *report, const char *name, int r, uint64_t took_ns);
