/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * pty.h - pseudo-terminals
 *
 * Source: pty(7), ioctl_tty(2), TIOCGPTPEER (Linux 4.13): the other end without its name, which a
 * sandbox's root could have replaced
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PTY_SIZE_MAX 65535u

/* What may wait between a program and us: the flip buffer of 64 KiB and the line discipline's. */
#define PTY_CAPACITY (68u * 1024)

struct pty_size {
	uint16_t cols, rows;
};

/**
 * pty_open() - a pair of that size
 * @owner:      to whom the terminal belongs
 * @ret_master: our end, non-blocking
 * @ret_slave:  the program's
 * Return: 0; negative errno
 */
int pty_open(const struct pty_size *size, uid_t owner, int *ret_master, int *ret_slave);

/** pty_resize() - the foreground programs get SIGWINCH when it changes */
int pty_resize(int master, const struct pty_size *size);
