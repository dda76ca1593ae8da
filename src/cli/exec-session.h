/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * exec-session.h - run one command in a sandbox as if it ran here, or follow one that runs there
 *
 * Its output appears on our standard output and error, unchanged; our standard input goes to it if
 * asked; SIGINT, SIGTERM and SIGHUP that we get end it: the first one as SIGTERM, the second as
 * SIGKILL, after the third we leave. The exit code is the command's (cli.h).
 *
 * With a terminal every key goes to it, and so do changes of our terminal's size; Ctrl-] leaves,
 * and so does SIGHUP (our terminal is gone). A command that is only followed (attach) is never
 * ended: any signal leaves. Leaving means that it goes on without us.
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
	const char *attach; /* instead: pid or tag of a running one; NULL: start argv */
	const char *tag;    /* NULL: none */
	bool tty;	    /* it gets, or has, a terminal; our standard input may be another */
	bool detach;	    /* print its pid and leave it running */
	const char *user;   /* NULL: the sandbox's default user */
	const char *cwd;    /* NULL: the user's home */
	json_t *envs;	    /* object, borrowed; NULL: none */
	bool interactive;   /* forward standard input */
	uint64_t timeout_s; /* 0: none */
};

/** exec_session_run() - run it to its end, printing errors. Return: the exit code */
int exec_session_run(const struct cli *cli, const struct exec_options *options);

/** exec_signals_block() - hold SIGINT, SIGTERM, SIGHUP back for a session that is about to begin */
void exec_signals_block(sigset_t *ret_old);

/** exec_signals_restore() - back to @old; signals that came meanwhile are forgotten */
void exec_signals_restore(const sigset_t *old);
