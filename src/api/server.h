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

/**
 * server_new() - serve @host on @listen_fd (listening unix or TCP socket; consumed in every case)
 * @access: who may use the control API here; borrowed; NULL: everybody who can connect
 */
int server_new(struct host *host, int listen_fd, const struct access *access,
	       struct problem *problem, struct server **ret);

/** server_free() - stop accepting, let requests under way finish, close */
struct server *server_free(struct server *server);
