/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/tar-pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "guest/tree.h"

/* tar's side: a thread that waits for it, so that a failing tar is noticed however it fails. */
struct pack {
	struct runner r;
	struct problem problem;
	struct runner_command command;
	int fds[2]; /* become 3, the pipe (owned), and 4, the directory */
	int result;
};

static void *pack_main(void *arg)
{
	struct pack *p = arg;

	p->command.fds = p->fds;
	p->command.n_fds = 2;
	p->result = runner_run(&p->r, &p->command);
	p->fds[0] = fd_close(p->fds[0]); /* only now does the reader see the end */
	return NULL;
}

/* By descriptor from here on: a link that appears later leads nowhere else. */
static int open_directory(const struct runner *r, const char *dir, const char *name)
{
	_cleanup_fd_ int fd = file_open_dir(AT_FDCWD, dir);
	int inner = fd < 0 ? fd : tree_open(fd, name, O_RDONLY | O_DIRECTORY, 0);

	if (inner < 0)
		problem_errno(r->problem, inner, "the directory %s/%s", dir, name);
	return inner;
}

int tar_pipe_copy(const struct runner *r, const char *dir, const char *name, int root_fd,
		  const char *into, const struct tree_owner *owner,
		  const struct unpack_limits *limits, struct unpack_stats *ret)
{
	static const char *const argv[] = {"tar",
					   "--create",
					   "--file=/proc/self/fd/3",
					   "--sparse",
					   "--xattrs",
					   "--xattrs-include=*",
					   "--format=pax",
					   "--numeric-owner",
					   "--one-file-system",
					   "--directory=/proc/self/fd/4",
					   ".",
					   NULL};
	_cleanup_fd_ int from = open_directory(r, dir, name), pipe_r = -1;
	struct pack p = {.r = *r,
			 .command = {.what = "reading the directory", .argv = argv, .quiet = true}};
	pthread_t thread;
	int pipes[2], e;

	if (from < 0)
		return from;
	if (pipe2(pipes, O_CLOEXEC) < 0)
		return error_errno();
	pipe_r = pipes[0];
	p.fds[0] = pipes[1];
	p.fds[1] = from;
	p.r.problem = &p.problem;
	e = -pthread_create(&thread, NULL, pack_main, &p);
	if (e < 0) {
		fd_close(p.fds[0]);
		return e;
	}
	e = unpack_tar(pipe_r, name, root_fd, into, owner, limits, r->problem, ret);
	pipe_r = fd_close(pipe_r); /* a tar that still writes ends now */
	pthread_join(thread, NULL);
	if (e == 0 && p.result < 0) {
		e = p.result;
		if (r->problem)
			*r->problem = p.problem;
	}
	return e;
}
