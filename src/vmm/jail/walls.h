/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * walls.h - the parts of dorm-jail, in the order in which main() puts them up
 *
 * dorm-jail is started by dormd as the first process of a new pid namespace, still root, with the
 * descriptors of a VMM; it takes away from itself what a VMM does not need and becomes the VMM by
 * exec, so that dormd knows the pid all along. It has no threads and lives for a millisecond or
 * two. Every function returns 0 or a negative errno, with what failed in wall_error().
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WALLS_MAX_PATHS 64

enum wall_bind {
	WALL_READ,     /* read-only, and must be there */
	WALL_TRY_READ, /* left out where the host has none; a symbolic link is made again */
	WALL_WRITE,
	WALL_DIRECTORY, /* an empty one */
	WALL_DEVICE,	/* a character device of the same number, for the jail's user */
};

struct wall_path {
	enum wall_bind how;
	const char *path; /* absolute */
};

struct walls {
	bool root; /* a mount namespace and an empty root with nothing but @paths */
	struct wall_path paths[WALLS_MAX_PATHS];
	size_t n_paths;
	const char *tag; /* what the root is called in /proc/PID/mountinfo */
	bool namespaces; /* own ipc, uts and cgroup namespaces */
	bool user;	 /* become @uid, with a group of the same number, and no other */
	uint32_t uid;
	bool filter;	   /* system calls; see filter.c */
	bool quiet;	   /* oom_score_adj up, so that it goes before dormd and the pager */
	uint64_t max_file; /* RLIMIT_FSIZE; 0: none */
	const char *cwd;   /* in the jail */
	const char *pager; /* socket to connect to */
	bool userfaultfd;  /* open /dev/userfaultfd for it */
};

/** wall_fail() - note what failed. Return: -errno */
int wall_fail(const char *what, const char *path);
/** wall_error() - what the last failure was, for people */
const char *wall_error(void);

/** wall_root() - pivot into a root of our own; root only */
int wall_root(const struct walls *w);
/** wall_limits() - resource limits; before the user changes */
int wall_limits(const struct walls *w);
/** wall_privileges() - user, groups, capabilities, no_new_privs */
int wall_privileges(const struct walls *w);
/** wall_filter() - no way back, also not over an exec */
int wall_filter(void);
