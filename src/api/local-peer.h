/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * local-peer.h - which user is at the other end of a unix socket, and may he do everything?
 *
 * Root and our own user may, and members of one group that the configuration names. The socket's
 * permissions say much the same; this holds whatever becomes of them. Any thread.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/problem.h"

/**
 * local_peer_check() - @fd: a connection
 * @group: (gid_t)-1: none
 * @ret_uid: set in any case
 * Return: 0; -EPERM with a 403
 */
int local_peer_check(int fd, gid_t group, struct problem *problem, uint32_t *ret_uid);
