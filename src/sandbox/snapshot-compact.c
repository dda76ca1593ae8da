/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot-compact.c - merging the layers of a snapshot because somebody asked for it
 *
 * The compacted copy takes over the snapshot's place in one exchange of names. While that is under
 * way the snapshot is entered in host.busy: a second compaction of it is refused, and deleting it
 * ends the compaction first. Everybody else may use the snapshot as always.
 */
#include "sandbox/private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "sandbox/pool.h"
#include "sandbox/snapshots.h"

#define INTERRUPT_MS	30000
#define INTERRUPT_EVERY 5

/* host.lock held */
static struct busy_snapshot *find_busy(struct host *host, const char *id)
{
	for (unsigned i = 0; i < HOST_MAX_BUSY; i++)
		if (!strcmp(host->busy[i].id, id))
			return &host->busy[i];
	return NULL;
}

struct busy_snapshot *snapshots_hold(struct host *host, const char *id, struct problem *problem)
{
	struct busy_snapshot *b;

	LOCK_SCOPE(&host->lock);
	if (find_busy(host, id)) {
		problem_set(problem, 409, "snapshot %s is being compacted already", id);
		return NULL;
	}
	b = find_busy(host, "");
	if (!b) {
		problem_set(problem, 503, "%d snapshots are being compacted already",
			    HOST_MAX_BUSY);
		return NULL;
	}
	memcpy(b->id, id, sizeof(b->id));
	atomic_store(&b->cancel, false);
	return b;
}

void snapshots_let_go(struct host *host, struct busy_snapshot *b)
{
	LOCK_SCOPE(&host->lock);
	b->id[0] = 0;
}

static bool interrupt(struct host *host, const char *id)
{
	struct busy_snapshot *b;

	LOCK_SCOPE(&host->lock);
	b = find_busy(host, id);
	if (b)
		atomic_store(&b->cancel, true);
	return b != NULL;
}

int snapshots_interrupt(struct host *host, const char *id, struct problem *problem)
{
	uint64_t deadline = deadline_after_ms(INTERRUPT_MS);

	while (interrupt(host, id)) {
		if (deadline_passed(deadline)) {
			problem_set(problem, 409, "snapshot %s is being compacted", id);
			problem_hint(problem, "try again in a moment");
			return -EBUSY;
		}
		clock_sleep_ms(INTERRUPT_EVERY);
	}
	return 0;
}

struct watched {
	struct host *host;
	struct busy_snapshot *busy;
	const struct host_task *task;
};

static bool is_cancelled(void *userdata)
{
	struct watched *w = userdata;

	return atomic_load(&w->busy->cancel) || atomic_load(&w->host->stopping) ||
	       (w->task->cancelled && w->task->cancelled(w->task->userdata));
}

static void on_progress(void *userdata, uint64_t done, uint64_t total)
{
	struct watched *w = userdata;

	if (w->task->progress)
		w->task->progress(w->task->userdata, done, total);
}

static bool is_template(struct host *host, const char *id)
{
	json_t *names;
	bool yes;

	if (snapshots_names(host, &names) < 0)
		return false;
	yes = json_object_get(names, id) != NULL;
	json_decref(names);
	return yes;
}

static int compact(struct watched *w, const char *id, int dirfd, bool force,
		   struct problem *problem, struct compact_stats *ret)
{
	struct host *host = w->host;
	const struct image_writer_options *how =
		is_template(host, id) ? &host->template_options : &host->sleep_options;
	const struct compact_options options = {.policy = host->compact,
						.force = force,
						.codec = how->codec,
						.level = how->level,
						.keys = host->keys,
						.cancelled = is_cancelled,
						.progress = on_progress,
						.userdata = w};
	char final[64];

	(void)snprintf(final, sizeof(final), "snapshots/%s", id); /* fixed length */
	return snapshot_compact(host->store->root_fd, host->store->root, dirfd, final, true, NULL,
				&options, problem, ret);
}

int snapshots_compact(struct host *host, const char *id_or_name, bool force,
		      const struct host_task *task, struct problem *problem,
		      char ret_id[ID_LEN + 1], struct compact_stats *ret)
{
	struct watched w = {.host = host, .task = task};
	_cleanup_fd_ int fd = -1;
	int r = snapshot_resolve(host, id_or_name, problem, ret_id);

	if (r < 0)
		return r;
	w.busy = snapshots_hold(host, ret_id, problem);
	if (!w.busy)
		return -EBUSY;
	fd = snapshot_open_dir(host, ret_id, problem, ret_id);
	r = fd < 0 ? fd : compact(&w, ret_id, fd, force, problem, ret);
	if (r == -ECANCELED)
		problem_set(problem, 409, "compacting snapshot %s was interrupted", ret_id);
	snapshots_let_go(host, w.busy);
	pool_recheck(host->pool);
	if (r == 0 || r == COMPACT_E_NOT_DUE)
		return r;
	problem_errno(problem, r > 0 ? -EBADMSG : r, "compacting snapshot %s", ret_id);
	return r > 0 ? -EBADMSG : error_trace(r);
}
