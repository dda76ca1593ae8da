/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.c - the root of the store: its lock, its directories, the names of templates
 *
 * A template is a symbolic link templates/<name> -> ../snapshots/<id>. It is only ever replaced by
 * a rename, so a reader sees the old snapshot or the new one.
 */
#include "image/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/id.h"
#include "base/buf.h"
#include "base/str.h"

#define TARGET_PREFIX "../snapshots/"
#define LOCK_MS	      2000
#define LOCK_PAUSE_MS 10

struct store *store_close(struct store *store)
{
	if (!store)
		return NULL;
	fd_close(store->root_fd);
	fd_close(store->lock_fd); /* which releases the lock */
	free(store);
	return NULL;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static int open_root(struct store *s, const char *root)
{
	_cleanup_free_ char *path = NULL;
	int r = file_mkdir_p(root, 0700);

	if (r < 0)
		return error_trace(r);
	path = realpath(root, NULL);
	if (!path)
		return error_errno();
	if (strlen(path) >= sizeof(s->root))
		return error_trace(-ENAMETOOLONG);
	str_copy(s->root, sizeof(s->root), path);
	s->root_fd = file_open_dir(AT_FDCWD, s->root);
	return error_trace(MIN(s->root_fd, 0));
}

/*
 * A process that was killed while it started another leaves, for the moment until that one runs its
 * own program, a child that still has the descriptor and so the lock.
 */
static int wait_for_lock(int fd)
{
	uint64_t deadline = deadline_after_ms(LOCK_MS);

	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return error_errno();
		if (deadline_passed(deadline))
			return -EWOULDBLOCK;
		clock_sleep_ms(LOCK_PAUSE_MS);
	}
	return 0;
}

