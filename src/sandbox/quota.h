/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * quota.h - how much each owner may have awake at a time
 *
 * A sandbox counts from before its VM is started until it sleeps, has failed or is gone: while it
 * runs or is being paused by its state, and before that by `charged`, which quota_take() sets once
 * there is room for it. So a burst of creates, wakes and forks cannot exceed a limit, whatever
 * becomes of each, and what fails has given its place back with its state:
 *
 *     limit 2     A running   B creating, charged   C creating: refused
 *                 A running   B's boot fails        D creating: charged
 *
 * What limits there are is asked for each time: they may change while sandboxes run. What runs
 * already is not ended by a lower limit. An owner who is not known, as one whose key was revoked,
 * and the unix socket ("") have none.
 *
 * Lock order: between sandbox.disk and host.lock.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/problem.h"

struct host;
struct sandbox;

/* Return: whether @owner has limits; 0 is none */
typedef bool (*quota_lookup)(void *userdata, const char *owner, uint64_t *ret_sandboxes,
			     uint64_t *ret_memory);

/** quota_set_lookup() - whom to ask; NULL: there are no limits. When it returns the one before is
 *  not asked any more */
void quota_set_lookup(struct host *host, quota_lookup lookup, void *userdata);

/** quota_check() - could @owner have one more? Promises nothing; spares the work of trying. Return:
 *  0; -EDQUOT with a 429 */
int quota_check(struct host *host, const char *owner, struct problem *problem);

/** quota_take() - op held, its memory's size known, not running yet: count it from now on. Return:
 *  0; -EDQUOT with a 429 */
int quota_take(struct sandbox *sb, struct problem *problem);
