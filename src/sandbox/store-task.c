/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store-task.c - the store as a whole
 *
 * Rewrapping goes on while directories are cloned from each other: a clone that was begun before
 * its source was rewrapped has the source's old seal, and may appear behind our back. So everything
 * is gone through again until nothing was left to do; that costs one small file per directory.
 */
#include "sandbox/store-task.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "image/rewrap.h"
#include "image/transfer.h"
#include "sandbox/private.h"
#include "sandbox/snapshots.h"

#define REWRAP_PASSES 4

/* ---- check and repair -------------------------------------------------------------------------
 */

int host_check(struct host *host, bool repair, const struct check_options *options,
	       struct problem *problem, struct check_stats *ret)
{
	struct check_options o = *options;
	int r;

	o.keys = host->keys;
	r = repair ? store_repair(host->store, host->index, &o, problem, ret)
		   : store_check(host->store, &o, problem, ret);
	if (r < 0)
		problem_errno(problem, r, "checking the store");
	return error_trace(r);
}

/* ---- usage ------------------------------------------------------------------------------------
 */

struct counting {
	json_t *names, *entries;
};

static int count_entry(void *userdata, const struct usage_entry *e)
{
	struct counting *c = userdata;
	json_t *names = json_object_get(c->names, e->id);

	return json_array_append_new(c->entries,
				     json_pack("{s:s, s:s, s:o, s:I, s:I, s:i}", "kind", e->kind,
					       "id", e->id, "names",
					       names ? json_deep_copy(names) : json_array(), "own",
					       (json_int_t)e->own, "shared", (json_int_t)e->shared,
					       "layers", (int)e->n_layers)) < 0
		       ? -ENOMEM
		       : 0;
}

static json_t *describe_total(const struct usage_total *t)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "total", (json_int_t)t->total,
			 "snapshots", (json_int_t)t->snapshots, "sandboxes",
			 (json_int_t)t->sandboxes, "temporary", (json_int_t)t->temporary, "other",
			 (json_int_t)t->other, "apparent", (json_int_t)t->apparent, "free",
			 (json_int_t)t->free);
}

int host_usage(struct host *host, struct problem *problem, json_t **ret)
{
	struct counting c = {.entries = json_array()};
	struct usage_total total = {0};
	int r = c.entries ? snapshots_names(host, &c.names) : -ENOMEM;

	if (r == 0)
		r = store_usage(host->store, count_entry, &c, problem, &total);
	if (r == 0) {
		*ret = json_pack("{s:O, s:o}", "entries", c.entries, "total",
				 describe_total(&total));
		r = *ret ? 0 : -ENOMEM;
	}
	json_decref(c.names);
	json_decref(c.entries);
	if (r < 0)
		problem_errno(problem, r, "counting what the store holds");
	return error_trace(r);
}

/* ---- layers -----------------------------------------------------------------------------------
 */

static int add_layer(void *userdata, const char *layer_id)
{
	return json_array_append_new(userdata, json_string(layer_id)) < 0 ? -ENOMEM : 0;
}

int host_layers(struct host *host, struct problem *problem, json_t **ret)
{
	json_t *layers = json_array();
	int r = layers ? transfer_each_layer(host->store, add_layer, layers) : -ENOMEM;

	if (r < 0) {
		json_decref(layers);
		problem_errno(problem, r, "listing layers");
		return error_trace(r);
	}
	*ret = json_pack("{s:o}", "layers", layers);
	return *ret ? 0 : -ENOMEM;
}

/* ---- rewrap -----------------------------------------------------------------------------------
 */

struct rewrap {
	struct host *host;
	const struct host_task *task;
	void (*failed)(void *userdata, const char *path, const char *why);
	struct rewrap_stats stats; /* of this pass */
	uint64_t done, total;
};

static bool is_cancelled(const struct rewrap *w)
{
	return atomic_load(&w->host->stopping) ||
	       (w->task->cancelled && w->task->cancelled(w->task->userdata));
}

static void count_outcome(struct rewrap *w, int r, const char *path, struct problem *p)
{
	if (r == 0) {
		w->stats.rewrapped++;
	} else if (r == REWRAP_E_CURRENT) {
		w->stats.current++;
	} else {
		problem_errno(p, r > 0 ? -EBADMSG : r, "rewrapping it");
		w->stats.failed++;
		if (w->failed)
			w->failed(w->task->userdata, path, p->message);
	}
	w->done++;
	w->total = MAX(w->total, w->done);
	if (w->task->progress)
		w->task->progress(w->task->userdata, w->done, w->total);
}