/* The owner writes its process id into the lock file, for whoever finds the store locked. */
static int lock(struct store *s, struct problem *problem)
{
	char text[24] = "";
	ssize_t n;
	int r;

	s->lock_fd = openat(s->root_fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (s->lock_fd < 0)
		return error_errno();
	r = wait_for_lock(s->lock_fd);
	if (r == -EWOULDBLOCK) {
		n = pread(s->lock_fd, text, sizeof(text) - 1, 0);
		text[n > 0 ? strspn(text, "0123456789") : 0] = 0;
		problem_set(problem, 409, "%s: another process (%s) owns this store", s->root,
			    text[0] ? text : "unknown");
		problem_hint(problem, "stop the other one, or use another store");
		return -EBUSY;
	}
	if (r < 0)
		return r;
	r = snprintf(text, sizeof(text), "%d\n", getpid());
	if (ftruncate(s->lock_fd, 0) < 0 || pwrite(s->lock_fd, text, (size_t)r, 0) < 0)
		return error_errno();
	return 0;
}

/*
 * What a process that died had moved here in order to remove it must have left its old place for
 * good before it is emptied: else a power cut could bring it back there, empty.
 */
static int empty_tmp(struct store *s)
{
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	bool synced = false;
	int r = file_opendir(s->root_fd, "tmp", &d);

	if (r < 0)
		return error_trace(r);
	while ((e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (!synced && syncfs(s->root_fd) < 0)
			return error_errno();
		synced = true;
		r = file_remove_tree(dirfd(d), e->d_name);
		if (r < 0)
			return error_trace(r);
	}
	return 0;
}

/* What an import had received in part when the process ended. Whole layers stay. */
static int clean_incoming(struct store *s)
{
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	int r = file_opendir(s->root_fd, "incoming", &d);

	while (r == 0 && (e = readdir(d)))
		if (str_has_suffix(e->d_name, ".part") && unlinkat(dirfd(d), e->d_name, 0) < 0)
			r = error_errno();
	return error_trace(r);
}

static int make_directories(struct store *s)
{
	static const char *const names[] = {"snapshots", "templates", "sandboxes", "tmp",
					    "incoming"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (mkdirat(s->root_fd, names[i], 0755) < 0 && errno != EEXIST)
			return error_errno();
	return file_fsync_dir(s->root_fd);
}

int store_open(const char *root, struct problem *problem, struct store **ret)
{
	_cleanup_(store_closep) struct store *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->root_fd = s->lock_fd = -1;
	r = open_root(s, root);
	if (r == 0)
		r = lock(s, problem);
	if (r == 0)
		r = make_directories(s);
	if (r == 0)
		r = empty_tmp(s);
	if (r == 0)
		r = clean_incoming(s);
	if (r < 0) {
		problem_errno(problem, r, "%s: the store cannot be opened", root);
		return error_trace(r);
	}
	*ret = take_ptr(s);
	return 0;
}

int store_free_bytes(struct store *store, unsigned long long *ret)
{
	struct statvfs st;

	if (fstatvfs(store->root_fd, &st) < 0)
		return error_errno();
	*ret = (unsigned long long)st.f_bavail * st.f_frsize;
	return 0;
}

/* ---- listing ----------------------------------------------------------------------------------
 */

/* The names in a directory that @valid accepts, one after the other, each with its zero. */
static int list_names(struct store *s, const char *kind, bool (*valid)(const char *),
		      struct buf *ret)
{
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	int r = file_opendir(s->root_fd, kind, &d);

	if (r < 0)
		return error_trace(r);
	while (r == 0 && (e = readdir(d)))
		if (valid(e->d_name))
			r = buf_append(ret, e->d_name, strlen(e->d_name) + 1);
	return error_trace(r);
}

/* Names are collected before the first visit, so that visitors may delete and create. */
int store_each(struct store *store, const char *kind, store_visit visit, void *userdata)
{
	_cleanup_buf_ struct buf names = {0};
	_cleanup_fd_ int kind_fd = -1;
	int r = list_names(store, kind, id_is_valid, &names);

	if (r < 0)
		return r;
	kind_fd = file_open_dir(store->root_fd, kind);
	if (kind_fd < 0)
		return error_trace(kind_fd);
	for (size_t i = 0; i < names.len; i += strlen(names.data + i) + 1) {
		_cleanup_fd_ int fd = openat(kind_fd, names.data + i,
					     O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

		if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP))
			continue; /* deleted meanwhile, or not ours */
		if (fd < 0)
			return error_errno();
		r = visit(userdata, names.data + i, fd);
		if (r)
			return r;
	}
	return 0;
}

/* ---- templates --------------------------------------------------------------------------------
 */

static int sync_templates(struct store *s)
{
	_cleanup_fd_ int fd = file_open_dir(s->root_fd, "templates");

	return fd < 0 ? error_trace(fd) : file_fsync_dir(fd);
}

static int template_path(const char *name, char ret[80])
{
	if (!str_is_name(name))
		return -EINVAL;
	(void)snprintf(ret, 80, "templates/%s", name); /* at most 63 characters */
	return 0;
}

int store_template_set(struct store *store, const char *name, const char *snapshot_id)
{
	char path[80], tmp[40], id[ID_LEN + 1], target[sizeof(TARGET_PREFIX) + ID_LEN];
	int r = template_path(name, path);

	if (r < 0 || !id_is_valid(snapshot_id))
		return -EINVAL;
	id_new('t', id);
	(void)snprintf(tmp, sizeof(tmp), "tmp/%s", id);
	(void)snprintf(target, sizeof(target), TARGET_PREFIX "%s", snapshot_id);
	if (symlinkat(target, store->root_fd, tmp) < 0)
		return error_errno();
	if (renameat(store->root_fd, tmp, store->root_fd, path) < 0) {
		r = error_errno();
		(void)unlinkat(store->root_fd, tmp, 0); /* the error at hand matters more */
		return r;
	}
	return sync_templates(store);
}

int store_template_get(struct store *store, const char *name, char *ret_id)
{
	char path[80], target[128];
	const char *id;
	ssize_t n;

	if (template_path(name, path) < 0)
		return -ENOENT; /* such a template cannot be */
	n = readlinkat(store->root_fd, path, target, sizeof(target) - 1);
	if (n < 0)
		return -errno; /* ENOENT is documented */
	target[n] = 0;
	id = str_has_prefix(target, TARGET_PREFIX);
	if (!id || !id_is_valid(id))
		return error_trace(-EBADMSG); /* somebody else made this link */
	memcpy(ret_id, id, ID_LEN + 1);
	return 0;
}

int store_template_remove(struct store *store, const char *name)
{
	char path[80];

	if (template_path(name, path) < 0)
		return -ENOENT;
	if (unlinkat(store->root_fd, path, 0) < 0)
		return -errno; /* ENOENT is documented */
	return sync_templates(store);
}

int store_each_template(struct store *store, store_visit_template visit, void *userdata)
{
	_cleanup_buf_ struct buf names = {0};
	int r = list_names(store, "templates", str_is_name, &names);

	if (r < 0)
		return r;
	for (size_t i = 0; i < names.len; i += strlen(names.data + i) + 1) {
		char id[ID_LEN + 1];

		if (store_template_get(store, names.data + i, id) < 0)
			continue; /* removed meanwhile, or not ours */
		r = visit(userdata, names.data + i, id);
		if (r)
			return r;
	}
	return 0;
}
