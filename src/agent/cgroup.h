/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * cgroup.h - the cgroup that holds the sandbox's workload, and its freezer (cgroup v2)
 *
 * Everything the agent starts is born into it or below it, so that one write stops all of it. The agent itself
 * stays outside. Source: Documentation/admin-guide/cgroup-v2.rst, "cgroup.freeze", "cgroup.events".
 */
#include <stdbool.h>

struct cgroup {
	int dir_fd;    /* the directory, for cgroups below it (cell.h) */
	int procs_fd;  /* cgroup.procs, for a new child to write "0" to; -1: no cgroup */
	int freeze_fd; /* cgroup.freeze */
	int events_fd; /* cgroup.events; EPOLLPRI when it changes */
};

#define CGROUP_INIT ((struct cgroup){-1, -1, -1, -1})

/** cgroup_open() - make directory @path below a cgroup2 mount and open its files */
int cgroup_open(struct cgroup *c, const char *path);
void cgroup_close(struct cgroup *c);

/** cgroup_set_frozen() - ask; freezing takes effect later. Return: 0; -ENODEV; negative errno */
int cgroup_set_frozen(struct cgroup *c, bool frozen);

/** cgroup_is_frozen() - has it taken effect? Return: 1, 0; negative errno */
int cgroup_is_frozen(struct cgroup *c);
