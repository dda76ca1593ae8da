/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * activation.h - listening sockets that somebody else made: systemd's socket activation
 *
 * The service manager binds and listens, starts us when the first connection comes (or always), and
 * hands the sockets over as descriptors 3, 4, ... with LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES in
 * the environment. A service that is restarted finds the same sockets with their backlog, so that
 * no peer is ever refused.
 *
 * Called once, early in main(), before anything is opened or forked. One thread.
 * Source: sd_listen_fds(3), systemd.socket(5) FileDescriptorName=.
 */
#include <stddef.h>

#include "base/problem.h"

#define ACTIVATION_MAX	    16u
#define ACTIVATION_NAME_MAX 255u

struct activation {
	size_t n;
	struct {
		int fd;				    /* CLOEXEC; the caller's */
		char name[ACTIVATION_NAME_MAX + 1]; /* FileDescriptorName=, or "unknown" */
	} sockets[ACTIVATION_MAX];
};

/**
 * activation_take() - take what was handed over, and remove it from the environment
 *
 * The variables that are meant for another process (LISTEN_PID) are removed and their descriptors
 * left alone.
 * Return: 0 (also when nothing was); -EINVAL when the variables make no sense, a descriptor is not
 * there, or there are more than ACTIVATION_MAX; @problem says
 */
int activation_take(struct activation *ret, struct problem *problem);

/**
 * activation_check() - is a descriptor a listening unix socket of this type?
 * @type: SOCK_STREAM or SOCK_SEQPACKET
 * Return: 0; -ENOTSOCK, -EPROTOTYPE; @problem says
 */
int activation_check(int fd, int type, const char *name, struct problem *problem);
