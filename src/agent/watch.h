/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * watch.h - what happens in a directory, from inotify, as fsnotify and so envd report it
 *
 *     created, or moved here     CREATE of its name
 *     moved away                 RENAME of its old name; CREATE of the new one, if that is watched
 *     written                    WRITE
 *     deleted                    REMOVE
 *     mode, owner, times...      CHMOD
 *
 * Names are relative to the watched directory, which itself is ".". Recursive: a directory that
 * appears joins. A file that the agent itself makes under a name that begins with WATCH_HIDDEN, to
 * rename it when it is complete (uploads, moves across file systems), is reported under its real
 * name alone. What was in it before it could be watched is reported as
 * created, once: inotify's own report of it is left out. Of a directory that moves within the watch
 * only the two names are reported; of one that moves in from outside, also what is in it.
 * Directories of network file systems do not join unless they are allowed to.
 *
 * Blocks on the sandbox's files: for helpers (helper.h) only.
 */
#include <stdint.h>
#include <stdbool.h>

#include "agent/watch-dirs.h"
#include "base/buf.h"
#include "base/problem.h"

#define WATCH_HIDDEN ".dorm-"

enum watch_event { WATCH_CREATE, WATCH_WRITE, WATCH_REMOVE, WATCH_RENAME, WATCH_CHMOD };

struct watch_options {
	const char *path; /* absolute; borrowed */
	bool recursive;
	bool network; /* watch network file systems, which report only what happens here */
};

struct watch {
	struct watch_options options;
	int fd; /* inotify: readable when something happened */
	struct watch_dirs dirs;
	int root_wd;
	/* reported from a scan, and perhaps once more by inotify: "NUMBER/NAME" with NUL after each
	 */
	struct buf told;
	/* a directory that was moved from here, and may turn up elsewhere in the watch */
	uint32_t moved_cookie; /* 0: none */
	char *moved_path;
	/* Return: 0; negative errno ends the watch */
	int (*emit)(void *userdata, enum watch_event event, const char *name);
	void *userdata;
};

/**
 * watch_open() - begin
 * Return: 0; -ENOENT; -ENOTDIR; -EXDEV: a network file system; -EMFILE, -ENOSPC: limits of the
 * kernel; negative errno. @problem has the text. watch_close() it in every case.
 */
int watch_open(struct watch *w, struct problem *problem);
void watch_close(struct watch *w);

/** watch_timeout_ms() - for poll(2) on fd: after so long without an event, watch_read() as well */
int watch_timeout_ms(const struct watch *w);

/**
 * watch_read() - report what has happened; does not wait for more
 * Return: 0; -EOVERFLOW: more happened than the kernel kept, events are lost; -ENODEV: unmounted;
 * -ENOSPC: too many directories; what emit() returned; negative errno. @problem has the text.
 */
int watch_read(struct watch *w, struct problem *problem);
