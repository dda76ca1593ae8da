/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store-repair.c - put right what the check finds, without ever removing what was committed
 *
 *     torn directory           removed: without a manifest it was never anybody's snapshot
 *     template to nowhere      removed
 *     left-over temporary file removed, when its name is of the form that this program makes
 *     layer missing, damaged   linked again from a directory that has the same layer whole
 *     working set of no use    removed: it was a hint, and the next compaction would drop it
 *     base of no use           removed: without one a wake shares less memory, that is all
 *     everything else          kept and told; lost when it was committed
 *
 * Where can a second copy of a layer come from, if layers are linked? From before the file system's
 * limit of links per file was reached (then the layer was copied), from a backup that was restored
 * into the store, from an import that was broken off, from a torn directory before it goes. It is
 * the same layer when id and index digest are, because the index holds the tag of each frame; all
 * of its frames are read before it is used.
 *
 * A layer gets its name by link to a temporary name, fsync and rename: at no instant is there less
 * than before.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/snapshot.h"
#include "image/store-check-walk.h"

#define INCOMING_DEPTH 3

/* ---- layers that no snapshot has --------------------------------------------------------------
 */

static bool is_layer_name(const char *name)
{
	return strlen(name) == IMAGE_ID_LEN && strspn(name, "0123456789abcdef") == IMAGE_ID_LEN;
}

static int add_incoming(struct check *c, int dirfd, const char *name, const char *path)
{
	uint32_t layer;
	int fd, r;

	if (plain_file_open(dirfd, name, name, NULL, &fd, NULL) != 0)
		return 0;
	r = check_layer_file(c, fd, name, &layer);
	if (r < 0 || c->layers[layer].path || c->layers[layer].first_use != CHECK_NONE)
		return r < 0 && check_is_damage(r) ? 0 : MIN(r, 0);
	c->layers[layer].path = strdup(path);
	return c->layers[layer].path ? 0 : -ENOMEM;
}

static int find_incoming(struct check *c, int dirfd, const char *path, int depth)
{
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	int r = file_opendir(dirfd, ".", &d);

	while (r == 0 && (e = readdir(d))) {
		_cleanup_fd_ int sub = -1;
		char below[160];

		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") ||
		    snprintf(below, sizeof(below), "%s/%s", path, e->d_name) >= (int)sizeof(below))
			continue;
		if (depth < INCOMING_DEPTH && plain_dir_open(dirfd, e->d_name, NULL, &sub) == 0)
			r = find_incoming(c, sub, below, depth + 1);
		else if (is_layer_name(e->d_name))
			r = add_incoming(c, dirfd, e->d_name, below);
	}
	return error_trace(r);
}

