/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/file-problem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/utf8.h"

static const struct {
	int error, status;
	const char *text;
} known[] = {
	{ENOENT, 404, "does not exist"},
	{EISDIR, 400, "is a directory"},
	{ENOTDIR, 400, "has something in it that is not a directory"},
	{ENAMETOOLONG, 400, "is too long, or has a name in it that is"},
	{ELOOP, 400, "leads through too many symbolic links"},
	{EACCES, 403, "may not be used: permission denied"},
	{EPERM, 403, "may not be used: operation not permitted"},
	{EROFS, 403, "is on a read-only file system"},
	{EFBIG, 413, "would become larger than its file system allows"},
	{ENOSPC, 507, "cannot be written: not enough disk space"},
	{EDQUOT, 507, "cannot be written: not enough disk space (quota)"},
	{ENOMEM, 503, "cannot be served: out of memory"},
	{EMFILE, 503, "cannot be opened: too many files are open"},
	{ENFILE, 503, "cannot be opened: too many files are open"},
};

int file_problem(struct problem *problem, int r, const char *path)
{
	_cleanup_free_ char *shown = utf8_from(path);
	const char *text = NULL;
	int status = 500;

	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		if (known[i].error == -r) {
			status = known[i].status;
			text = known[i].text;
		}
	}
	if (text)
		problem_set(problem, status, "path '%.300s' %s", shown ? shown : "?", text);
	else
		problem_set(problem, status, "path '%.300s': %s", shown ? shown : "?",
			    strerrordesc_np(-r));
	return r;
}

static const char *kind_of(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFIFO:
		return "fifo";
	case S_IFSOCK:
		return "socket";
	case S_IFCHR:
	case S_IFBLK:
		return "device";
	default:
		return "special file";
	}
}

int file_check_regular(const struct stat *st, const char *path, struct problem *problem)
{
	_cleanup_free_ char *shown = NULL;

	if (S_ISREG(st->st_mode))
		return 0;
	if (S_ISDIR(st->st_mode))
		return file_problem(problem, -EISDIR, path);
	shown = utf8_from(path);
	problem_set(problem, 400, "path '%.300s' is a %s, not a regular file", shown ? shown : "?",
		    kind_of(st->st_mode));
	return -EINVAL;
}

int file_open_regular(const char *path, struct problem *problem, struct stat *ret_stat)
{
	_cleanup_fd_ int place = open(path, O_PATH | O_CLOEXEC);
	struct stat st;
	char name[40];
	int fd, r;

	if (place < 0 || fstat(place, &st) < 0)
		return file_problem(problem, -errno, path);
	r = file_check_regular(&st, path, problem);
	if (r < 0)
		return r;
	(void)snprintf(name, sizeof(name), "/proc/self/fd/%d", place); /* always fits */
	fd = open(name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return file_problem(problem, -errno, path);
	if (ret_stat)
		*ret_stat = st;
	return fd;
}
