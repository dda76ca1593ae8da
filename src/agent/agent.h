/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * agent.h - what the parts of the agent share
 *
 * One process, one thread, one loop. `ready` is the gate: it is false from the boot, and again from
 * every prepare, until an init has repaired everything; while it is false nobody can start or reach
 * a process.
 */
#include <stdbool.h>

#include <jansson.h>

#include "agent/cgroup.h"
#include "agent/loop.h"
#include "channel/server.h"

struct port;
struct prepare;
struct process_table;
struct router;
struct workers;

struct agent {
	struct loop *loop;
	struct server *server;
	struct port *port;
	struct router *router;
	struct process_table *processes;
	struct prepare *prepare;
	struct workers *workers; /* threads that transfer files */
	struct cgroup workload;
	int child_fd;	    /* signalfd of SIGCHLD */
	int random_fd;	    /* the kernel's generator, open so that a repair need not look for it */
	json_t *env;	    /* name: value, for every process; set by init */
	char *token;	    /* what clients have to show; NULL: none needed; set by init */
	char *default_user; /* whom clients act as who do not say; NULL: `user`, or root */
	char *default_workdir; /* what "" means; NULL: the user's home */
	bool ready;
	bool owns_machine; /* PID 1 of a guest: may set its name and clock. False in tests */
};