static int collect_below(struct check *c, const char *path)
{
	_cleanup_fd_ int fd =
		openat(c->store->root_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? 0 : find_incoming(c, fd, path, 1); /* absent, or nothing to search */
}

/* What imports have left, and what torn directories still have. */
static int collect_incoming(struct check *c)
{
	int r = collect_below(c, "incoming");

	for (size_t i = 0; r == 0 && i < c->n_items; i++)
		if (c->items[i].kind == FINDING_TORN)
			r = collect_below(c, c->items[i].path);
	return r;
}

/* ---- linking a layer again --------------------------------------------------------------------
 */

/* Another file with the same layer, whole to the last byte. @ret: or CHECK_NONE */
static int find_donor(struct check *c, const struct manifest_layer *want, uint32_t *ret)
{
	*ret = CHECK_NONE;
	for (uint32_t i = 0; i < c->n_layers; i++) {
		struct check_layer *l = &c->layers[i];
		int r = 0;

		if (l->why || strcmp(l->id, want->id) || strcmp(l->digest, want->digest) ||
		    l->bytes != want->bytes)
			continue;
		if (!l->frames_known)
			r = check_layer_frames(c, i, 0, 0);
		if (r < 0)
			return r;
		if (c->layers[i].why || !c->layers[i].frames_known)
			continue;
		*ret = i;
		return 0;
	}
	return 0;
}

/* A second name for the donor, or where it cannot have one a second file. */
static int link_or_copy(struct check *c, int donor_fd, const char *donor_path, int layers_dirfd,
			const char *name)
{
	struct stat want, have;

	(void)unlinkat(layers_dirfd, name, 0); /* from an attempt that a crash ended */
	if (linkat(c->store->root_fd, donor_path, layers_dirfd, name, 0) < 0) {
		if (errno == EMLINK || errno == EXDEV)
			return plain_file_copy(donor_fd, layers_dirfd, name);
		return error_errno();
	}
	if (fstat(donor_fd, &want) == 0 &&
	    fstatat(layers_dirfd, name, &have, AT_SYMLINK_NOFOLLOW) == 0 &&
	    want.st_ino == have.st_ino && want.st_dev == have.st_dev)
		return 0;
	(void)unlinkat(layers_dirfd, name, 0); /* not what was checked */
	return error_trace(-ESTALE);
}

/* A directory in the place of a file cannot be replaced by rename. */
static int move_directory_away(struct check *c, int layers_dirfd, const char *name)
{
	char id[ID_LEN + 1], grave[40];
	struct stat st;

	if (fstatat(layers_dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
		return 0;
	id_new('d', id);
	(void)snprintf(grave, sizeof(grave), "tmp/%s", id);
	return renameat(layers_dirfd, name, c->store->root_fd, grave) < 0 ? error_errno() : 0;
}

static int put_layer(struct check *c, int donor_fd, const char *donor_path, int layers_dirfd,
		     const char *name)
{
	char tmp[IMAGE_ID_LEN + 64];
	int r;

	(void)snprintf(tmp, sizeof(tmp), "%s.new.%d.%lx", name, getpid(),
		       (unsigned long)pthread_self());
	r = fd_sync(donor_fd); /* a backup may just have written it */
	if (r < 0)
		return r;
	r = link_or_copy(c, donor_fd, donor_path, layers_dirfd, tmp);
	if (r < 0)
		return r;
	r = file_fsync_dir(layers_dirfd);
	if (r == 0)
		r = move_directory_away(c, layers_dirfd, name);
	if (r == 0 && renameat(layers_dirfd, tmp, layers_dirfd, name) < 0)
		r = error_errno();
	if (r < 0) {
		(void)unlinkat(layers_dirfd, tmp, 0); /* the error at hand matters more */
		return r;
	}
	return file_fsync_dir(layers_dirfd);
}

/* The directory that was looked at, if it is still there. Return: fd; negative errno */
static int open_directory(struct check *c, uint32_t dir)
{
	_cleanup_fd_ int dirfd = openat(c->store->root_fd, c->dirs[dir].path,
					O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (dirfd < 0 || fstat(dirfd, &st) < 0)
		return error_errno();
	if ((uint64_t)st.st_ino != c->dirs[dir].ino || (uint64_t)st.st_dev != c->dirs[dir].dev)
		return error_trace(-ESTALE);
	return take_fd(dirfd);
}

/* layers/ of a directory, made when it is missing. Return: fd; negative errno */
static int open_layers(struct check *c, uint32_t dir)
{
	_cleanup_fd_ int dirfd = open_directory(c, dir);
	int fd = -1, r;

	if (dirfd < 0)
		return dirfd;
	if (mkdirat(dirfd, "layers", 0755) == 0) {
		r = file_fsync_dir(dirfd);
		if (r < 0)
			return error_trace(r);
	} else if (errno != EEXIST) {
		return error_errno();
	}
	r = plain_dir_open(dirfd, "layers", NULL, &fd);
	return r ? error_trace(r > 0 ? -ENOTDIR : r) : fd;
}

/* @done: 256 bytes, what was done. Return: 0; 1 when nobody has the layer; negative errno */
static int relink(struct check *c, const struct check_item *item, char *done)
{
	_cleanup_fd_ int donor_fd = -1, layers_dirfd = -1;
	char donor_path[160];
	uint32_t donor;
	int r = find_donor(c, &item->layer, &donor);

	if (r < 0 || donor == CHECK_NONE)
		return r < 0 ? error_trace(r) : 1;
	donor_fd = check_open_layer(c, donor, donor_path);
	if (donor_fd < 0)
		return 1;
	layers_dirfd = open_layers(c, item->dir);
	if (layers_dirfd < 0)
		return layers_dirfd;
	r = put_layer(c, donor_fd, donor_path, layers_dirfd, item->layer.id);
	if (r < 0)
		return r;
	c->dirs[item->dir].mended = true;
	(void)snprintf(done, 256, "layer linked again from %s", donor_path);
	return 0;
}

/* ---- acting -----------------------------------------------------------------------------------
 */

static bool is_gone(struct check *c, const struct check_item *item)
{
	return item->dir != CHECK_NONE &&
	       faccessat(c->store->root_fd, c->dirs[item->dir].path, F_OK, AT_SYMLINK_NOFOLLOW) < 0;
}

static void keep(struct check *c, const struct check_item *item, int r)
{
	bool lost = item->kind == FINDING_DAMAGED && !item->newer && !item->hint;
	char done[128];

	if (r >= 0)
		(void)snprintf(done, sizeof(done), "kept");
	else
		(void)snprintf(done, sizeof(done), "kept: %s", strerror(-r));
	check_emit(c, item, done, lost);
}

static void act_layer(struct check *c, const struct check_item *item)
{
	char done[256];
	int r = relink(c, item, done);

	if (r == 0)
		check_emit(c, item, done, false);
	else if (!is_gone(c, item))
		keep(c, item, r);
}

static int remove_torn(struct check *c, const struct check_item *item)
{
	char manifest[80];

	(void)snprintf(manifest, sizeof(manifest), "%.64s/manifest.json", item->path);
	if (faccessat(c->store->root_fd, manifest, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return -EBUSY; /* it has one now */
	return snapshot_delete(c->store->root_fd, item->path, NULL);
}

static int remove_link(struct check *c, const struct check_item *item)
{
	return store_template_remove(c->store, str_has_prefix(item->path, "templates/"));
}

/* Only what this program makes and only below a snapshot. */
static int remove_stray(struct check *c, const struct check_item *item)
{
	const char *name = strrchr(item->path, '/') + 1;
	struct stat st;
	uint64_t pid;

	if (item->dir == CHECK_NONE || !check_is_leftover(name, &pid) ||
	    fstatat(c->store->root_fd, item->path, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    !S_ISREG(st.st_mode))
		return 1;
	return unlinkat(c->store->root_fd, item->path, 0) < 0 ? -errno : 0;
}

/* One that a newer program wrote may be of use to that. */
static int remove_hint(struct check *c, const struct check_item *item)
{
	_cleanup_fd_ int dirfd = open_directory(c, item->dir);

	if (dirfd < 0 || item->newer)
		return dirfd < 0 ? dirfd : 1;
	return unlinkat(dirfd, item->hint, 0) < 0 ? -errno : 0;
}

static void act(struct check *c, const struct check_item *item)
{
	int r = 1;

	if (item->is_layer) {
		act_layer(c, item);
		return;
	}
	if (item->kind == FINDING_TORN)
		r = remove_torn(c, item);
	else if (item->kind == FINDING_LINK)
		r = remove_link(c, item);
	else if (item->kind == FINDING_STRAY)
		r = remove_stray(c, item);
	else if (item->hint)
		r = remove_hint(c, item);
	if (r == 0)
		check_emit(c, item, "removed", false);
	else if (r != -ENOENT && !is_gone(c, item))
		keep(c, item, r);
}

/* All findings from number @from on: layers, before anything goes that has them. Adds no findings.
 */
static int act_from(struct check *c, size_t from)
{
	int r = 0;

	for (int round = 0; round < 2; round++)
		for (size_t i = from; r == 0 && i < c->n_items; i++) {
			if (c->items[i].is_layer != (round == 0))
				continue;
			r = check_cancelled(c);
			if (r == 0)
				act(c, &c->items[i]);
		}
	return r;
}

/* With the layers back, what else is wrong with these directories? It can only be kept. */
static int look_again(struct check *c)
{
	size_t from = c->n_items;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < c->n_dirs; i++)
		if (c->dirs[i].mended)
			r = check_directory(c, i);
	for (size_t i = from; r == 0 && i < c->n_items; i++)
		if (!c->items[i].is_layer && c->items[i].kind != FINDING_STRAY)
			keep(c, &c->items[i], 0);
	return r;
}

static bool lacks_layers(const struct check *c)
{
	for (size_t i = 0; i < c->n_items; i++)
		if (c->items[i].is_layer)
			return true;
	return false;
}

static int repair(struct check *c)
{
	size_t templates;
	int r = check_directories(c);

	if (r == 0 && c->options->data)
		r = check_frames(c);
	c->stats.n_layers = c->n_layers;
	if (r == 0 && lacks_layers(c))
		r = collect_incoming(c);
	if (r == 0)
		r = act_from(c, 0);
	if (r == 0)
		r = look_again(c);
	templates = c->n_items;
	if (r == 0)
		r = check_templates(c); /* after torn directories went, which they may have named */
	return r ? r : act_from(c, templates);
}

int store_repair(struct store *store, struct store_index *index,
		 const struct check_options *options, struct problem *problem,
		 struct check_stats *ret)
{
	_cleanup_(check_deinit) struct check c = {
		.store = store, .options = options, .problem = problem, .repair = true};
	int r = repair(&c);

	if (r == 0 && index)
		r = store_index_rebuild(index, NULL, NULL, NULL);
	if (r < 0) {
		problem_errno(problem, r, "%s: repairing the store", store->root);
		return error_trace(r);
	}
	*ret = c.stats;
	return 0;
}
