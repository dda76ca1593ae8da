/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A directory is added to inotify first and read second, so nothing that happens meanwhile is
 * missed; what both find is in `told` until inotify's queue has been seen empty, since anything it
 * still had to say of that time has been said then.
 *
 * A directory that is moved keeps its number. IN_MOVED_FROM alone does not say whether it stays in
 * the watch: if no IN_MOVED_TO has come when the queue is empty and MOVE_MS are over, it has left,
 * and is no longer watched.
 */
#include "agent/watch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "agent/names.h"
#include "agent/walk.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"

#define MOVE_MS	 10
#define TOLD_MAX (256u * 1024) /* beyond it, some files are reported twice */
#define MASK                                                                                       \
	(IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_MODIFY | IN_ATTRIB |             \
	 IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)

/* --- directories --------------------------------------------------------------------------------
 */

static bool is_network(int fd)
{
	/* NFS, CIFS, SMB, SMB2, FUSE: linux/magic.h and fs/smb/common/smb2pdu.h */
	static const uint32_t types[] = {0x6969, 0xFF534D42, 0x517B, 0xFE534D42, 0x65735546};
	struct statfs st;

	if (fstatfs(fd, &st) < 0)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if ((uint32_t)st.f_type == types[i])
			return true;
	return false;
}

static char *join_path(const char *dir, const char *name)
{
	return dir[0] ? str_printf("%s/%s", dir, name) : strdup(name);
}

/* Return: 1 it is new; 0 it was watched already; negative errno. @ret_wd: its number */
static int add(struct watch *w, int fd, const char *path, int *ret_wd)
{
	char link[40];
	int wd, r;

	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd); /* always fits */
	wd = inotify_add_watch(w->fd, link, MASK);
	if (wd < 0)
		return -errno;
	r = watch_dirs_put(&w->dirs, wd, path);
	if (r < 0)
		(void)inotify_rm_watch(w->fd, wd); /* the watch is about to end */
	*ret_wd = wd;
	return r;
}

static bool is_hidden(const char *name)
{
	return str_has_prefix(name, WATCH_HIDDEN) != NULL;
}

static void tell(struct watch *w, int wd, const char *name)
{
	if (w->told.len < TOLD_MAX && buf_printf(&w->told, "%d/%s", wd, name) == 0)
		(void)buf_append(&w->told, "", 1);
}

/* Was it reported from a scan already? Then not again; the next time is another file. */
static bool take_told(struct watch *w, int wd, const char *name)
{
	char want[NAME_MAX + 16];

	(void)snprintf(want, sizeof(want), "%d/%s", wd, name); /* fits */
	for (size_t at = 0; at < w->told.len; at += strlen(w->told.data + at) + 1) {
		if (strcmp(w->told.data + at, want))
			continue;
		w->told.data[at] = '!'; /* no number */
		return true;
	}
	return false;
}

static int scan(struct watch *w, int fd, int wd, const char *path, bool report);

/*
 * The directory @name in @dirfd, at @path in the watch, and what is below it. One that vanishes
 * meanwhile, cannot be read, or is another file system's that nobody asked for is left out.
 */
static int join(struct watch *w, int dirfd, const char *name, const char *path, bool report)
{
	_cleanup_fd_ int fd = walk_open(dirfd, name);
	int r, wd = -1;

	if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM)
		return fd;
	if (fd < 0 || (!w->options.network && walk_is_mount(dirfd, name) && is_network(fd)))
		return 0;
	r = add(w, fd, path, &wd);
	if (r == -ENOSPC || r == -ENOMEM)
		return r;
	return r <= 0 ? 0 : scan(w, fd, wd, path, report);
}

static int scan_one(struct watch *w, int fd, int wd, const char *path, const char *name,
		    bool report)
{
	_cleanup_free_ char *below = join_path(path, name);
	struct stat st;
	int r = 0;

	if (!below)
		return -ENOMEM;
	if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || is_hidden(name))
		return 0;
	if (report) {
		tell(w, wd, name);
		r = w->emit(w->userdata, WATCH_CREATE, below);
	}
	return r == 0 && S_ISDIR(st.st_mode) ? join(w, fd, name, below, report) : r;
}

