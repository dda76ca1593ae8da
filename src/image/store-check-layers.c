/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store-check-layers.c - layer files, each looked at once
 *
 * What is known of a layer is kept by inode, so that a template's layer is decoded once and not for
 * each of its 1,000 snapshots, and its frames are read once.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "image/layer.h"
#include "image/store-check-walk.h"

#define PROGRESS_FRAMES 64u /* 4 MiB of guest: often enough to look alive and to be cancelled */

/* ---- records ----------------------------------------------------------------------------------
 */

static bool is_layer(int fd, const struct check_layer *l)
{
	struct stat st;

	return fstat(fd, &st) == 0 && (uint64_t)st.st_dev == l->dev &&
	       (uint64_t)st.st_ino == l->ino;
}

/* Open @path if it is (still) this layer. */
static int open_name(struct check *c, const struct check_layer *l, const char *path)
{
	_cleanup_fd_ int fd = -1;

	if (plain_file_open(c->store->root_fd, path, path, NULL, &fd, NULL) != 0 ||
	    !is_layer(fd, l))
		return -ENOENT;
	return take_fd(fd);
}

int check_open_layer(struct check *c, uint32_t layer, char *path)
{
	const struct check_layer *l = &c->layers[layer];

	for (uint32_t i = l->first_use; i != CHECK_NONE; i = c->uses[i].next) {
		int fd;

		(void)snprintf(path, 160, "%s/layers/%s", c->dirs[c->uses[i].dir].path, l->id);
		fd = open_name(c, l, path);
		if (fd >= 0)
			return fd;
	}
	if (!l->path)
		return -ENOENT;
	(void)snprintf(path, 160, "%s", l->path); /* limited when it was found */
	return open_name(c, l, path);
}

/* Header, footer and index of a layer whose inode is new. */
static int describe_layer(struct check_layer *l, int fd_consume)
{
	_cleanup_(layer_closep) struct layer *layer = NULL;
	struct problem problem = PROBLEM_INIT;
	uint8_t id[LAYER_ID_BYTES];
	int r;

	(void)str_unhex(l->id, id, sizeof(id)); /* names were checked */
	r = layer_open_fd_consume(fd_consume, l->bytes, id, NULL, &problem, &layer);
	if (r == 0) {
		str_hex(layer_digest(layer), DIGEST_BYTES, l->digest);
		return 0;
	}
	if (!check_is_damage(r))
		return error_trace(r);
	if (r < 0)
		problem_errno(&problem, r, "layer %s: cannot be read", l->id);
	l->why = strdup(problem.message);
	return l->why ? 0 : -ENOMEM;
}

/*
 * The inode of a layer that was deleted during the walk may be another layer's by now. It is, when
 * the number is known under another id and none of the names it was known by leads to it any more.
 */
static bool is_reused(struct check *c, uint32_t layer, const char *id)
{
	_cleanup_fd_ int fd = -1;
	char path[160];

	if (!strcmp(c->layers[layer].id, id))
		return false;
	fd = check_open_layer(c, layer, path);
	return fd < 0;
}

static void forget_layer(struct check_layer *l)
{
	free(l->why);
	free(l->path);
}

int check_layer_file(struct check *c, int fd_consume, const char *id, uint32_t *ret_layer)
{
	_cleanup_fd_ int fd = fd_consume;
	struct check_layer *l;
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return error_errno();
	if (mem_grow(&c->layers, &c->cap_layers, c->n_layers, sizeof(*l)) < 0)
		return -ENOMEM;
	r = inode_table_put(&c->inodes, &st, ret_layer);
	if (r < 0 || (r == 0 && !is_reused(c, *ret_layer, id)))
		return error_trace(r);
	l = &c->layers[*ret_layer];
	if (r == 1)
		c->n_layers++; /* the number that the table gave is the next one */
	else
		forget_layer(l);
	*l = (struct check_layer){
		.dev = (uint64_t)st.st_dev,
		.ino = (uint64_t)st.st_ino,
		.bytes = (uint64_t)st.st_size,
		.first_use = CHECK_NONE,
	};
	str_copy(l->id, sizeof(l->id), id);
	return describe_layer(l, take_fd(fd));
}

