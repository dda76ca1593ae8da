/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * tcp.h - the sandbox's connections to the outside, seen and ended through sock_diag
 *
 * A connection that was open when the sandbox fell asleep has no other end when it wakes. Nobody
 * tells the program: it would wait for minutes until a retransmission gives up. Destroying the
 * socket tells it at once (ECONNABORTED). Connections within the sandbox go on as they were: those
 * whose two ends have the same address, which all over the loopback interface have.
 *
 * Nothing here waits: the kernel answers a netlink request before the request returns.
 * Source: sock_diag(7), net/ipv4/tcp.c tcp_abort(). Needs the module tcp_diag, and
 * CONFIG_INET_DIAG_DESTROY, which Debian's kernels have.
 */

/** tcp_open() - Return: a descriptor for the others; negative errno */
int tcp_open(void);

/** tcp_count() - how many connections to the outside are there? Return: >= 0; -ENOENT without
 *  tcp_diag; negative errno */
int tcp_count(int fd);

/**
 * tcp_reset() - end them all
 * Return: how many; -ENOENT, -EOPNOTSUPP when this kernel cannot; negative errno
 */
int tcp_reset(int fd);
