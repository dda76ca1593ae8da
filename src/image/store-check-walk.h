/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * store-check-walk.h - what check and repair share: a walk that collects findings; nobody else
 *
 * Directories, layer files and findings are kept in arrays and named by their index there, because
 * repair needs all of them at once: who else has this layer, and is that one whole?
 */
#include "image/inode-table.h"
#include "image/manifest.h"
#include "image/store-check.h"

#define CHECK_NONE UINT32_MAX

/* A snapshot or a sandbox's memory. */
struct check_dir {
	char path[64]; /* "snapshots/<id>", "sandboxes/<id>/memory-3" */
	uint64_t dev, ino;
	bool mended; /* repair has changed it */
};

/* One name of a layer file that was found whole so far. */
struct check_use {
	uint32_t dir;
	uint32_t next; /* of the same file; CHECK_NONE */
};

/* A layer file, however many names it has. */
struct check_layer {
	char id[IMAGE_ID_LEN + 1];
	char digest[DIGEST_LEN + 1]; /* of its index */
	uint64_t dev, ino, bytes;
	char *why;	    /* what is wrong with it; NULL: nothing as far as is known */
	bool frames_known;  /* every frame was read */
	uint32_t first_use; /* CHECK_NONE: an incoming one, at @path */
	char *path;	    /* of an incoming one */
};

struct check_item {
	enum finding_kind kind;
	char *path, *why;
	uint32_t dir; /* CHECK_NONE: not about one */
	bool is_layer, newer;
	const char *hint;	     /* file of it that is only of use: nothing is lost with it */
	struct manifest_layer layer; /* which one should be there */
};

struct check {
	struct store *store;
	const struct check_options *options;
	struct problem *problem; /* of what ends the walk */
	struct check_stats stats;
	struct inode_table inodes; /* of layers: numbers are indexes of the array */
	struct check_layer *layers;
	struct check_dir *dirs;
	struct check_use *uses;
	struct check_item *items;
	size_t n_layers, n_dirs, n_uses, n_items;
	size_t cap_layers, cap_dirs, cap_uses, cap_items;
	void *scratch; /* for frames */
	bool repair;   /* findings wait until all are known */
};

void check_deinit(struct check *c);

/** check_cancelled() - -ECANCELED when the caller wants no more, else 0 */
int check_cancelled(struct check *c);

/** check_add() - remember a finding. @dir: or CHECK_NONE. Return: the item; NULL without memory */
struct check_item *check_add(struct check *c, enum finding_kind kind, uint32_t dir,
			     const char *path, const char *why);

/** check_emit() - tell the caller. @done: NULL when only checking */
void check_emit(struct check *c, const struct check_item *item, const char *done, bool lost);

/** check_emit_from() - emit all from number @from on, and forget them; repair keeps them */
void check_emit_from(struct check *c, size_t from);

/** check_directories() - all snapshots and memories, and what else lies in snapshots/ */
int check_directories(struct check *c);

/** check_directory() - look at dirs[@dir] (again). Findings of one that is gone meanwhile are none
 */
int check_directory(struct check *c, uint32_t dir);

/** check_templates() - names that lead nowhere */
int check_templates(struct check *c);

/** check_layer_file() - the record of a layer file, made when its inode was not seen before */
int check_layer_file(struct check *c, int fd_consume, const char *id, uint32_t *ret_layer);

/** check_open_layer() - any name that it still has. @path: 160 bytes. Return: fd; -ENOENT */
int check_open_layer(struct check *c, uint32_t layer, char *path);

/** check_layer_frames() - read all of it; what is wrong goes to its record */
int check_layer_frames(struct check *c, uint32_t layer, uint64_t done, uint64_t total);

/** check_frames() - of every layer that looks whole */
int check_frames(struct check *c);

/** check_is_damage() - does this result say something about the file, or about this process? */
bool check_is_damage(int r);

/** check_is_leftover() - the form of a temporary name of file_write_atomic(). @ret_pid: whose */
bool check_is_leftover(const char *name, uint64_t *ret_pid);
