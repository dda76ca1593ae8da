/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * process.h - one program that the agent runs for a client, from start to the last byte of its
 * output
 *
 *     state     holds                                              left by
 *     STARTING  forked; exec_fd will tell whether it runs          process_exec_result()
 *     RUNNING   its clients have had `start`                       process_reaped()
 *     EXITED    waited for; its output is still being read         process_finish()
 *     ENDED     its clients have had `end`, or never `start`;      its last descriptor or its exit
 *               what the program's children still write is
 *               read and thrown away, so that they do not get
 *               SIGPIPE; a terminal is closed
 *
 * The clients are an audience (audience.h): the one that started it and those that came with
 * Connect, none or many. Without any the program runs on all the same and its output is thrown
 * away; with a slow one the program waits. How it ended is kept for late ones (exited.h).
 *
 * A program lives in a cgroup of its own (cell.h) if there are cgroups, and leads a session and
 * process group. SIGKILL, and the deadline of its start, reach everything in the cgroup; other
 * signals the process group. What it leaves behind when it ends lives on.
 */
#include <stdint.h>
#include <sys/types.h>

#include "agent/audience.h"
#include "agent/input.h"
#include "agent/spawn.h"

#define PROCESS_MAX	   1024u
#define PROCESS_INPUT_MAX  (8u << 20)  /* input that one program has not read yet */
#define PROCESS_MEMORY_MAX (32u << 20) /* input and descriptions of all of them */

struct process;
struct process_table;

int process_table_new(struct agent *a, struct process_table **ret);
/** process_table_free() - kills what still runs: only tests get here */
struct process_table *process_table_free(struct process_table *t);
DEFINE_CLEANUP(struct process_table *, process_table_free)

struct process_options {
	json_t *config;	   /* as the client sent it; borrowed */
	size_t config_len; /* bytes that it was */
	const char *tag;
	struct listening listening; /* its deadline is the program's, too */
};

/**
 * process_start() - run it, reporting to @rq's stream, whose head has been sent
 * @spawn: its procs_fd is not looked at
 * Return: 0; -EAGAIN when there are PROCESS_MAX; -ENOSPC when PROCESS_MEMORY_MAX is reached;
 * negative errno, with nothing sent
 */
int process_start(struct process_table *t, struct request *rq, const struct spawn_config *spawn,
		  const struct process_options *options);

/** process_find() - a live one by pid, or by tag when @tag is not NULL; or NULL */
struct process *process_find(struct process_table *t, pid_t pid, const char *tag);

/**
 * process_connect() - let @rq, whose head has been sent, follow a program from now on
 * One that has ended in the last seconds gives its `end` at once.
 * Return: 0; -ENOENT; -ENOMEM
 */
int process_connect(struct process_table *t, pid_t pid, const char *tag, struct request *rq,
		    const struct listening *how);

/** process_list() - [{"config", "pid", "tag"}] of the live ones; NULL: no memory */
json_t *process_list(struct process_table *t);

/** process_signal() - see above. Return: 0; negative errno */
int process_signal(struct process *p, int sig);

/** process_kill_left() - SIGKILL to what a program that has ended has left. Return: 0; -ESRCH */
int process_kill_left(struct process_table *t, pid_t pid);

bool process_has_pty(const struct process *p);

/** process_resize() - Return: 0; negative errno */
int process_resize(struct process *p, const struct pty_size *size);

/**
 * process_input() - bytes for its standard input or terminal; the rest as for input_queue_push()
 * Return: 0; -EPIPE when it has none, or no longer reads it; -ENOSPC when too much is waiting;
 * -ENOMEM
 */
int process_input(struct process *p, const void *data, size_t len, input_done done, void *userdata,
		  struct input **slot);

/** process_close_input() - end of file after what is waiting. Return: 0; -EPIPE as above */
int process_close_input(struct process *p);

/** process_reaped() - waitpid() has returned @pid. Return: was it one of these? */
bool process_reaped(struct process_table *t, pid_t pid, int wait_status);

/** process_table_sweep() - children have died: cgroups may have become empty */
void process_table_sweep(struct process_table *t);
