/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * process-internal.h - what process.c (the life of one) and process-table.c (all of them, and what
 * clients do with one) share
 */
#include "agent/agent.h"
#include "agent/cell.h"
#include "agent/exited.h"
#include "agent/output.h"
#include "agent/process.h"

enum process_state { PROCESS_STARTING, PROCESS_RUNNING, PROCESS_EXITED, PROCESS_ENDED };

struct process {
	struct process_table *table;
	struct process *next, **prev;
	enum process_state state;
	bool reaped, has_pty;
	int wait_status;
	uint64_t start_ns, duration_ns; /* of the request; until its end is told */
	pid_t pid;
	json_t *config;
	size_t config_len;
	char *tag;
	char *cwd;	   /* for messages */
	struct cell *cell; /* NULL: no cgroup of its own, or it has left it */
	struct audience audience;
	int exec_fd;
	struct loop_source *exec_source;
	struct output out[2]; /* a terminal is the first */
	struct input_queue in;
	struct loop_timer timeout, grace;
	uint64_t read_ns; /* last output after the exit */
	uint64_t grace_end_ns;
};

struct process_table {
	struct agent *agent;
	struct process *first;
	unsigned n;
	struct cells cells;
	struct exited_list exited;
	struct crowd crowd;
};

/** process_new() - in the table, not yet running. Return: 0; -ENOMEM */
int process_new(struct process_table *t, const struct spawn_config *spawn,
		const struct process_options *o, struct process **ret);
void process_free(struct process *p);

/** process_run() - fork it, and wait for exec. Return: 0; negative errno: free it */
int process_run(struct process *p, const struct spawn_config *config, uint64_t deadline_ns);

/** process_kill() - SIGKILL to all of it, and to what has not entered the cell yet */
void process_kill(struct process *p);

/** process_waited() - it has been waited for; @p may be gone afterwards */
void process_waited(struct process *p, int wait_status);
