/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * spawn.h - from a description to a running program
 *
 * The child becomes a session leader in a cgroup of its own, with the user's identity, and then
 * tries to change directory and to execute; anything that can block on the sandbox's files happens
 * there, not in PID 1. Success or failure comes through exec_fd: end of file, or one `struct
 * spawn_failure`.
 */
#include <stdbool.h>
#include <sys/types.h>

#include "agent/pty.h"
#include "agent/user.h"

struct spawn_config {
	char **argv; /* argv[0] is searched in the PATH of @envp unless it has a slash */
	char **envp;
	const char *cwd;
	bool cwd_is_default; /* "/" will do when it cannot be entered */
	bool with_stdin;     /* a pipe; otherwise /dev/null. Means nothing with a terminal */
	bool with_pty;	     /* a controlling terminal instead of three pipes */
	struct pty_size size;
	bool system; /* of the system's own: not what a guest short of memory kills first */
	const struct user *user;
	int procs_fd; /* cgroup.procs of its cgroup; -1: stay */
};

struct spawn {
	pid_t pid;
	int stdin_fd;  /* ours, non-blocking; -1 without stdin; of a terminal a second descriptor */
	int stdout_fd; /* of a terminal: our end of it */
	int stderr_fd; /* -1 with a terminal */
	int exec_fd;
};

enum spawn_stage { SPAWN_CGROUP, SPAWN_STDIO, SPAWN_USER, SPAWN_CWD, SPAWN_EXEC };

struct spawn_failure {
	enum spawn_stage stage;
	int error; /* errno */
};

/** spawn_start() - all descriptors in @ret are the caller's. Return: 0; negative errno */
int spawn_start(const struct spawn_config *config, struct spawn *ret);
