/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alone-open.c - what a pager that runs alone opens at its start, while it may
 *
 * The image is opened once, by the process that supervises: a worker that is forked later has it by
 * inheritance, with its keys, and needs neither the path nor the right to it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "image/keyring.h"
#include "pager/alone.h"

static int open_raw(int fd, const char *path, const struct keyring *keys, struct problem *problem,
		    struct image **ret)
{
	if (keys) {
		problem_set(problem, 400,
			    "--seal-key: %s is a raw memory file, which is not sealed", path);
		return -EINVAL;
	}
	return image_open_raw(fd, path, problem, ret);
}

int alone_open_image(const char *path, const struct keyring *keys, struct problem *problem,
		     struct image **ret)
{
	/* O_NONBLOCK: a FIFO must not hold us up; no effect on files and directories */
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0) {
		int r = error_errno();

		problem_errno(problem, r, "--image %s", path);
		return r;
	}
	if (S_ISDIR(st.st_mode))
		return image_open(fd, keys, problem, ret);
	return open_raw(fd, path, keys, problem, ret);
}

static int take_lock(const char *path, struct problem *problem, int *ret)
{
	_cleanup_free_ char *name = str_printf("%s.lock", path);
	_cleanup_fd_ int fd = name ? open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
	uint64_t deadline_ns = deadline_after_ms(ALONE_LOCK_MS);
	int r;

	if (!name)
		return -ENOMEM;
	if (fd < 0) {
		r = error_errno();
		problem_errno(problem, r, "cannot open %s", name);
		return r;
	}
	while ((r = flock(fd, LOCK_EX | LOCK_NB)) < 0 && !deadline_passed(deadline_ns))
		(void)poll(NULL, 0, 10); /* one that was killed just now is not quite gone */
	if (r < 0) {
		problem_set(problem, 409, "another dorm-pager listens on %s", path);
		problem_hint(problem, "stop it, or choose another --listen");
		return -EADDRINUSE;
	}
	*ret = take_fd(fd);
	return 0;
}

int alone_listen(const char *path, struct problem *problem, int *ret_fd, int *ret_lock_fd)
{
	_cleanup_fd_ int lock = -1;
	int fd, r = take_lock(path, problem, &lock);

	if (r < 0)
		return r;
	fd = fd_unix_listen(path, SOCK_STREAM, 0600);
	if (fd < 0) {
		problem_errno(problem, fd, "cannot listen on %s", path);
		return fd;
	}
	*ret_fd = fd;
	*ret_lock_fd = take_fd(lock);
	return 0;
}
