/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store-usage.c - blocks, every inode once
 *
 * The whole store is walked once, in the order snapshots, sandboxes, tmp, the rest. An inode's
 * blocks go to the total of the place where it is met first.
 *
 * Below one snapshot or sandbox (its *owner*), the names of each inode are counted as well. When
 * all of its links were met there, deleting the owner frees it. Example: a layer of 8 MiB that
 * three snapshots link has st_nlink 3; each of them meets it once, 1 < 3, so it is shared for all
 * three and in the total once. After two of them are deleted, st_nlink is 1 and it is the third's
 * own.
 *
 * What disappears during the walk is not counted; nothing is locked.
 */
#include "image/store-usage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/id.h"
#include "image/inode-table.h"

#define BLOCK_BYTES 512u /* the unit of st_blocks, whatever the file system's is */
#define MAX_DEPTH   64	 /* ours have 4; what others put here must not use up our stack */

/* What is known of an inode. */
struct node {
	uint64_t bytes; /* allocated */
	uint32_t owner; /* the one in whose directory it was last met */
	uint32_t names; /* met there */
	uint32_t links; /* st_nlink */
};

struct walk {
	struct inode_table inodes;
	struct node *nodes; /* by the inodes' numbers */
	size_t cap_nodes;
	uint32_t *met; /* the owner's inodes */
	size_t n_met, cap_met;
	uint32_t owner; /* counts from 1; 0: outside of all */
	uint32_t n_layers;
	uint64_t *part; /* of the total: where bytes of new inodes go */
	struct usage_total total;
	usage_visit visit;
	void *userdata;
};

static void walk_deinit(struct walk *w)
{
	inode_table_deinit(&w->inodes);
	free(w->nodes);
	free(w->met);
}

/* One name of an inode. */
static int count(struct walk *w, const struct stat *st, bool is_layer)
{
	struct node *node;
	uint32_t i;
	int r = mem_grow(&w->nodes, &w->cap_nodes, w->inodes.n, sizeof(*w->nodes));

	if (r == 0)
		r = mem_grow(&w->met, &w->cap_met, w->n_met, sizeof(*w->met));
	if (r != 0)
		return error_trace(r);
	r = inode_table_put(&w->inodes, st, &i);
	if (r < 0)
		return error_trace(r);
	node = &w->nodes[i];
	if (r == 1) {
		*node = (struct node){.bytes = (uint64_t)st->st_blocks * BLOCK_BYTES};
		*w->part += node->bytes;
		w->total.total += node->bytes;
	}
	if (S_ISREG(st->st_mode))
		w->total.apparent += (uint64_t)st->st_size;
	if (!w->owner)
		return 0;
	if (node->owner != w->owner) {
		node->owner = w->owner;
		node->names = 0;
		w->met[w->n_met++] = i;
		w->n_layers += is_layer;
	}
	node->names++;
	/* a directory's links are its own "." and its children's "..": nobody else has any */
	node->links = S_ISDIR(st->st_mode) ? 1 : (uint32_t)st->st_nlink;
	return 0;
}

static int walk_names(struct walk *w, int dirfd, const char *folder, int depth);

static int walk_tree(struct walk *w, int parent_dirfd, const char *name, const char *folder,
		     int depth)
{
	_cleanup_fd_ int fd = -1;
	struct stat st;
	int r;

	if (fstatat(parent_dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : error_errno();
	r = count(w, &st, S_ISREG(st.st_mode) && !strcmp(folder, "layers"));
	if (r < 0 || !S_ISDIR(st.st_mode))
		return r;
	if (depth >= MAX_DEPTH)
		return error_trace(-ELOOP);
	fd = openat(parent_dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0) /* replaced meanwhile by something else: as if it had been removed */
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : error_errno();
	return walk_names(w, fd, name, depth + 1);
}

static int walk_names(struct walk *w, int dirfd, const char *folder, int depth)
{
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	int r = file_opendir(dirfd, ".", &d);

	while (r == 0 && (e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			r = walk_tree(w, dirfd, e->d_name, folder, depth);
	return error_trace(r);
}

/* ---- owners -----------------------------------------------------------------------------------
 */

static int report(struct walk *w, const char *kind, const char *id)
{
	struct usage_entry entry = {.kind = kind, .id = id, .n_layers = w->n_layers};

	for (size_t i = 0; i < w->n_met; i++) {
		const struct node *node = &w->nodes[w->met[i]];

		if (node->names >= node->links)
			entry.own += node->bytes;
		else
			entry.shared += node->bytes;
	}
	return w->visit ? w->visit(w->userdata, &entry) : 0;
}

static int walk_owner(struct walk *w, int kind_dirfd, const char *kind, const char *id,
		      uint32_t owner)
{
	struct stat st;
	int r;

	if (fstatat(kind_dirfd, id, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : error_errno();
	w->owner = S_ISDIR(st.st_mode) && id_is_valid(id) ? owner : 0;
	w->n_met = w->n_layers = 0;
	r = walk_tree(w, kind_dirfd, id, "", 1);
	if (r == 0 && w->owner)
		r = report(w, kind, id);
	w->owner = 0;
	return r;
}

static int walk_owners(struct walk *w, struct store *store, const char *folder, const char *kind,
		       uint32_t *owner)
{
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	struct stat st;
	int r = file_opendir(store->root_fd, folder, &d);

	if (r < 0)
		return error_trace(r);
	if (fstat(dirfd(d), &st) < 0)
		return error_errno();
	r = count(w, &st, false);
	while (r == 0 && (e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			r = walk_owner(w, dirfd(d), kind, e->d_name, ++*owner);
	return error_trace(r);
}

/* The root itself, and what has not been counted yet. */
static int walk_rest(struct walk *w, struct store *store)
{
	static const char *const done[] = {".", "..", "snapshots", "sandboxes", "tmp"};
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	struct stat st;
	int r = file_opendir(store->root_fd, ".", &d);

	if (r < 0)
		return error_trace(r);
	if (fstat(dirfd(d), &st) < 0)
		return error_errno();
	r = count(w, &st, false);
	while (r == 0 && (e = readdir(d))) {
		bool counted = false;

		for (size_t i = 0; i < ARRAY_SIZE(done); i++)
			counted |= !strcmp(e->d_name, done[i]);
		if (!counted)
			r = walk_tree(w, dirfd(d), e->d_name, "", 1);
	}
	return error_trace(r);
}

int store_usage(struct store *store, usage_visit visit, void *userdata, struct problem *problem,
		struct usage_total *ret)
{
	_cleanup_(walk_deinit) struct walk w = {.visit = visit, .userdata = userdata};
	unsigned long long bytes;
	uint32_t owner = 0;
	int r;

	w.part = &w.total.snapshots;
	r = walk_owners(&w, store, "snapshots", "snapshot", &owner);
	w.part = &w.total.sandboxes;
	if (r == 0)
		r = walk_owners(&w, store, "sandboxes", "sandbox", &owner);
	w.part = &w.total.temporary;
	if (r == 0)
		r = walk_tree(&w, store->root_fd, "tmp", "", 1);
	w.part = &w.total.other;
	if (r == 0)
		r = walk_rest(&w, store);
	if (r == 0)
		r = store_free_bytes(store, &bytes);
	if (r < 0)
		problem_errno(problem, r, "%s: measuring the store", store->root);
	if (r)
		return error_trace(r);
	w.total.free = bytes;
	*ret = w.total;
	return 0;
}
