/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* watch-message.h - what WatchDir and CreateWatcher are asked */
#include "agent/router.h"
#include "agent/watcher.h"

struct watch_message {
	struct watcher_options options; /* path belongs to the message */
	char *path;
};

/**
 * watch_message_read() - {"path", "recursive", "includeEntry", "allowNetworkMounts"}
 * Return: 0; negative errno with a 400, 401 or 503 in @problem. watch_message_deinit() in every
 * case
 */
int watch_message_read(struct request *rq, json_t *message, struct problem *problem,
		       struct watch_message *ret);
void watch_message_deinit(struct watch_message *m);
