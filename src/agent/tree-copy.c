/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/tree-copy.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "agent/names.h"
#include "agent/walk.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"

#define CHUNK	  (128u * 1024)
#define XATTR_MAX 65536

struct copy {
	struct walk walk;
	char *chunk;
};

char *tree_copy_name(const char *to)
{
	const char *slash = strrchr(to, '/');
	uint64_t random = 0;

	(void)!getrandom(&random, sizeof(random), 0); /* O_EXCL finds out about a bad one */
	return str_printf("%.*s/.dorm-move-%016llx", (int)(slash - to), to,
			  (unsigned long long)random);
}

/* --- one file ----------------------------------------------------------------------------------
 */

/* The bytes of one run without holes. */
static int copy_run(struct copy *c, int in, int out, off_t from, off_t to)
{
	while (from < to) {
		ssize_t n = pread(in, c->chunk, MIN((off_t)CHUNK, to - from), from);
		ssize_t done = 0;

		if (n <= 0)
			return n < 0 ? -errno : 0; /* it became shorter */
		while (done < n) {
			ssize_t w = pwrite(out, c->chunk + done, (size_t)(n - done), from + done);

			if (w < 0)
				return -errno;
			done += w;
		}
		from += n;
	}
	return 0;
}

static int copy_data(struct copy *c, int in, int out, off_t size)
{
	off_t at = 0;
	int r = ftruncate(out, size) < 0 ? -errno : 0;

	while (r == 0 && at < size) {
		off_t data = lseek(in, at, SEEK_DATA), hole;

		if (data < 0 && errno == ENXIO)
			break; /* a hole to the end */
		if (data < 0)  /* this file system does not know */
			return copy_run(c, in, out, at, size);
		hole = lseek(in, data, SEEK_HOLE);
		if (hole < 0)
			hole = size;
		r = copy_run(c, in, out, data, MIN(hole, size));
		at = hole;
	}
	return r;
}

/* What the other file system does not know is left behind. */
static int copy_xattrs(int in, int out)
{
	_cleanup_free_ char *names = malloc(XATTR_MAX), *value = malloc(XATTR_MAX);
	ssize_t n = names && value ? flistxattr(in, names, XATTR_MAX) : 0;

	for (ssize_t i = 0; i < n; i += (ssize_t)strlen(names + i) + 1) {
		ssize_t len = fgetxattr(in, names + i, value, XATTR_MAX);

		if (len >= 0 && fsetxattr(out, names + i, value, (size_t)len, 0) < 0 &&
		    errno == ENOSPC)
			return -ENOSPC;
	}
	return 0;
}

/* Owner first: it takes set-user-ID and capabilities away. */
static int copy_attributes(int in, int out, const struct stat *st)
{
	const struct timespec times[2] = {st->st_atim, st->st_mtim};
	int r;

	if (fchown(out, st->st_uid, st->st_gid) < 0)
		return -errno;
	r = copy_xattrs(in, out);
	if (r == 0 && fchmod(out, st->st_mode & 07777) < 0)
		r = -errno;
	if (r == 0 && futimens(out, times) < 0)
		r = -errno;
	return r;
}

static int copy_regular(struct copy *c, int from, const char *name, int to, const char *new,
			const struct stat *st)
{
	_cleanup_fd_ int in = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	_cleanup_fd_ int out = -1;
	int r;

	if (in < 0)
		return -errno;
	out = openat(to, new, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (out < 0)
		return -errno;
	r = copy_data(c, in, out, st->st_size);
	return r < 0 ? r : copy_attributes(in, out, st);
}

/* Links, fifos, sockets and devices: what has no data. */
static int copy_special(int from, const char *name, int to, const char *new, const struct stat *st)
{
	const struct timespec times[2] = {st->st_atim, st->st_mtim};
	char target[PATH_MAX];
	ssize_t n;

	if (S_ISLNK(st->st_mode)) {
		n = readlinkat(from, name, target, sizeof(target) - 1);
		if (n < 0)
			return -errno;
		target[n] = 0;
		if (symlinkat(target, to, new) < 0)
			return -errno;
	} else if (mknodat(to, new, st->st_mode, st->st_rdev) < 0) {
		return -errno;
	}
	if (fchownat(to, new, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!S_ISLNK(st->st_mode) && fchmodat(to, new, st->st_mode & 07777, 0) < 0)
		return -errno;
	return utimensat(to, new, times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* --- trees -------------------------------------------------------------------------------------
 */

static int copy_at(struct copy *c, int from, const char *name, int to, const char *new);

static int copy_children(struct copy *c, int in, int out)
{
	struct names names = {0};
	int r = names_read(in, SIZE_MAX, false, &names);

	for (size_t i = 0; r == 0 && i < names.n; i++) {
		ssize_t mark = walk_enter(&c->walk, names.list[i]);

		if (mark < 0) {
			r = (int)mark;
			break;
		}
		r = copy_at(c, in, names.list[i], out, names.list[i]);
		walk_leave(&c->walk, mark);
	}
	names_deinit(&names);
	return r;
}

static int copy_directory(struct copy *c, int from, const char *name, int to, const char *new,
			  const struct stat *st)
{
	_cleanup_fd_ int in = -1, out = -1;
	int r;

	if (walk_is_mount(from, name))
		return -EBUSY;
	in = walk_open(from, name);
	if (in < 0)
		return in;
	if (mkdirat(to, new, 0700) < 0)
		return -errno;
	out = walk_open(to, new);
	if (out < 0)
		return out;
	r = copy_children(c, in, out);
	return r < 0 ? r : copy_attributes(in, out, st);
}

static int copy_at(struct copy *c, int from, const char *name, int to, const char *new)
{
	struct stat st;
	int r;

	if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		r = -errno;
	else if (S_ISDIR(st.st_mode))
		r = copy_directory(c, from, name, to, new, &st);
	else if (S_ISREG(st.st_mode))
		r = copy_regular(c, from, name, to, new, &st);
	else
		r = copy_special(from, name, to, new, &st);
	return r < 0 ? walk_fail(&c->walk, r) : 0;
}

int tree_copy(const char *from, const char *to, struct problem *problem)
{
	_cleanup_free_ char *chunk = malloc(CHUNK);
	struct copy c = {.chunk = chunk};
	int r = chunk && walk_enter(&c.walk, from) >= 0 ? 0 : -ENOMEM;

	if (r == 0)
		r = copy_at(&c, AT_FDCWD, from, AT_FDCWD, to);
	if (r == -EBUSY)
		problem_set(problem, 0, "cannot move to another file system: %s is a mount point",
			    c.walk.where);
	else if (r < 0)
		problem_set(problem, 0, "cannot copy %s to another file system: %s", c.walk.where,
			    strerrordesc_np(-r));
	walk_deinit(&c.walk);
	return r;
}
