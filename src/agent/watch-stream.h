/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * watch-stream.h - WatchDir: from a watcher's answers to the messages of a stream
 *
 * Lives from watch_stream_open() until its client, its helper or its deadline ends it. The first
 * message has to come within WATCH_START_MS: until then a hanging file system may be in the way.
 * A client that does not read makes the helper wait.
 */
#include "agent/router.h"
#include "agent/watcher.h"

#define WATCH_START_MS 30000u

/** watch_stream_open() - @rq: a stream that has its head (connect_stream_begin()); ended if it
 *  cannot be done */
void watch_stream_open(struct request *rq, const struct watcher_options *options);
