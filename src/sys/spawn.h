/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * spawn.h - start programs that get exactly what they are given
 *
 * A spawned program starts with every signal at its default and unblocked, standard input from
 * /dev/null, and no descriptor of ours except those named. It is not tied to our life: it lives on
 * when we die. Safe in a process with threads. A failing exec is reported as the error of spawn().
 *
 * Worked example: `.fds = {memfd, sock}, .n_fds = 2` gives the program memfd as 3 and sock as 4.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"

#define SPAWN_MAX_FDS	 16
#define SPAWN_OUTPUT_MAX (256ul << 10)

struct spawn_limit {
	int resource;	/* RLIMIT_... */
	uint64_t value; /* soft and hard */
};

struct spawn_options {
	const char *const *argv; /* NULL-terminated; argv[0] is looked up in our PATH */
	const char *const *env;	 /* NULL-terminated "NAME=value": added or replaced; may be NULL */
	bool clear_env;		 /* begin with nothing but PATH, not with all of our environment */
	const int *fds;		 /* borrowed; become 3, 4, ... */
	size_t n_fds;
	int output_fd;	      /* borrowed; standard output and error; -1: /dev/null */
	const char *cwd;      /* NULL: ours */
	bool new_session;     /* setsid(): own process group, no terminal */
	int netns_fd;	      /* borrowed; network namespace that it runs in; 0 or -1: ours */
	bool new_pids;	      /* it is the first process of a pid namespace; its pid here is told */
	bool die_with_parent; /* killed when the thread that started it ends, however that ends */
	const struct spawn_limit *limits;
	size_t n_limits;
};

/**
 * spawn() - start a program
 * @ret_pid:   collect it with waitpid() or pidfd_reap(); may be NULL
 * @ret_pidfd: owned by the caller
 * Return: 0 when the program runs; negative errno of the step that failed (-ENOENT: no such
 * program)
 */
int spawn(const struct spawn_options *options, pid_t *ret_pid, int *ret_pidfd);

/**
 * spawn_run() - run a program to its end and keep what it printed
 * @cwd:        NULL: ours
 * @output:     standard output and error, appended; only the last SPAWN_OUTPUT_MAX bytes; may be
 * NULL
 * @ret_status: exit status; 128 + n when killed by signal n, as shells count
 * Return: 0; -ETIMEDOUT, after killing it and its process group; negative errno
 */
int spawn_run(const char *const argv[], const char *cwd, uint64_t deadline_ns, struct buf *output,
	      int *ret_status);

/** spawn_run_isolated() - the same, with @new_pids as in struct spawn_options */
int spawn_run_isolated(const char *const argv[], bool new_pids, uint64_t deadline_ns,
		       struct buf *output, int *ret_status);
