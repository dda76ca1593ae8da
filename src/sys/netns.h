/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* netns.h - network namespaces: a room without a network for processes that need none. Any thread.
 */

/**
 * netns_new() - a new network namespace with nothing in it but a loopback device that is down
 * For spawn_options.netns_fd. It lives as long as the descriptor, or a process in it. Unix sockets
 * with a path work across namespaces; abstract ones do not.
 * Return: descriptor, owned by the caller; -EPERM without CAP_SYS_ADMIN; negative errno
 * Source: network_namespaces(7), setns(2)
 */
int netns_new(void);
