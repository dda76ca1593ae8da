/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/names.h"
#include "agent/tree-copy.h"
#include "agent/walk.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"

#define BATCH 1024 /* names of one directory in memory */

/* --- make --------------------------------------------------------------------------------------
 */

/* One step down. Return: 1 made; 0 was there; negative errno. @fd: becomes the directory */
static int make_step(int *fd, const char *name, const struct user *owner)
{
	int made = mkdirat(*fd, name, 0755) == 0, next;

	if (!made && errno != EEXIST)
		return -errno;
	if (made && fchownat(*fd, name, owner->uid, owner->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	next = openat(*fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (next < 0) /* a link that leads nowhere was in the way */
		return errno == ENOENT ? -ENOTDIR : -errno;
	fd_close(*fd);
	*fd = next;
	return made;
}

int tree_make(const char *path, const struct user *owner, struct problem *problem)
{
	_cleanup_free_ char *copy = strdup(path);
	_cleanup_fd_ int fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	char *rest = copy, *name;
	int r = fd < 0 ? -errno : 0, made = 0;

	if (!copy)
		return -ENOMEM;
	while (r >= 0 && (name = strsep(&rest, "/"))) {
		if (!name[0])
			continue;
		r = make_step(&fd, name, owner);
		made = r == 1;
	}
	if (r == -ENOTDIR)
		problem_set(problem, 0, "path already exists but it is not a directory: %.300s",
			    path);
	else if (r < 0)
		problem_set(problem, 0, "cannot make directory %.300s: %s", path,
			    strerrordesc_np(-r));
	return r < 0 ? r : made;
}

int tree_make_parents(const char *path, const struct user *owner, struct problem *problem)
{
	_cleanup_free_ char *copy = strdup(path);
	int r = copy ? tree_make(dirname(copy), owner, problem) : -ENOMEM;

	return r < 0 ? r : 0;
}

/* --- remove ------------------------------------------------------------------------------------
 */

static int remove_at(struct walk *w, int dirfd, const char *name);

/* Return: names removed of this batch; @ret_more: the directory had more names than that */
static size_t remove_batch(struct walk *w, int fd, bool *ret_more)
{
	struct names names = {0};
	int r = names_read(fd, BATCH, false, &names);
	size_t removed = 0;

	if (r < 0)
		walk_fail(w, r);
	for (size_t i = 0; r >= 0 && i < names.n; i++) {
		ssize_t mark = walk_enter(w, names.list[i]);

		if (mark < 0)
			break;
		removed += remove_at(w, fd, names.list[i]) == 0;
		walk_leave(w, mark);
	}
	names_deinit(&names);
	*ret_more = r > 0;
	return removed;
}

static int remove_directory(struct walk *w, int dirfd, const char *name)
{
	_cleanup_fd_ int fd = -1;
	bool more = true;

	if (walk_is_mount(dirfd, name))
		return walk_fail(w, -EBUSY);
	fd = walk_open(dirfd, name);
	if (fd < 0)
		return walk_fail(w, fd == -ENOTDIR ? -EPERM : fd); /* an immutable file */
	while (more && remove_batch(w, fd, &more))
		;
	if (unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return walk_fail(w, -errno);
	return 0;
}

static int remove_at(struct walk *w, int dirfd, const char *name)
{
	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno == EISDIR || errno == EPERM)
		return remove_directory(w, dirfd, name);
	return walk_fail(w, -errno);
}

/* @path's directory, and in *@ret_name its name there. Return: the descriptor; negative errno */
static int open_parent(const char *path, const char **ret_name)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *parent = strndup(path, slash == path ? 1 : (size_t)(slash - path));
	int fd = parent ? open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;

	*ret_name = slash[1] ? slash + 1 : ".";
	return fd < 0 ? (parent ? -errno : -ENOMEM) : fd;
}

int tree_remove(const char *path, struct problem *problem)
{
	_cleanup_fd_ int fd = -1;
	_cleanup_(walk_deinit) struct walk w = {0};
	const char *name;

	fd = open_parent(path, &name);
	if (fd == -ENOENT || fd == -ENOTDIR)
		return 0;
	if (walk_enter(&w, path) < 0)
		return -ENOMEM;
	if (fd < 0)
		walk_fail(&w, fd);
	else if (!strcmp(name, "."))
		walk_fail(&w, -EBUSY);
	else
		(void)remove_at(&w, fd, name); /* noted in @w */
	if (w.error == -EBUSY)
		problem_set(problem, 0,
			    "cannot remove %s: it is a mount point, or in use; what can be removed "
			    "beside it is gone",
			    w.where);
	else if (w.error)
		problem_set(problem, 0, "cannot remove %s: %s", w.where, strerrordesc_np(-w.error));
	return w.error;
}

/* --- move --------------------------------------------------------------------------------------
 */

/* Across file systems: @to appears at once and whole. */
static int move_by_copy(const char *from, const char *to, struct problem *problem)
{
	_cleanup_free_ char *temporary = tree_copy_name(to);
	int r;

	if (!temporary)
		return -ENOMEM;
	r = tree_copy(from, temporary, problem);
	if (r == 0 && rename(temporary, to) < 0) {
		r = -errno;
		problem_set(problem, 0, "cannot move to %.300s: %s", to, strerrordesc_np(-r));
	}
	if (r < 0)
		(void)tree_remove(temporary, NULL); /* the first failure is the one to tell */
	else
		r = tree_remove(from, problem);
	return r;
}

int tree_move(const char *from, const char *to, const struct user *owner, struct problem *problem)
{
	struct stat st;
	int r;

	if (lstat(from, &st) < 0) {
		r = -errno;
		problem_set(problem, 0,
			    r == -ENOENT ? "source file not found: %.300s" : "%.300s: %s", from,
			    strerrordesc_np(-r));
		return r;
	}
	r = tree_make_parents(to, owner, problem);
	if (r < 0)
		return r;
	r = rename(from, to) < 0 ? -errno : 0;
	if (r == -EXDEV)
		return move_by_copy(from, to, problem);
	if (r < 0)
		problem_set(problem, 0, "cannot move %.200s to %.200s: %s", from, to,
			    strerrordesc_np(-r));
	return r;
}
