/* SPDX-License-Identifier: Apache-2.0 */
/*
 * root.c - a file system with nothing in it but what is named
 *
 *     look every path up, where they still mean what dormd meant: a detached mount of each
 *     mount a tmpfs over /tmp      (in our own mount namespace: nobody else sees it)
 *     pivot_root into it           the host is at /.host now
 *     attach the mounts, make directories and device nodes
 *     let go of /.host, make the tmpfs read-only
 *
 * Paths are the same inside as outside, so whoever names a file to the VMM need not know of the
 * jail. Directories on the way are the tmpfs's own: what lies beside a file that is bound is not
 * there. The working directory is left alone until the end, and the tmpfs's source is the tag: at
 * every instant one of the two tells dormd whose process this is.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/jail/walls.h"

#define BASE	"/tmp"
#define HOST	"/.host"
#define OPTIONS "mode=0755,size=1m,nr_inodes=1024"

/* What a path was outside; of static size, since this process has one root and no heap. */
static struct source {
	int mount; /* detached; -1: none */
	bool is_link;
	struct stat st;
	char target[256]; /* of a link */
} sources[WALLS_MAX_PATHS];

/* ---- outside ----------------------------------------------------------------------------------
 */

static int take_link(const char *path, struct source *s)
{
	ssize_t n = readlink(path, s->target, sizeof(s->target) - 1);

	if (n < 0)
		return wall_fail("readlink", path);
	s->target[n] = 0;
	s->is_link = true;
	return 0;
}

static int take_mount(const struct wall_path *p, struct source *s)
{
	struct mount_attr attr = {.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};

	s->mount = open_tree(AT_FDCWD, p->path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (s->mount < 0 || fstat(s->mount, &s->st) < 0)
		return wall_fail("open", p->path);
	attr.attr_set |= p->how == WALL_WRITE ? MOUNT_ATTR_NOEXEC : MOUNT_ATTR_RDONLY;
	if (mount_setattr(s->mount, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
		return wall_fail("restrict", p->path);
	return 0;
}

static int look_up(const struct wall_path *p, struct source *s)
{
	struct stat st;

	*s = (struct source){.mount = -1};
	switch (p->how) {
	case WALL_DIRECTORY:
		return 0;
	case WALL_DEVICE:
		return stat(p->path, &s->st) < 0 ? wall_fail("stat", p->path) : 0;
	case WALL_TRY_READ:
		if (lstat(p->path, &st) < 0)
			return errno == ENOENT ? 0 : wall_fail("stat", p->path);
		if (S_ISLNK(st.st_mode))
			return take_link(p->path, s);
		return take_mount(p, s);
	default:
		return take_mount(p, s);
	}
}

/* ---- inside -----------------------------------------------------------------------------------
 */

/* Every directory on the way to @path. */
static int make_parents(const char *path)
{
	char copy[PATH_MAX];

	errno = ENAMETOOLONG;
	if (strlen(path) >= sizeof(copy))
		return wall_fail("path", path);
	memcpy(copy, path, strlen(path) + 1);
	for (char *p = strchr(copy + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = 0;
		if (mkdir(copy, 0755) < 0 && errno != EEXIST)
			return wall_fail("mkdir", copy);
		*p = '/';
	}
	return 0;
}

/* Something to mount upon. */
static int make_place(const char *path, bool is_dir)
{
	if (is_dir)
		return mkdir(path, 0755) < 0 && errno != EEXIST ? wall_fail("mkdir", path) : 0;
	if (mknod(path, S_IFREG | 0400, 0) < 0 && errno != EEXIST)
		return wall_fail("mknod", path);
	return 0;
}

static int attach(const char *path, struct source *s)
{
	int r = make_place(path, S_ISDIR(s->st.st_mode));

	if (r == 0 && move_mount(s->mount, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		r = wall_fail("mount", path);
	(void)close(s->mount);
	return r;
}

/* A node of our own, so that the host's need not be opened to the VMM's user. */
static int make_device(const char *path, const struct source *s, const struct walls *w)
{
	errno = EINVAL;
	if (!S_ISCHR(s->st.st_mode) || mknod(path, S_IFCHR | 0600, s->st.st_rdev) < 0)
		return wall_fail("device", path);
	return w->user && chown(path, w->uid, w->uid) < 0 ? wall_fail("chown", path) : 0;
}

static int put_in(const struct walls *w, const struct wall_path *p, struct source *s)
{
	bool nothing = p->how == WALL_TRY_READ && s->mount < 0 && !s->is_link;
	int r = nothing ? 0 : make_parents(p->path);

	if (r < 0 || nothing)
		return r;
	if (p->how == WALL_DIRECTORY)
		return make_place(p->path, true);
	if (p->how == WALL_DEVICE)
		return make_device(p->path, s, w);
	if (s->is_link)
		return symlink(s->target, p->path) < 0 && errno != EEXIST
			       ? wall_fail("symlink", p->path)
			       : 0;
	return attach(p->path, s);
}

static int enter_empty_root(const struct walls *w)
{
	if (mount(w->tag, BASE, "tmpfs", MS_NOSUID | MS_NOEXEC, OPTIONS) < 0)
		return wall_fail("mount", BASE);
	if (mkdir(BASE HOST, 0700) < 0)
		return wall_fail("mkdir", HOST);
	return syscall(SYS_pivot_root, BASE, BASE HOST) < 0 ? wall_fail("pivot_root", BASE) : 0;
}

static int leave_host(const struct walls *w)
{
	const unsigned long flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC;

	if (chdir(w->cwd ? w->cwd : "/") < 0)
		return wall_fail("chdir", w->cwd);
	if (umount2(HOST, MNT_DETACH) < 0 || rmdir(HOST) < 0)
		return wall_fail("detach", "the host's files");
	return mount(NULL, "/", NULL, flags, NULL) < 0 ? wall_fail("make read-only", "/") : 0;
}

int wall_root(const struct walls *w)
{
	int r = 0;

	if (unshare(CLONE_NEWNS) < 0)
		return wall_fail("unshare", "mount namespace");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return wall_fail("make private", "/");
	for (size_t i = 0; i < w->n_paths && r == 0; i++)
		r = look_up(&w->paths[i], &sources[i]);
	if (r == 0)
		r = enter_empty_root(w);
	for (size_t i = 0; i < w->n_paths && r == 0; i++)
		r = put_in(w, &w->paths[i], &sources[i]);
	return r == 0 ? leave_host(w) : r;
}
