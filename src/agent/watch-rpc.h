/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * watch-rpc.h - WatchDir, and CreateWatcher, GetWatcherEvents, RemoveWatcher
 *
 * The watching itself is a helper's (watcher.h), one for each. A stream ends with its client, its
 * deadline, the first error, or the next sleep. A polled watcher lives until it is removed, also
 * through sleep and in forks; there can be WATCHERS_MAX.
 */
#include "agent/router.h"

#define WATCHERS_MAX 64u

struct watch_table;

int watch_table_new(struct agent *a, struct watch_table **ret);
struct watch_table *watch_table_free(struct watch_table *t);
DEFINE_CLEANUP(struct watch_table *, watch_table_free)

/** watch_rpc_add() - add the routes; they use agent.watches */
int watch_rpc_add(struct router *r);
