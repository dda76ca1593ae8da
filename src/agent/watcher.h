/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * watcher.h - the helper (helper.h) that a watch is: events, as answers (answer.h)
 *
 * A stream's: {"start": {}} with status 200, then one {"filesystem": {...}} with status 200 for
 * each event; another status is an error and the last. While the agent does not read, because the
 * client does not, the helper waits and the kernel keeps events, up to
 * fs.inotify.max_queued_events.
 *
 * A polled one's: {"watcherId"}, then {"events": [...]} for each byte that it is sent. It keeps
 * WATCHER_QUEUE_MAX bytes of events. After an error it gives that error each time.
 */
#include "agent/watch.h"

#define WATCHER_QUEUE_MAX (8u << 20)
#define WATCHER_ID_MAX	  32

struct watcher_options {
	struct watch_options watch;
	bool include_entry;
	char id[WATCHER_ID_MAX]; /* of a polled one; "": a stream's */
};

/** watcher_work() - @ctx: struct watcher_options. For helper_start() */
void watcher_work(void *ctx);
