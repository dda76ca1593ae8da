/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "agent/file-problem.h"
#include "agent/metadata.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"

#define MAX_LINKS     40
#define ATTRIBUTE_MAX 65536u

/* --- where it goes ------------------------------------------------------------------------------
 */

static int give(const struct upload *u, const char *dir)
{
	if (geteuid() == u->user.uid)
		return 0;
	return lchown(dir, u->user.uid, u->user.gid) < 0 ? -errno : 0;
}

/* mkdir -p of @dir, which is absolute and modified meanwhile. What is there stays as it is. */
static int make_parents(struct upload *u, char *dir)
{
	char *slash = dir;
	int r = 0;

	while (r == 0 && slash) {
		slash = strchr(slash + 1, '/');
		if (slash)
			*slash = 0;
		if (mkdir(dir, 0755) == 0) {
			if (!u->made && !(u->made = strdup(dir)))
				r = -ENOMEM;
			if (r == 0)
				r = give(u, dir);
		} else if (errno != EEXIST) {
			r = -errno;
		}
		if (slash)
			*slash = '/';
	}
	return r;
}

/* "/a/b" to "/a" and "b"; "/" has no name. */
static char *split(char *path)
{
	char *slash = strrchr(path, '/');

	*slash = 0;
	return slash + 1;
}

/* The real directory of @path, with the last name behind it. Return: 0; negative errno */
static int real_place(const char *path, char **ret)
{
	_cleanup_free_ char *copy = strdup(path), *dir = NULL;
	const char *name;

	if (!copy)
		return -ENOMEM;
	name = split(copy);
	dir = realpath(copy[0] ? copy : "/", NULL);
	if (!dir)
		return -errno;
	*ret = str_printf("%s/%s", strcmp(dir, "/") ? dir : "", name);
	return *ret ? 0 : -ENOMEM;
}

/* What a link means, seen from where it is. */
static char *link_target(const char *place)
{
	char text[PATH_MAX];
	ssize_t n = readlink(place, text, sizeof(text) - 1);
	int dir_len = (int)(strrchr(place, '/') - place);

	if (n < 0)
		return NULL;
	text[n] = 0;
	return text[0] == '/' ? strdup(text) : str_printf("%.*s/%s", dir_len, place, text);
}

/* Follow links at the end of @path. Return: 1 it is there; 0 it is not; negative errno */
static int resolve(const char *path, struct stat *st, char **ret)
{
	_cleanup_free_ char *at = strdup(path), *place = NULL;

	for (unsigned i = 0; at && i < MAX_LINKS; i++) {
		int r;

		free(take_ptr(place));
		r = real_place(at, &place);
		if (r < 0)
			return r;
		r = lstat(place, st) < 0 ? -errno : 1;
		if (r < 0 && r != -ENOENT)
			return r;
		if (r < 0 || !S_ISLNK(st->st_mode)) {
			*ret = take_ptr(place);
			return r > 0;
		}
		free(at);
		at = link_target(place);
	}
	return at ? -ELOOP : -ENOMEM;
}

/* --- the file -----------------------------------------------------------------------------------
 */

static bool is_mount_point(const char *path)
{
	struct statx sx;

	return statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &sx) == 0 &&
	       sx.stx_attributes & STATX_ATTR_MOUNT_ROOT;
}

/* Return: descriptor with @ret_name; negative errno */
static int open_temporary(const char *target, mode_t mode, char **ret_name)
{
	_cleanup_free_ char *dir = strdup(target), *name = NULL;
	uint64_t random;
	int fd;

	if (!dir || getrandom(&random, sizeof(random), GRND_NONBLOCK) != sizeof(random))
		return dir ? -EAGAIN : -ENOMEM;
	(void)split(dir);
	name = str_printf("%s/" UPLOAD_PREFIX "%016llx", dir, (unsigned long long)random);
	if (!name)
		return -ENOMEM;
	fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	if (fd < 0)
		return -errno;
	*ret_name = take_ptr(name);
	return fd;
}

static int open_in_place(const char *target)
{
	int fd = open(target, O_WRONLY | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		fd_close(fd);
		return -EINVAL;
	}
	return fd;
}

/* Is this what opening a new file says where none can be made, though files there can be written?
 */
static bool is_no_place(int r)
{
	return r == -EPERM || r == -EACCES || r == -EROFS || r == -ENOENT || r == -EINVAL ||
	       r == -EOPNOTSUPP || r == -ENOSYS;
}

static int open_target(struct upload *u)
{
	int fd;

	if (u->replaces && is_mount_point(u->target))
		return open_in_place(u->target);
	/* until it is complete, a replacement shows nobody what the old file did not */
	fd = open_temporary(u->target, u->replaces ? 0600 : 0666, &u->temp);
	return u->replaces && is_no_place(fd) ? open_in_place(u->target) : fd;
}

