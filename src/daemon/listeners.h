/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* listeners.h - where the API is served: a unix socket, and TCP if that is configured */
#include "api/access.h"
#include "api/server.h"
#include "daemon/settings.h"

struct listeners {
	struct access *access;
	struct server *local, *tcp;
};

/**
 * listeners_open() - @handed_fd: the unix socket, from the service manager; -1: make it. Consumed
 * On failure there may be a part of it: listeners_close() in every case.
 */
int listeners_open(const struct settings *s, struct host *host, int handed_fd,
		   struct problem *problem, struct listeners *l);
void listeners_close(struct listeners *l);
