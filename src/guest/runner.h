/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * runner.h - run the programs that make a root file system, and tell what they say
 *
 * One struct for a whole build: who hears the lines, who can cancel, which file system must not run
 * full. A program that is run dies with the thread that waits for it, so a build that is killed
 * leaves no process. One thread.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/problem.h"
#include "guest/guest.h"

#define RUNNER_FREE_BYTES (512ull << 20)
#define RUNNER_TIMEOUT_MS 1800000 /* of one program that says nothing else */

struct runner {
	guest_progress progress;	   /* each line; may be NULL */
	bool (*cancelled)(void *userdata); /* asked five times a second; may be NULL */
	void *userdata;
	const char *watch_dir;	 /* on the file system that must keep RUNNER_FREE_BYTES; or NULL */
	struct problem *problem; /* may be NULL */
};

struct runner_command {
	const char *what; /* for the problem: "unpacking the image" */
	const char *const *argv;
	const char *const *env; /* added; may be NULL */
	const char *cwd;	/* NULL: ours */
	uint64_t timeout_ms;	/* 0: RUNNER_TIMEOUT_MS */
	bool quiet;		/* its lines are not passed on */
	const int *fds;		/* become 3, 4, ...; borrowed */
	size_t n_fds;
	bool guarded; /* no @fds, but as 3 what RUNNER_GUARD waits for */
	struct buf
		*output; /* all it printed (at most 256 KiB), instead of passing it on; or NULL */
};

/*
 * What a bubblewrap of ours runs first, as root: `busybox sh -c RUNNER_GUARD guard PROGRAM
 * ARGUMENT...` replaces itself by the program, and leaves a process behind that ends everything in
 * its PID namespace when descriptor 3 comes to its end, which is when we are gone. bubblewrap's own
 * --die-with-parent misses a parent that dies while the namespace is being made.
 */
#define RUNNER_GUARD                                                                               \
	"[ $$ -lt 10 ] || exit 125; " /* not in a namespace of its own: kill -1 means the host */  \
	"(read x <&3; kill -9 -1) & exec 3<&-; exec \"$@\""

/** runner_busybox() - the path of the host's static busybox */
const char *runner_busybox(void);

/** runner_say() - a line of our own */
void runner_say(const struct runner *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/**
 * runner_run() - run a program to its end, passing on what it prints line by line
 * Return: 0; -EIO when it failed, -ETIMEDOUT, -ECANCELED, -ENOSPC, other negative errno. The
 * problem says which, with the exit status and the end of the output
 */
int runner_run(const struct runner *r, const struct runner_command *c);

/** runner_cancelled() - has whoever waits given up? Sets the problem. Return: 0; -ECANCELED */
int runner_cancelled(const struct runner *r);
