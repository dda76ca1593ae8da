/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot-tree.c - who descends from whom
 *
 * Nodes are the snapshots that there are, the sandboxes, and the ancestors that are gone, which are
 * known only by the id in the manifests of their children. A node's parent is what its manifest
 * says; and since manifests also come from other hosts, what they say may go in circles: of every
 * circle one link is cut.
 *
 * Children are attached from the bottom up, in a depth-first order kept in an array, so that a long
 * line of ancestors costs no stack here. It would cost one in whoever parses the JSON: what lies
 * deeper than MAX_DEPTH is shown at that depth.
 */
#include "sandbox/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/str.h"
#include "image/store-usage.h"
#include "sandbox/snapshots.h"

#define MAX_DEPTH 200u
#define NONE	  SIZE_MAX

struct node {
	char id[ID_LEN + 1], parent_id[ID_LEN + 1];
	json_t *json; /* owned */
	size_t parent;
	unsigned depth;
	uint8_t colour; /* 0 not seen, 1 on the way up, 2 done */
};

struct tree {
	struct node *nodes;
	size_t n, cap;
	json_t *by_id; /* snapshots: id -> index */
	json_t *use;   /* id -> [own, shared] */
	int error;
};

static void tree_deinit(struct tree *t)
{
	for (size_t i = 0; i < t->n; i++)
		json_decref(t->nodes[i].json);
	free(t->nodes);
	json_decref(t->by_id);
	json_decref(t->use);
}

/* Steals @json. A failure is remembered, and the tree then not shown. */
static void add_node(struct tree *t, const char *id, const char *parent_id, bool is_snapshot,
		     json_t *json)
{
	struct node *n;

	if (mem_grow(&t->nodes, &t->cap, t->n, sizeof(*n)) < 0) {
		t->error = -ENOMEM;
		json_decref(json);
		return;
	}
	n = &t->nodes[t->n];
	*n = (struct node){.json = json, .parent = NONE};
	str_copy(n->id, sizeof(n->id), id);
	str_copy(n->parent_id, sizeof(n->parent_id), parent_id);
	if (!json ||
	    (is_snapshot && json_object_set_new(t->by_id, id, json_integer((json_int_t)t->n)) < 0))
		t->error = -ENOMEM;
	t->n++;
}

/* ---- what there is ----------------------------------------------------------------------------
 */

static int collect_use(void *userdata, const struct usage_entry *e)
{
	struct tree *t = userdata;

	return json_object_set_new(t->use, e->id,
				   json_pack("[I, I]", (json_int_t)e->own, (json_int_t)e->shared)) <
			       0
		       ? -ENOMEM
		       : 0;
}

static json_int_t use_of(const struct tree *t, const char *id, unsigned which, uint64_t otherwise)
{
	json_t *a = json_object_get(t->use, id);

	return a ? json_integer_value(json_array_get(a, which)) : (json_int_t)otherwise;
}

static void add_snapshot(void *userdata, const struct snapshot_entry *e)
{
	struct tree *t = userdata;
	char created[32];

	clock_rfc3339(e->created_ns, created);
	add_node(t, e->id, e->parent_id, true,
		 json_pack("{s:s, s:o, s:s, s:I, s:I, s:I, s:b, s:[]}", "snapshotID", e->id,
			   "names", e->names ? json_deep_copy(e->names) : json_array(), "createdAt",
			   created, "memoryMB", (json_int_t)(e->memory_bytes >> 20), "ownBytes",
			   use_of(t, e->id, 0, e->stored_bytes), "sharedBytes",
			   use_of(t, e->id, 1, e->shared_bytes), "deleted", 0, "children"));
}

static int add_deleted(struct tree *t, const char *id)
{
	add_node(t, id, "", true,
		 json_pack("{s:s, s:[], s:n, s:n, s:I, s:I, s:b, s:[]}", "snapshotID", id, "names",
			   "createdAt", "memoryMB", "ownBytes", (json_int_t)0, "sharedBytes",
			   (json_int_t)0, "deleted", 1, "children"));
	return t->error;
}

/* A sandbox's memory descends from a snapshot, or still is one that was cloned. */
static void sandbox_parent(struct sandbox *sb, char ret[ID_LEN + 1])
{
	const struct manifest *m = &sb->manifest;

	str_copy(ret, ID_LEN + 1, m->id[0] == SANDBOX_MEMORY_PREFIX ? m->parent_id : m->id);
}

static void add_sandbox(void *userdata, struct sandbox *sb)
{
	struct tree *t = userdata;
	enum sandbox_state state;
	char parent[ID_LEN + 1];

	pthread_mutex_lock(&sb->info);
	state = sb->record.state;
	sandbox_parent(sb, parent);
	pthread_mutex_unlock(&sb->info);
	if (state == SANDBOX_CREATING || state == SANDBOX_DELETING)
		return;
	add_node(t, sb->record.id, parent, false,
		 json_pack("{s:s, s:s, s:I, s:I}", "sandboxID", sb->record.id, "state",
			   sandbox_state_name(state), "ownBytes", use_of(t, sb->record.id, 0, 0),
			   "sharedBytes", use_of(t, sb->record.id, 1, 0)));
}

