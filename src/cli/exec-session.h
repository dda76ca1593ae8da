/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * exec-session.h - run one command in a sandbox as if it ran here
 *
 * Its output appears on our standard output and error, unchanged; our standard input goes to it if
 * asked; SIGINT, SIGTERM and SIGHUP that we get end it: the first one as SIGTERM, the second as
 * SIGKILL, after the third we leave. The exit code is the command's (cli.h).
 */
#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/cli.h"

struct exec_options {
	const char *sandbox_id;
	char **argv; /* program and arguments */
	size_t n_argv;
	const char *user;   /* NULL: the sandbox's default user */
	const char *cwd;    /* NULL: the user's home */
	json_t *envs;	    /* object, borrowed */
	bool interactive;   /* forward standard input */
	uint64_t timeout_s; /* 0: none */
};

/** exec_session_run() - run it to its end, printing errors. Return: the exit code */
int exec_session_run(const struct cli *cli, const struct exec_options *options);

/** exec_signals_block() - hold SIGINT, SIGTERM, SIGHUP back for a session that is about to begin */
void exec_signals_block(sigset_t *ret_old);

/** exec_signals_restore() - back to @old; signals that came meanwhile are forgotten */
void exec_signals_restore(const sigset_t *old);
