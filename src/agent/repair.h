/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * repair.h - POST /init: make a sandbox that has just booted, woken or been forked fit for use
 *
 * A woken sandbox has another's name, yesterday's clock, connections without another end, and the
 * random numbers that all its siblings will draw too. Each step is mandatory, in this order:
 *
 *     identity     names, and the files that tell them (identity.h)
 *     access       token, environment, default user and directory: replaced, or cleared when absent
 *     clock        stepped to the host's
 *     random       the kernel's generator credited with the host's entropy, and reseeded
 *     connections  those to the outside ended (tcp.h), if it slept
 *     hooks        the sandbox's own, after-wake (hooks.h)
 *     thaw         the workload runs
 *
 * When one fails the answer says so, the gate (agent.ready) stays shut, and the host discards the
 * VM. The answer is {"ok": true}, or {"code": 500, "message", "ok": false}; with hooks it comes in
 * two parts (report.h), the first of which has the status 200 in either case. What the steps did
 * and how long they took tells GET /repair, later: the answer to /init is the first that a woken
 * sandbox computes, and what it does not have to say it need not compute.
 */
#include "agent/router.h"

struct repair;

int repair_new(struct agent *a, struct repair **ret);
struct repair *repair_free(struct repair *rp);
DEFINE_CLEANUP(struct repair *, repair_free)

/** repair_add() - add the routes */
int repair_add(struct router *r);

/** repair_is_busy() - is an init waiting for hooks? */
bool repair_is_busy(const struct repair *rp);
