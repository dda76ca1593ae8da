/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * cgroup.h - limits for a group of processes, with version 2 of cgroups or version 1
 *
 * A group is a path such as "dormouse/store/sandbox", from the top of the hierarchy that is visible
 * here; its parents are made with it. Version 2 has it once, version 1 once for each controller.
 * What a controller is missing for is not limited: cgroups_describe() tells which there are.
 * Source: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/. Any thread.
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum cgroup_controller { CGROUP_MEMORY, CGROUP_CPU, CGROUP_PIDS, CGROUP_IO, CGROUP_N };

#define CGROUP_PLACE_MAX 128

struct cgroups {
	int version;				 /* 0: none */
	char places[CGROUP_N][CGROUP_PLACE_MAX]; /* "": that controller is not to be had */
};

/* 0: no limit. */
struct cgroup_limits {
	uint64_t memory_bytes; /* private memory and page cache that its processes touched first */
	unsigned cpu_pct;      /* of one processor */
	unsigned pids;	       /* threads */
	uint64_t io_bytes;     /* a second, reading and writing each */
	dev_t device;	       /* of that; a partition's disk is found */
};

/** cgroups_find() - look for controllers. With none of them version is 0 */
void cgroups_find(struct cgroups *ret);

/** cgroups_describe() - "version 2: memory cpu pids io" */
void cgroups_describe(const struct cgroups *c, char *buf, size_t size);

/** cgroup_make() - there already is fine: then only the limits are set. Return: 0; negative errno
 */
int cgroup_make(const struct cgroups *c, const char *group, const struct cgroup_limits *limits);

/** cgroup_add() - put a process, with all of its threads, into it. May take 15 ms: an RCU period */
int cgroup_add(const struct cgroups *c, const char *group, pid_t pid);

/** cgroup_remove() - there is none is fine. Return: 0; -EBUSY while processes are in it */
int cgroup_remove(const struct cgroups *c, const char *group);

/** cgroup_each_child() - the names of the groups in it. Return: 0, or what @visit returned */
int cgroup_each_child(const struct cgroups *c, const char *group,
		      int (*visit)(void *userdata, const char *name), void *userdata);

/** cgroup_each_process() - the processes in it. Return: 0, or what @visit returned */
int cgroup_each_process(const struct cgroups *c, const char *group,
			int (*visit)(void *userdata, pid_t pid), void *userdata);