static int count_directory(void *userdata, const char *id, int dirfd)
{
	struct rewrap *w = userdata;

	w->total++;
	return 0;
}

static int rewrap_snapshot(void *userdata, const char *id, int dirfd)
{
	struct rewrap *w = userdata;
	struct problem p = PROBLEM_INIT;
	char path[ID_LEN + 16], found[ID_LEN + 1];
	int r = snapshot_rewrap(w->host->store->root_fd, dirfd, w->host->keys, &p);

	if (r < 0 && snapshot_was_replaced(w->host, id, dirfd)) {
		_cleanup_fd_ int now = snapshot_open_dir(w->host, id, NULL, found);

		p = PROBLEM_INIT;
		r = now < 0 ? now
			    : snapshot_rewrap(w->host->store->root_fd, now, w->host->keys, &p);
	}
	if (r < 0 && snapshot_resolve(w->host, id, NULL, found) == -ENOENT)
		return 0;					   /* deleted meanwhile */
	(void)snprintf(path, sizeof(path), "snapshots/%.21s", id); /* ID_LEN */
	count_outcome(w, r, path, &p);
	return is_cancelled(w) ? -ECANCELED : 0;
}

/* Its memory must not be replaced by a sleep at this moment. */
static void rewrap_sandbox(void *userdata, struct sandbox *found)
{
	struct rewrap *w = userdata;
	struct problem p = PROBLEM_INIT;
	_cleanup_op_ struct sandbox *sb = NULL;
	_cleanup_fd_ int fd = -1;
	char memory[32], path[96];

	if (is_cancelled(w))
		return;
	sb = sandbox_op_lock(sandbox_ref(found), &p);
	if (found->gone || (sb && !sb->manifest.id[0]))
		return; /* or a template's build, which has nothing yet */
	sandbox_memory_name(found->record.generation, memory);
	(void)snprintf(path, sizeof(path), "sandboxes/%s/%s", found->record.id, memory); /* fits */
	if (sb)
		fd = file_open_dir(sb->dirfd, memory);
	count_outcome(w,
		      !sb      ? -EBUSY
		      : fd < 0 ? fd
			       : snapshot_rewrap(w->host->store->root_fd, fd, w->host->keys, &p),
		      path, &p);
}

static int pass(struct rewrap *w)
{
	size_t n;
	int r;

	w->stats = (struct rewrap_stats){0};
	w->done = w->total = 0;
	pthread_mutex_lock(&w->host->lock);
	n = w->host->n_sandboxes;
	pthread_mutex_unlock(&w->host->lock);
	r = store_each(w->host->store, "snapshots", count_directory, w);
	w->total += n;
	if (r == 0)
		r = store_each(w->host->store, "snapshots", rewrap_snapshot, w);
	if (r == 0)
		r = host_each_sandbox(w->host, rewrap_sandbox, w);
	return r == 0 && is_cancelled(w) ? -ECANCELED : error_trace(r);
}

int host_rewrap(struct host *host, const struct host_task *task,
		void (*failed)(void *userdata, const char *path, const char *why),
		struct problem *problem, struct rewrap_stats *ret)
{
	struct rewrap w = {.host = host, .task = task, .failed = failed};
	unsigned rewrapped;
	int r;

	if (!host->keys) {
		problem_set(problem, 409, "this host has no key to seal snapshots with");
		problem_hint(problem, "start dormd with --seal-key, the new key first");
		return -ENOKEY;
	}
	r = pass(&w);
	rewrapped = w.stats.rewrapped;
	w.failed = NULL; /* they were told of */
	for (int i = 1; r == 0 && w.stats.rewrapped && i < REWRAP_PASSES; i++) {
		r = pass(&w);
		rewrapped += w.stats.rewrapped;
	}
	if (r < 0) {
		problem_errno(problem, r, "rewrapping the store");
		return error_trace(r);
	}
	*ret = (struct rewrap_stats){
		.rewrapped = rewrapped,
		.current = w.stats.current > rewrapped ? w.stats.current - rewrapped : 0,
		.failed = w.stats.failed};
	return 0;
}
