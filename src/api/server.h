/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * server.h - the HTTP API on a listening socket
 *
 * One thread per connection, so that handlers are straight-line blocking code; the number of
 * connections and what each may wait for are bounded (api/peers.h), as are the sizes of heads and
 * bodies. A request for a sandbox (api/target.h) goes there (api/proxy.h), every other one to the
 * control API (routes.c).
 */
#include "api/access.h"
#include "base/problem.h"
#include "sandbox/host.h"

struct server;

struct server_config {
	int listen_fd;	       /* a unix or TCP socket; consumed in every case */
	struct access *access; /* borrowed; who has which key */
	bool asks_for_key;     /* otherwise who can connect may do everything */
	bool local;	       /* a unix socket: for root, our own user, and the group */
	gid_t group; /* (gid_t)-1: none */
	bool tls; /* with what tls_load() loaded */
};

/** server_new() - serve @host */
int server_new(struct host *host, const struct server_config *config, struct problem *problem,
	       struct server **ret);

/** server_free() - stop accepting, let requests under way finish, close */
struct server *server_free(struct server *server);
