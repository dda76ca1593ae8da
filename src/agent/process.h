/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * process.h - one program that the agent runs for a client, from start to the last byte of its
 * output
 *
 *     state     holds                                              left by
 *     STARTING  forked; exec_fd will tell whether it runs          process_exec_result()
 *     RUNNING   the client has had `start`                         process_reaped()
 *     EXITED    waited for; its output is still being read         process_finish()
 *     ENDED     the client has had `end`, or never had `start`;    its last descriptor or its exit
 *               what the program's children still write is
 *               read and thrown away, so that they do not get
 *               SIGPIPE
 *
 * The client is a kept `struct request`, or NULL when it went away: the program runs on all the
 * same and its output is discarded. A slow client makes us stop reading the pipes, and so the
 * program wait.
 */
#include <stdint.h>
#include <sys/types.h>

#include "agent/router.h"
#include "agent/spawn.h"

#define PROCESS_MAX	  1024u
#define PROCESS_INPUT_MAX (8u << 20) /* input that one program has not read yet */

struct process;
struct process_table;

int process_table_new(struct agent *a, struct process_table **ret);
/** process_table_free() - kills what still runs: only tests get here */
struct process_table *process_table_free(struct process_table *t);
DEFINE_CLEANUP(struct process_table *, process_table_free)

struct process_options {
	json_t *config; /* as the client sent it; borrowed */
	const char *tag;
	uint64_t timeout_ms; /* 0: none */
	uint64_t keepalive_ms;
};

/**
 * process_start() - run it, reporting to @rq's stream, whose head has been sent
 * Return: 0; -EAGAIN when there are too many; negative errno, with nothing sent
 */
int process_start(struct process_table *t, struct request *rq, const struct spawn_config *spawn,
		  const struct process_options *options);

/** process_find() - a live one by pid, or by tag when @tag is not NULL; or NULL */
struct process *process_find(struct process_table *t, pid_t pid, const char *tag);

/** process_list() - [{"config", "pid", "tag"}] of the live ones */
json_t *process_list(struct process_table *t);

/** process_signal() - to its whole process group */
int process_signal(struct process *p, int sig);

/**
 * process_input() - bytes for its standard input; @rq is answered when they have been written
 * Return: 0; -EPIPE when it has none, or no longer reads it; -ENOSPC when too much is waiting;
 * -ENOMEM
 */
int process_input(struct process *p, struct request *rq, const void *data, size_t len);

/** process_close_input() - end of file after what is waiting. Return: 0; -EPIPE as above */
int process_close_input(struct process *p);

/** process_reaped() - waitpid() has returned @pid. Return: was it one of these? */
bool process_reaped(struct process_table *t, pid_t pid, int wait_status);
