/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * sandbox-files.h - the files of a sandbox, through dormd and the sandbox's agent
 *
 * Contents go over /files as a stream, what is known about them over filesystem.Filesystem. One
 * thread. Errors: HTTP_E_STATUS (the problem has the agent's message) or a negative errno, with
 * @problem set.
 */
#include <jansson.h>
#include <sys/types.h>

#include "base/problem.h"
#include "cli/progress.h"
#include "cli/sandbox-call.h"

struct sandbox_files {
	const char *socket;
	const char *id;
	const char *user; /* NULL: the sandbox's default */
	struct progress *progress;
	struct sandbox_headers headers; /* of sandbox_files_open() */
};

/** sandbox_files_open() - when the fields above are set: learn how to be let in */
int sandbox_files_open(struct sandbox_files *f, struct problem *problem);
void sandbox_files_close(struct sandbox_files *f);

/** sandbox_files_get() - the content of @path, into @fd */
int sandbox_files_get(const struct sandbox_files *f, const char *path, int fd,
		      struct problem *problem);

/**
 * sandbox_files_put() - what can be read from @fd becomes the file @path
 * @len: in bytes; -1: unknown
 * @mode: permission bits; -1: what the file has, or the sandbox's default
 */
int sandbox_files_put(const struct sandbox_files *f, const char *path, int fd, int64_t len,
		      int mode, struct problem *problem);

/**
 * sandbox_files_call() - a call of filesystem.Filesystem on one path: "Stat", "ListDir", "MakeDir"
 * @ret: the answer, owned
 */
int sandbox_files_call(const struct sandbox_files *f, const char *call, const char *path,
		       json_t **ret, struct problem *problem);
