/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * upload.h - one file that is being written for a client: whole, or not at all
 *
 *     upload_open()    makes the parents and a temporary file beside the target
 *     upload_write()   any number of times
 *     upload_finish()  owner, mode and metadata; closes the file. Nothing can be seen yet
 *     upload_commit()  renames it over the target
 *     upload_deinit()  takes back what was not committed, also the directories
 *
 * The target. Symbolic links are followed, also the last and also one whose target is still to be
 * made. It must not be there, or be a regular file, whose mode and other attributes the new file
 * gets; the owner is the client's user in every case. A target with several hard links is
 * separated from the others, which keep the old content: packages share files that way, and one
 * sandbox program's file must not change under another name. What cannot be replaced (a file that
 * is a mount point, or in a directory where no file can be made: /proc/sys) is written in place;
 * only such a file can be left half-written.
 *
 * Watchers. Whoever watches the target's name sees it moved into place and then modified and closed
 * once, as after an ordinary write. Names of temporary files begin with UPLOAD_PREFIX, so that
 * whoever reports changes to clients can leave them out.
 *
 * Any thread; blocks on the file system. Errors: negative errno with @problem set.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

#include "agent/user.h"
#include "base/problem.h"

#define UPLOAD_PREFIX ".dorm-upload-"

struct upload {
	char *path;   /* as the client means it */
	char *target; /* with links resolved */
	char *temp;   /* NULL: in place, or committed */
	char *made;   /* the first directory that had to be made; NULL: none */
	int fd;	      /* -1: finished */
	bool replaces;
	mode_t mode; /* of what it replaces */
	struct user user;
};

#define UPLOAD_INIT ((struct upload){.fd = -1})

/** upload_open() - @path: absolute */
int upload_open(struct upload *u, const char *path, const struct user *user,
		struct problem *problem);
int upload_write(struct upload *u, const void *data, size_t len, struct problem *problem);

/**
 * upload_finish() - @metadata: borrowed, replaces the file's set; NULL: none
 * @mode: permission bits; -1: what it had, or 0666 without the umask
 */
int upload_finish(struct upload *u, const json_t *metadata, int mode, struct problem *problem);
int upload_commit(struct upload *u, struct problem *problem);
void upload_deinit(struct upload *u);