static int upload_prepare(struct upload *u, struct problem *problem)
{
	_cleanup_free_ char *dir = strdup(u->path);
	struct stat st;
	int r;

	if (!dir)
		return -ENOMEM;
	if (!*split(dir))
		return -EISDIR;
	if (dir[0] && stat(dir, &st) < 0)
		r = make_parents(u, dir);
	else
		r = 0;
	if (r < 0)
		return r;
	r = resolve(u->path, &st, &u->target);
	if (r <= 0)
		return r;
	u->replaces = true;
	u->mode = st.st_mode & 0777;
	return file_check_regular(&st, u->path, problem);
}

int upload_open(struct upload *u, const char *path, const struct user *user,
		struct problem *problem)
{
	int r;

	*u = (struct upload){.fd = -1, .user = *user, .path = strdup(path)};
	r = u->path ? upload_prepare(u, problem) : -ENOMEM;
	if (r == 0)
		r = u->fd = open_target(u);
	return r < 0 ? file_problem(problem, r, path) : 0;
}

int upload_write(struct upload *u, const void *data, size_t len, struct problem *problem)
{
	int r = fd_write_full(u->fd, data, len);

	return r < 0 ? file_problem(problem, r, u->path) : 0;
}

/* Access lists, labels, and what others have noted, from the file that is replaced. Best effort:
 * what the file system refuses was not for us to keep. */
static void copy_attributes(const char *from, int to)
{
	_cleanup_free_ char *list = malloc(ATTRIBUTE_MAX), *value = malloc(ATTRIBUTE_MAX);
	ssize_t n = list && value ? llistxattr(from, list, ATTRIBUTE_MAX) : 0;

	for (const char *name = list; n > 0 && name < list + n; name += strlen(name) + 1) {
		ssize_t len;

		if (!strcmp(name, "security.capability")) /* as with any write */
			continue;
		len = lgetxattr(from, name, value, ATTRIBUTE_MAX);
		if (len >= 0)
			(void)fsetxattr(to, name, value, (size_t)len, 0);
	}
}

/* A file that is written in place keeps what cannot be changed: procfs has its own ideas. */
static int set_owner_and_mode(struct upload *u, int mode)
{
	bool in_place = !u->temp;

	if (geteuid() != u->user.uid && fchown(u->fd, u->user.uid, u->user.gid) < 0 && !in_place)
		return -errno;
	if (mode < 0 && u->replaces && !in_place)
		mode = (int)u->mode;
	if (mode >= 0 && fchmod(u->fd, (mode_t)mode) < 0 && !in_place)
		return -errno;
	return 0;
}

int upload_finish(struct upload *u, const json_t *metadata, int mode, struct problem *problem)
{
	int r = set_owner_and_mode(u, mode);

	if (r < 0)
		return file_problem(problem, r, u->path);
	if (u->replaces && u->temp)
		copy_attributes(u->target, u->fd);
	r = metadata_write(u->fd, metadata);
	if (r == -ENOTSUP || r == -E2BIG || r == -ERANGE || (r == -ENOSPC && metadata))
		problem_set(problem, 400, "the file system of '%.200s' cannot keep this metadata",
			    u->path);
	/* what the file system held back until now (NFS, FUSE) */
	if (r == 0 && close(take_fd(u->fd)) < 0)
		r = -errno;
	return r < 0 ? file_problem(problem, r, u->path) : 0;
}

/* Watchers of the name have seen a file come; now they see it written. */
static void touch(const char *path)
{
	_cleanup_fd_ int fd = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		(void)!ftruncate(fd, st.st_size); /* nobody else writes to it yet */
}

int upload_commit(struct upload *u, struct problem *problem)
{
	if (u->temp) {
		if (rename(u->temp, u->target) < 0)
			return file_problem(problem, -errno, u->path);
		free(take_ptr(u->temp));
		touch(u->target);
	}
	free(take_ptr(u->made));
	return 0;
}

/* From the innermost up to the first; one that is in use by now stays. */
static void remove_made(const struct upload *u)
{
	_cleanup_free_ char *dir = strdup(u->path);
	size_t n = strlen(u->made);

	while (dir && *split(dir) && strlen(dir) >= n && rmdir(dir) == 0)
		;
}

void upload_deinit(struct upload *u)
{
	u->fd = fd_close(u->fd);
	if (u->temp)
		(void)unlink(u->temp); /* it is gone already, or cannot be removed */
	if (u->made)
		remove_made(u);
	free(u->temp);
	free(u->made);
	free(u->target);
	free(u->path);
	*u = UPLOAD_INIT;
}
