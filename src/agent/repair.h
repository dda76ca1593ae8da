/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * repair.h - POST /init: make a sandbox that has just booted, woken or been forked fit for use
 *
 * A woken sandbox has another's name, yesterday's clock, and the random numbers that all its
 * siblings will draw too. Each step is mandatory, in order; the workload's cgroup is thawed last.
 * When one fails the answer is 500, the gate (agent.ready) stays shut, and the host discards the
 * VM.
 */
#include "agent/router.h"

/** repair_add() - add the route */
int repair_add(struct router *r);
