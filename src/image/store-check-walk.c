/* SPDX-License-Identifier: Apache-2.0 */
/* store-check-walk.c - all directories of a store, and the names of templates */
#include "image/store-check-walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/str.h"

#define MAX_PATH 400

/* ---- directories ------------------------------------------------------------------------------
 */

static int add_directory(struct check *c, const char *path)
{
	size_t from = c->n_items;
	int r = check_cancelled(c);

	if (r == 0)
		r = mem_grow(&c->dirs, &c->cap_dirs, c->n_dirs, sizeof(*c->dirs));
	if (r < 0)
		return r;
	c->dirs[c->n_dirs] = (struct check_dir){0};
	str_copy(c->dirs[c->n_dirs].path, sizeof(c->dirs->path), path);
	r = check_directory(c, (uint32_t)c->n_dirs++);
	if (r == 0)
		check_emit_from(c, from);
	return r;
}

static int visit_snapshot(struct check *c, int dirfd, const char *name)
{
	char path[MAX_PATH];
	struct stat st;

	(void)snprintf(path, sizeof(path), "snapshots/%s", name);
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0; /* deleted meanwhile */
	if (S_ISDIR(st.st_mode) && id_is_valid(name)) {
		c->stats.n_snapshots++;
		return add_directory(c, path);
	}
	if (!check_add(c, FINDING_STRAY, CHECK_NONE, path,
		       S_ISDIR(st.st_mode) ? "not the name of a snapshot" : "not a directory"))
		return -ENOMEM;
	check_emit_from(c, c->n_items - 1);
	return 0;
}

static bool is_memory(const char *name)
{
	const char *digits = str_has_prefix(name, "memory-");

	return digits && *digits && strlen(digits) <= 10 && !digits[strspn(digits, "0123456789")];
}

static int visit_sandbox(void *userdata, const char *id, int dirfd)
{
	struct check *c = userdata;
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	struct stat st;
	char path[64];
	int r = file_opendir(dirfd, ".", &d);

	if (r == -ENOENT)
		return 0; /* deleted meanwhile */
	while (r == 0 && (e = readdir(d))) {
		if (!is_memory(e->d_name) ||
		    fstatat(dirfd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
			continue;
		(void)snprintf(path, sizeof(path), "sandboxes/%s/%.20s", id, e->d_name);
		c->stats.n_memories++;
		r = add_directory(c, path);
	}
	return r;
}

int check_directories(struct check *c)
{
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	int r = file_opendir(c->store->root_fd, "snapshots", &d);

	while (r == 0 && (e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			r = visit_snapshot(c, dirfd(d), e->d_name);
	return r < 0 ? error_trace(r) : store_each(c->store, "sandboxes", visit_sandbox, c);
}

/* ---- templates --------------------------------------------------------------------------------
 */

static bool leads_somewhere(struct check *c, const char *id)
{
	char path[ID_LEN + 16];
	struct stat st;

	(void)snprintf(path, sizeof(path), "snapshots/%s", id);
	return fstatat(c->store->root_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       S_ISDIR(st.st_mode);
}

static int check_template(struct check *c, const char *name)
{
	char path[MAX_PATH], why[80], id[ID_LEN + 1];
	struct check_item *item;
	int r = store_template_get(c->store, name, id);

	(void)snprintf(path, sizeof(path), "templates/%s", name);
	if (r < 0) {
		if (faccessat(c->store->root_fd, path, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
			return 0; /* removed meanwhile */
		item = check_add(c, FINDING_STRAY, CHECK_NONE, path, "not the name of a template");
	} else {
		if (leads_somewhere(c, id))
			return 0;
		(void)snprintf(why, sizeof(why), "snapshot %s is not there", id);
		item = check_add(c, FINDING_LINK, CHECK_NONE, path, why);
	}
	if (!item)
		return -ENOMEM;
	check_emit_from(c, c->n_items - 1);
	return 0;
}

int check_templates(struct check *c)
{
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	int r = file_opendir(c->store->root_fd, "templates", &d);

	while (r == 0 && (e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			r = check_template(c, e->d_name);
	return error_trace(r);
}
