/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store-check.c - findings, frames, and the check itself
 *
 * The structure of everything comes first and its findings are told at once; then, on demand, the
 * frames, each layer file once. A damaged layer is a finding for every directory that links it:
 * that is what an operator has to know, and each of the links is mended on its own.
 *
 * The store may be in use. A finding is only told when what it is about still has the name under
 * which it was found: deleting begins with a rename, so a snapshot that is half gone has no name.
 */
#include "image/store-check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "image/layer.h"
#include "image/outcome.h"
#include "image/store-check-walk.h"

#define PROGRESS_FRAMES 64u /* 4 MiB of guest: often enough to look alive and to be cancelled */

const char *finding_kind_name(enum finding_kind kind)
{
	static const char *const names[] = {
		[FINDING_TORN] = "torn",   [FINDING_DAMAGED] = "damaged", [FINDING_LINK] = "link",
		[FINDING_STRAY] = "stray", [FINDING_KEY] = "key",
	};

	return (size_t)kind < ARRAY_SIZE(names) ? names[kind] : "unknown";
}

/* ---- findings ---------------------------------------------------------------------------------
 */

static void item_deinit(struct check_item *item)
{
	free(item->path);
	free(item->why);
}

void check_deinit(struct check *c)
{
	for (size_t i = 0; i < c->n_items; i++)
		item_deinit(&c->items[i]);
	for (size_t i = 0; i < c->n_layers; i++) {
		free(c->layers[i].why);
		free(c->layers[i].path);
	}
	inode_table_deinit(&c->inodes);
	free(c->items);
	free(c->layers);
	free(c->dirs);
	free(c->uses);
	free(c->scratch);
}

int check_grow(void *array, size_t *cap, size_t n, size_t size)
{
	void *p, **at = array;
	size_t more = MAX(*cap * 2, 64ul);

	if (n < *cap)
		return 0;
	p = realloc(*at, more * size);
	if (!p)
		return -ENOMEM;
	*at = p;
	*cap = more;
	return 0;
}

int check_cancelled(struct check *c)
{
	const struct check_options *o = c->options;

	return o->cancelled && o->cancelled(o->userdata) ? -ECANCELED : 0;
}

bool check_is_damage(int r)
{
	return r > 0 || r == -EIO || r == -EBADMSG || r == -EUCLEAN || r == -EACCES || r == -EPERM;
}

struct check_item *check_add(struct check *c, enum finding_kind kind, uint32_t dir,
			     const char *path, const char *why)
{
	struct check_item item = {.kind = kind, .dir = dir};

	if (check_grow(&c->items, &c->cap_items, c->n_items, sizeof(item)) < 0)
		return NULL;
	item.path = strdup(path);
	item.why = strdup(why);
	if (!item.path || !item.why) {
		item_deinit(&item);
		return NULL;
	}
	c->items[c->n_items] = item;
	return &c->items[c->n_items++];
}

/* Names and quotations of damaged files go to terminals and into JSON. */
static const char *printable(const char *s, char *buf, size_t size)
{
	str_copy(buf, size, s);
	for (char *p = buf; *p; p++)
		if ((unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e)
			*p = '?';
	return buf;
}

void check_emit(struct check *c, const struct check_item *item, const char *done, bool lost)
{
	char path[512], why[768];
	struct finding f = {
		.kind = item->kind,
		.path = printable(item->path, path, sizeof(path)),
		.why = printable(item->why, why, sizeof(why)),
		.done = done,
		.lost = lost,
	};

	c->stats.n_findings++;
	c->stats.n_lost += lost;
	if (c->options->found)
		c->options->found(c->options->userdata, &f);
}

void check_emit_from(struct check *c, size_t from)
{
	if (c->repair)
		return;
	for (size_t i = from; i < c->n_items; i++) {
		check_emit(c, &c->items[i], NULL, false);
		item_deinit(&c->items[i]);
	}
	c->n_items = from;
}

/* ---- layers -----------------------------------------------------------------------------------
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

int store_check(struct store *store, const struct check_options *options, struct problem *problem,
		struct check_stats *ret)
{
	_cleanup_(check_deinit) struct check c = {
		.store = store, .options = options, .problem = problem};
	int r;

	r = check_directories(&c);
	if (r == 0)
		r = check_templates(&c);
	if (r == 0 && options->data)
		r = check_frames(&c);
	if (r < 0) {
		problem_errno(problem, r, "%s: checking the store", store->root);
		return error_trace(r);
	}
	c.stats.n_layers = c.n_layers;
	*ret = c.stats;
	return 0;
}