static int scan(struct watch *w, int fd, int wd, const char *path, bool report)
{
	struct names names = {0};
	int r = names_read(fd, SIZE_MAX, !report, &names);

	if (r == 0)
		names_sort(&names);
	else if (r != -ENOMEM && r != -EMFILE && r != -ENFILE)
		r = 0; /* not ours to read: its names are known when something happens to them */
	for (size_t i = 0; r == 0 && i < names.n; i++)
		r = scan_one(w, fd, wd, path, names.list[i], report);
	names_deinit(&names);
	return r;
}

/* --- events -------------------------------------------------------------------------------------
 */

static void on_dropped(void *userdata, int wd)
{
	struct watch *w = userdata;

	(void)inotify_rm_watch(w->fd, wd); /* gone is as good */
}

/* The directory that was moved has not come back. */
static void settle_moved(struct watch *w)
{
	if (w->moved_cookie)
		watch_dirs_drop(&w->dirs, w->moved_path, on_dropped, w);
	free(w->moved_path);
	w->moved_path = NULL;
	w->moved_cookie = 0;
}

static int note_moved(struct watch *w, uint32_t cookie, const char *path)
{
	settle_moved(w);
	w->moved_path = strdup(path);
	w->moved_cookie = w->moved_path ? cookie : 0;
	return w->moved_path ? 0 : -ENOMEM;
}

/* A directory has turned up at @path. */
static int join_new(struct watch *w, const struct inotify_event *e, const char *path)
{
	_cleanup_free_ char *full = str_printf("%s/%s", w->options.path, path);
	int r = full ? join(w, AT_FDCWD, full, path, true) : -ENOMEM;

	if (e->cookie && e->cookie == w->moved_cookie)
		w->moved_cookie = 0; /* it has its new path by now */
	return r;
}

/* A name turned up in a directory that is watched. */
static int on_appeared(struct watch *w, const struct inotify_event *e, const char *path)
{
	int r = w->emit(w->userdata, WATCH_CREATE, path);

	return r == 0 && e->mask & IN_ISDIR && w->options.recursive ? join_new(w, e, path) : r;
}

static int on_named(struct watch *w, const struct inotify_event *e, const char *path)
{
	bool is_dir = e->mask & IN_ISDIR && w->options.recursive;
	int r = 0;

	if (is_hidden(e->name))
		return 0;
	if (e->mask & IN_CREATE && take_told(w, e->wd, e->name))
		return 0;
	if (e->mask & (IN_CREATE | IN_MOVED_TO))
		return on_appeared(w, e, path);
	if (e->mask & IN_MOVED_FROM) {
		r = w->emit(w->userdata, WATCH_RENAME, path);
		return r == 0 && is_dir ? note_moved(w, e->cookie, path) : r;
	}
	if (e->mask & IN_MODIFY)
		return w->emit(w->userdata, WATCH_WRITE, path);
	if (e->mask & IN_DELETE)
		return w->emit(w->userdata, WATCH_REMOVE, path);
	return e->mask & IN_ATTRIB ? w->emit(w->userdata, WATCH_CHMOD, path) : 0;
}

/* Of a directory below, the directory above it has reported the same with its name. */
static int on_self(struct watch *w, const struct inotify_event *e)
{
	if (e->wd != w->root_wd)
		return 0;
	if (e->mask & IN_UNMOUNT)
		return -ENODEV;
	if (e->mask & IN_DELETE_SELF)
		return w->emit(w->userdata, WATCH_REMOVE, ".");
	if (e->mask & IN_MOVE_SELF)
		return w->emit(w->userdata, WATCH_RENAME, ".");
	return e->mask & IN_ATTRIB ? w->emit(w->userdata, WATCH_CHMOD, ".") : 0;
}

