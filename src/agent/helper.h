/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * helper.h - work that may block, in a process of its own
 *
 * The agent has one thread. What touches the sandbox's files may take minutes (a tree of a million
 * files) or hang for ever (FUSE, NFS), so it runs in a fork of the agent: an ordinary process,
 * without the agent's priority, first to go when memory is short, outside the workload's cgroup.
 * It has one descriptor, HELPER_FD, the other end of helper.fd; it ends when its work returns, and
 * is killed when the agent gives it up. One that cannot be killed (stuck in the kernel) counts
 * against HELPER_MAX until it ends.
 *
 * The agent has other threads (worker.h) at the moment of the fork, and what they held stays locked
 * in the child: work must not use streams of stdio, nor functions that know time zones (gmtime(),
 * strftime()). malloc() is safe: the C library takes care of it.
 */
#include <stdbool.h>
#include <sys/types.h>

struct agent;

#define HELPER_FD  3
#define HELPER_MAX 256u

/* The agent's list of them; zero is empty. */
struct helper_set {
	pid_t pids[HELPER_MAX];
	unsigned n;
};

struct helper {
	pid_t pid;
	int fd; /* a stream socket, non-blocking at this end */
};

#define HELPER_NONE ((struct helper){-1, -1})

/**
 * helper_start() - run @work(@ctx) in a child
 * @ctx: the child has a copy of all memory as it is now
 * Return: 0; -EAGAIN when there are too many; negative errno
 */
int helper_start(struct agent *a, void (*work)(void *ctx), void *ctx, struct helper *ret);

/** helper_stop() - kill it, if it still runs, and forget it. Return: HELPER_NONE */
struct helper helper_stop(struct agent *a, struct helper h);

/** helper_reaped() - waitpid() has returned @pid. Return: was it a helper? */
bool helper_reaped(struct helper_set *set, pid_t pid);
