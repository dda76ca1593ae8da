/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * listeners.h - the TCP sockets that listen in this machine
 *
 * Asked of the kernel with netlink (sock_diag(7), the modules inet_diag and tcp_diag), which gives
 * binary records of listeners alone; /proc/net/tcp would be text about every connection.
 */
#include <jansson.h>

/**
 * listeners_list() - all of them, on whatever address, ordered by port, IPv4 first
 * @ret: array of {"port", "address", "family": "ipv4" or "ipv6", "uid", "pid"?, "process"?}; new
 * reference. pid and process are those of the lowest pid that holds the socket; left out when
 * nobody is found among the first LISTENERS_MAX_LINKS descriptors of all processes, which bounds
 * the time that this takes.
 * Return: 0; -ENOENT when the kernel cannot say; -EFBIG for more than LISTENERS_MAX; negative errno
 */
int listeners_list(json_t **ret);

#define LISTENERS_MAX	    4096u
#define LISTENERS_MAX_LINKS 16384u
