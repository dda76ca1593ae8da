/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * pidfd.h - a process by descriptor: a name that is never reused, and can be waited for
 *
 * Works for any process, child or not; only pidfd_reap() tells how a child ended. Any thread.
 * Source: pidfd_open(2), pidfd_send_signal(2), waitid(2) P_PIDFD.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/** pidfd_from_pid() - Return: a CLOEXEC descriptor; -ESRCH when there is no such process */
int pidfd_from_pid(pid_t pid);

/**
 * pidfd_from_peer() - the process at the other end of a Unix stream connection
 * @ret_certain: was it taken from the connection (Linux 6.5)? Else it was found by its number,
 * which another process may have by now; may be NULL Return: 0; -ESRCH when it is not visible from
 * here, or is this process; negative errno
 */
int pidfd_from_peer(int conn, int *ret_pid, int *ret_pidfd, bool *ret_certain);

/** pidfd_signal() - send @sig. Return: 0; -ESRCH when it is gone; negative errno */
int pidfd_signal(int pidfd, int sig);

/** pidfd_is_gone() - has it ended (a zombie counts)? Return: 1 gone, 0 alive; negative errno */
int pidfd_is_gone(int pidfd);

/** pidfd_wait() - wait until it ended. Does not reap. Return: 0; -ETIMEDOUT; negative errno */
int pidfd_wait(int pidfd, uint64_t deadline_ns);

/* How a process ended: an exit status, or the signal that killed it. */
struct pidfd_end {
	int status; /* 0 to 255; -1 when killed */
	int signal; /* 0 when it exited by itself */
};

/**
 * pidfd_reap() - collect a child that has ended
 * Return: 0; -EAGAIN while it lives; -ECHILD when it is not our child or was collected before
 */
int pidfd_reap(int pidfd, struct pidfd_end *ret);

/** pidfd_describe_end() - "exited with status 1", "killed by signal 9 (Killed)" */
void pidfd_describe_end(const struct pidfd_end *end, char *buf, size_t size);