/* ---- frames -----------------------------------------------------------------------------------
 */

static int open_whole_layer(struct check *c, uint32_t layer, struct problem *problem,
			    struct layer **ret)
{
	const struct check_layer *l = &c->layers[layer];
	uint8_t id[LAYER_ID_BYTES];
	char path[160];
	int fd = check_open_layer(c, layer, path);

	if (fd < 0)
		return fd;
	(void)str_unhex(l->id, id, sizeof(id)); /* names were checked */
	return layer_open_fd_consume(fd, l->bytes, id, NULL, problem, ret);
}

static int check_all_frames(struct check *c, const struct layer *l, uint64_t done, uint64_t total,
			    struct problem *problem)
{
	const struct check_options *o = c->options;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < layer_n_frames(l); i++) {
		r = layer_check_frame(l, i, c->scratch, problem);
		done += layer_frame_bytes(l, i);
		c->stats.bytes_read += layer_frame_bytes(l, i);
		if (r || (i + 1) % PROGRESS_FRAMES)
			continue;
		if (o->progress && total)
			o->progress(o->userdata, done, total);
		r = check_cancelled(c);
	}
	return r;
}

int check_layer_frames(struct check *c, uint32_t layer, uint64_t done, uint64_t total)
{
	_cleanup_(layer_closep) struct layer *l = NULL;
	struct problem problem = PROBLEM_INIT;
	int r;

	if (!c->scratch)
		c->scratch = aligned_alloc(DORM_PAGE_SIZE, 2 * IMAGE_FRAME_BYTES + DORM_PAGE_SIZE);
	if (!c->scratch)
		return -ENOMEM;
	r = open_whole_layer(c, layer, &problem, &l);
	if (r == -ENOENT)
		return 0; /* deleted meanwhile, by everybody who had it */
	if (r == 0)
		r = check_all_frames(c, l, done, total, &problem);
	if (check_is_damage(r)) {
		problem_errno(&problem, MIN(r, -1), "layer %s: cannot be read",
			      c->layers[layer].id); /* unless it has been described */
		c->layers[layer].why = strdup(problem.message);
		return c->layers[layer].why ? 0 : -ENOMEM;
	}
	c->layers[layer].frames_known = r == 0;
	return error_trace(r);
}

/* A damaged layer is a finding wherever it is linked. */
static int add_everywhere(struct check *c, uint32_t layer)
{
	const struct check_layer *l = &c->layers[layer];

	for (uint32_t i = l->first_use; i != CHECK_NONE; i = c->uses[i].next) {
		_cleanup_fd_ int fd = -1;
		struct check_item *item;
		char path[160];

		(void)snprintf(path, sizeof(path), "%s/layers/%s", c->dirs[c->uses[i].dir].path,
			       l->id);
		fd = open_name(c, l, path);
		if (fd < 0)
			continue;
		item = check_add(c, FINDING_DAMAGED, c->uses[i].dir, path, l->why);
		if (!item)
			return -ENOMEM;
		item->is_layer = true;
		item->layer.bytes = l->bytes;
		str_copy(item->layer.id, sizeof(item->layer.id), l->id);
		str_copy(item->layer.digest, sizeof(item->layer.digest), l->digest);
	}
	return 0;
}

int check_frames(struct check *c)
{
	const struct check_options *o = c->options;
	uint64_t done = 0, total = 0;
	int r = 0;

	for (size_t i = 0; i < c->n_layers; i++)
		total += c->layers[i].why ? 0 : c->layers[i].bytes;
	for (uint32_t i = 0; r == 0 && i < c->n_layers; i++) {
		size_t from = c->n_items;

		if (c->layers[i].why)
			continue; /* told already */
		r = check_cancelled(c);
		if (r == 0)
			r = check_layer_frames(c, i, done, total);
		if (r == 0 && c->layers[i].why)
			r = add_everywhere(c, i);
		check_emit_from(c, from);
		done += c->layers[i].bytes;
		if (r == 0 && o->progress)
			o->progress(o->userdata, done, total);
	}
	return error_trace(r);
}
