/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * jail.h - a VMM that its guest took over reaches nothing but what is its own
 *
 * Every VMM is started through dorm-jail (vmm/jail/), which puts up walls and becomes the VMM by
 * exec. Which walls a host has room for is asked once, by jail_probe(); a VMM gets all of those. It
 * is left with: its program and the libraries of the system, read-only; the layers of its own disk,
 * read-only; the directory of the file that its disk is written into; descriptors of its memory,
 * log, sockets and pager session, which it inherits.
 *
 * Why not bubblewrap: its own pid is not the VMM's (it stays as a parent, or reports a child's); a
 * user of its own takes a user namespace, in which files belong to nobody and /dev/userfaultfd
 * cannot be opened; and it starts in 12 ms where dorm-jail takes 2.
 */
#include <stddef.h>
#include <stdint.h>

#include "base/problem.h"
#include "sys/cgroup.h"

struct vmm_config;

enum jail_wall {
	JAIL_ROOT = 1 << 0,	  /* an empty, read-only root with nothing but its own files */
	JAIL_USER = 1 << 1,	  /* an unprivileged user of its own; needs JAIL_ROOT */
	JAIL_PIDS = 1 << 2,	  /* sees no process but itself */
	JAIL_NAMESPACES = 1 << 3, /* of ipc, uts and cgroups */
	JAIL_FILTER = 1 << 4,	  /* of system calls; no new privileges */
};
#define JAIL_N_WALLS 5
#define JAIL_ALL     ((1u << JAIL_N_WALLS) - 1)

/* One VMM's. */
struct vmm_jail {
	const char *program; /* dorm-jail */
	unsigned walls;	     /* of enum jail_wall */
	uint32_t uid;	     /* with JAIL_USER; nobody else's as long as the VMM lives */
	const char *tag;     /* proc_root_source() tells it again */
	uint64_t max_file;   /* the largest file it may write, bytes; 0: any */
	/* what it is counted against, made before and removed after by the caller; "": nothing */
	const struct cgroups *cgroups;
	const char *cgroup;
};

/** jail_wall_name() - "root", "user", "pids", "namespaces", "filter" */
const char *jail_wall_name(enum jail_wall wall);

/**
 * jail_probe() - which walls can be had? Tries each with @program; takes some milliseconds
 * @why: of each wall that is missing, for people; indexed by the number of its bit
 * Return: a set of enum jail_wall
 */
unsigned jail_probe(const char *program, char why[JAIL_N_WALLS][160]);

/**
 * jail_command() - the command line that starts @argv in a jail
 * @argv: the VMM's; argv[0] is looked up in PATH
 * @ret:  NULL-terminated; release with jail_command_free()
 */
int jail_command(const struct vmm_jail *jail, const struct vmm_config *config,
		 const char *const *argv, struct problem *problem, char ***ret);
char **jail_command_free(char **command);
