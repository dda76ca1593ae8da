/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store-check.c - findings, and the check itself
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
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/str.h"
#include "image/store-check-walk.h"

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

	if (mem_grow(&c->items, &c->cap_items, c->n_items, sizeof(item)) < 0)
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

/* ---- the check --------------------------------------------------------------------------------
 */

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