static int on_event(struct watch *w, const struct inotify_event *e)
{
	const char *dir = watch_dirs_find(&w->dirs, e->wd);
	_cleanup_free_ char *path = NULL;

	if (e->mask & IN_Q_OVERFLOW)
		return -EOVERFLOW;
	if (!dir)
		return 0; /* dropped, with events still in the queue */
	if (e->mask & IN_IGNORED) {
		watch_dirs_remove(&w->dirs, e->wd);
		return 0;
	}
	if (!e->len || !e->name[0])
		return on_self(w, e);
	path = join_path(dir, e->name);
	return path ? on_named(w, e, path) : -ENOMEM;
}

static void explain(const struct watch *w, int r, struct problem *problem)
{
	const char *path = w->options.path;

	if (r == -EOVERFLOW)
		problem_set(problem, 0,
			    "%.200s: more happened than could be kept; events are lost: look at "
			    "the directory, and watch it again",
			    path);
	else if (r == -ENODEV)
		problem_set(problem, 0, "%.200s: the file system was unmounted", path);
	else if (r == -ENOSPC)
		problem_set(problem, 0,
			    "%.200s: no more directories can be watched: the limit is "
			    "fs.inotify.max_user_watches of the sandbox, and %u per watch",
			    path, WATCH_DIRS_MAX);
	else if (r == -EMFILE)
		problem_set(problem, 0,
			    "%.200s: no more directories can be watched at once: the limit is "
			    "fs.inotify.max_user_instances of the sandbox",
			    path);
	else if (r < 0)
		problem_set(problem, 0, "cannot watch %.200s: %s", path, strerrordesc_np(-r));
}

int watch_timeout_ms(const struct watch *w)
{
	return w->told.len ? 0 : w->moved_cookie ? MOVE_MS : -1;
}

int watch_read(struct watch *w, struct problem *problem)
{
	char chunk[16384] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t n = read(w->fd, chunk, sizeof(chunk));
	int r = n < 0 && errno != EAGAIN && errno != EINTR ? -errno : 0;

	if (n < 0 && errno == EAGAIN && w->told.len)
		buf_deinit(&w->told);
	else if (n < 0 && errno == EAGAIN)
		settle_moved(w);
	for (ssize_t at = 0; r == 0 && at < n;) {
		const struct inotify_event *e = (const void *)(chunk + at);

		r = on_event(w, e);
		at += (ssize_t)(sizeof(*e) + e->len);
	}
	explain(w, r, problem);
	return r;
}

/* --- life --------------------------------------------------------------------------------------
 */

static int open_root(struct watch *w, struct problem *problem)
{
	const char *path = w->options.path;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC), r;

	if (fd < 0) {
		r = -errno;
		if (r == -ENOENT)
			problem_set(problem, 0, "path %.300s not found", path);
		else if (r == -ENOTDIR)
			problem_set(problem, 0, "path %.300s not a directory", path);
		return r;
	}
	if (w->options.network || !is_network(fd))
		return fd;
	problem_set(problem, 0, "cannot watch path on network filesystem: %.300s", path);
	fd_close(fd);
	return -EXDEV;
}

int watch_open(struct watch *w, struct problem *problem)
{
	_cleanup_fd_ int root = -1;
	int r;

	w->fd = -1;
	root = open_root(w, problem);
	r = root < 0 ? root : 0;
	if (r == 0) {
		w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
		r = w->fd < 0 ? -errno : 0;
	}
	if (r == 0)
		r = add(w, root, "", &w->root_wd);
	if (r > 0)
		r = w->options.recursive ? scan(w, root, w->root_wd, "", false) : 0;
	explain(w, r, problem);
	return r;
}

void watch_close(struct watch *w)
{
	w->fd = fd_close(w->fd);
	watch_dirs_deinit(&w->dirs);
	buf_deinit(&w->told);
	free(w->moved_path);
	w->moved_path = NULL;
}
