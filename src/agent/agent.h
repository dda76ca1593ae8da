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
#include "agent/identity.h"
#include "agent/loop.h"
#include "channel/server.h"

struct hooks;
struct network;
struct port;
struct ports;
struct prepare;
struct process_table;
struct repair;
struct router;
struct workers;

struct agent {
	struct loop *loop;
	struct server *server;
	struct port *port;
	struct router *router;
	struct process_table *processes;
	struct prepare *prepare;
	struct repair *repair;
	struct hooks *hooks;
	struct ports *ports;
	struct network *network;
	struct workers *workers; /* threads that transfer files */
	struct cgroup workload;
	int child_fd;	 /* signalfd of SIGCHLD */
	int random_fd;	 /* the kernel's generator, open so that a repair need not look for it */
	int tcp_fd;	 /* of tcp.h; -1: this kernel has none */
	int connections; /* to the outside, when the workload was frozen; -1: not known */
	struct identity_plan plan; /* of the identity, from prepare */
	struct identity identity;  /* set by init; all "" before the first */
	const char *root;      /* "" in a guest; in tests a directory that stands for /, or NULL */
	json_t *env;	       /* name: value, for every process; set by init */
	char *token;	       /* what clients have to show; NULL: none needed; set by init */
	char *default_user;    /* whom clients act as who do not say; NULL: `user`, or root */
	char *default_workdir; /* what "" means; NULL: the user's home */
	bool ready;
	bool owns_machine; /* PID 1 of a guest: may set its name and clock. False in tests */
};