static int collect(struct host *host, struct tree *t, struct problem *problem)
{
	struct usage_total total;
	int r;

	t->by_id = json_object();
	t->use = json_object();
	if (!t->by_id || !t->use)
		return -ENOMEM;
	/* what cannot be counted is shown as the index knows it */
	(void)store_usage(host->store, collect_use, t, NULL, &total);
	r = snapshots_each(host, add_snapshot, t);
	if (r == 0)
		r = host_each_sandbox(host, add_sandbox, t);
	return r < 0 ? error_trace(r) : t->error;
}

/* ---- linking ----------------------------------------------------------------------------------
 */

static size_t find_node(const struct tree *t, const char *id)
{
	json_t *i = json_object_get(t->by_id, id);

	return i ? (size_t)json_integer_value(i) : NONE;
}

/* Ancestors that are gone come into being here; they have no parents. */
static int link_parents(struct tree *t)
{
	size_t n = t->n;
	int r = 0;

	for (size_t i = 0; r == 0 && i < n; i++) {
		char id[ID_LEN + 1]; /* the nodes may move */

		memcpy(id, t->nodes[i].parent_id, sizeof(id));
		if (!id[0])
			continue;
		if (find_node(t, id) == NONE)
			r = add_deleted(t, id);
		if (r == 0)
			t->nodes[i].parent = find_node(t, id);
	}
	return r;
}

static void cut_circles(struct tree *t)
{
	for (size_t i = 0; i < t->n; i++) {
		size_t k = i;

		while (k != NONE && t->nodes[k].colour == 0) {
			size_t up = t->nodes[k].parent;

			t->nodes[k].colour = 1;
			if (up != NONE && t->nodes[up].colour == 1)
				t->nodes[k].parent = up = NONE;
			k = up;
		}
		for (k = i; k != NONE && t->nodes[k].colour == 1; k = t->nodes[k].parent)
			t->nodes[k].colour = 2;
	}
}

static int compare_depth(const void *a, const void *b, void *arg)
{
	const struct tree *t = arg;
	unsigned x = t->nodes[*(const size_t *)a].depth, y = t->nodes[*(const size_t *)b].depth;

	if (x != y)
		return x < y ? 1 : -1;
	return *(const size_t *)a < *(const size_t *)b ? -1 : 1; /* as they were listed */
}

/* There are no circles any more, but lines may be long: each is walked once. */
static void measure_depths(struct tree *t)
{
	for (size_t i = 0; i < t->n; i++) {
		unsigned depth = 0;

		for (size_t k = i; t->nodes[k].parent != NONE; k = t->nodes[k].parent) {
			depth++;
			if (t->nodes[t->nodes[k].parent].depth) {
				depth += t->nodes[t->nodes[k].parent].depth;
				break;
			}
		}
		t->nodes[i].depth = depth;
	}
}

/* The ancestor that is shown as the parent of @i. */
static size_t shown_parent(const struct tree *t, size_t i)
{
	size_t k = t->nodes[i].parent;

	while (k != NONE && t->nodes[k].depth >= MAX_DEPTH)
		k = t->nodes[k].parent;
	return k;
}

/* Deepest first, so that whatever is attached has its own children already. */
static int attach(struct tree *t, size_t only_root, json_t *roots)
{
	_cleanup_free_ size_t *order = calloc(t->n + 1, sizeof(*order));
	int r = order ? 0 : -ENOMEM;

	for (size_t i = 0; r == 0 && i < t->n; i++)
		order[i] = i;
	if (r == 0)
		qsort_r(order, t->n, sizeof(*order), compare_depth, t);
	for (size_t i = 0; r == 0 && i < t->n; i++) {
		size_t k = order[i], up = shown_parent(t, k);
		json_t *to = up == NONE ? roots : json_object_get(t->nodes[up].json, "children");

		if (up == NONE && only_root != NONE && k != only_root)
			continue;
		r = json_array_append(to, t->nodes[k].json) < 0 ? -ENOMEM : 0;
	}
	return r;
}

static size_t root_of(const struct tree *t, size_t i)
{
	while (t->nodes[i].parent != NONE)
		i = t->nodes[i].parent;
	return i;
}

int snapshots_tree(struct host *host, const char *id_or_name, struct problem *problem, json_t **ret)
{
	_cleanup_(tree_deinit) struct tree t = {0};
	size_t root = NONE;
	char id[ID_LEN + 1];
	json_t *roots;
	int r = id_or_name ? snapshot_resolve(host, id_or_name, problem, id) : 0;

	if (r < 0)
		return r;
	r = collect(host, &t, problem);
	if (r == 0)
		r = link_parents(&t);
	if (r < 0) {
		problem_errno(problem, r, "reading the tree of snapshots");
		return error_trace(r);
	}
	cut_circles(&t);
	measure_depths(&t);
	if (id_or_name) {
		root = find_node(&t, id);
		if (root == NONE) /* deleted a moment ago */
			return snapshot_resolve(host, id, problem, id) < 0 ? -ENOENT : -EAGAIN;
		root = root_of(&t, root);
	}
	roots = json_array();
	r = roots ? attach(&t, root, roots) : -ENOMEM;
	*ret = r == 0 ? json_pack("{s:O}", "roots", roots) : NULL;
	json_decref(roots);
	return *ret ? 0 : -ENOMEM;
}
