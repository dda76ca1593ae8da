/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * forward.h - connections of this host carried to a port of a sandbox, many at once
 *
 *     forward_new()      for one sandbox
 *     forward_listen()   any number of times
 *     forward_run()      until something fails that is not one connection's own business
 *     or forward_stdio() one connection, with standard input and output as its other end
 *     forward_free()
 *
 * Each connection is a request with "Upgrade: tcp" to dormd and from then on raw bytes. One thread,
 * one poll(2) loop; each direction of each connection holds one buffer and reads only when it is
 * empty. An end of file is passed on, and leaves the other direction open.
 */
#include <stdint.h>

#include "base/mem.h"
#include "base/problem.h"

#define FORWARD_MAX 256u /* connections at once; further ones wait to be accepted */

struct forward;

/** forward_new() - @socket_path: of dormd; @sandbox_id: both borrowed */
int forward_new(const char *socket_path, const char *sandbox_id, struct forward **ret);
struct forward *forward_free(struct forward *f);
DEFINE_CLEANUP(struct forward *, forward_free)

/** forward_listen() - take connections on @fd (listening, consumed) to @port of the sandbox */
int forward_listen(struct forward *f, int fd, uint16_t port);

/** forward_run() - serve. Problems of one connection go to standard error. Return: negative errno
 */
int forward_run(struct forward *f);

/** forward_stdio() - Return: 0 when the sandbox's end has ended; HTTP_E_STATUS or negative errno
 *  with @problem */
int forward_stdio(struct forward *f, uint16_t port, struct problem *problem);
