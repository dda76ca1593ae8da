/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host-metrics.c - GET /metrics: the counters of this daemon, the state of the host, its pager's
 *
 * A scrape takes no lock that an operation holds for long, and asks nobody but the pager, for
 * PAGER_MS at most: when that does not answer in time its families are missing, and
 * dormouse_pager_up is 0. What takes longer to find out, the bytes of the store, is found out in
 * the background when somebody scrapes and the last answer is older than USAGE_AGE_NS; until then,
 * the last answer is given, with its age.
 */
#include "sandbox/private.h"

#include <errno.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "image/store-usage.h"
#include "sandbox/metrics.h"

#define PAGER_MS     500
#define USAGE_AGE_NS (300 * NSEC_PER_SEC)

/* What the store takes, as of some time ago. There is one store in a process. */
static struct {
	pthread_mutex_t lock;
	struct usage_total total;
	uint64_t own;	  /* of the snapshots and sandboxes: what nobody else links */
	uint64_t when_ns; /* 0: never */
	bool looking;
} store = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int add_own(void *userdata, const struct usage_entry *e)
{
	*(uint64_t *)userdata += e->own;
	return 0;
}

static void look(struct host *host, void *arg)
{
	struct usage_total total = {0};
	struct problem p = PROBLEM_INIT;
	uint64_t own = 0;
	int r = store_usage(host->store, add_own, &own, &p, &total);

	LOCK_SCOPE(&store.lock);
	store.looking = false;
	if (r < 0)
		return; /* the age says so */
	store.total = total;
	store.own = own;
	store.when_ns = clock_now_ns();
}

static void write_store(struct host *host, struct metrics_text *t)
{
	unsigned long long left = 0;
	uint64_t now = clock_now_ns();

	if (store_free_bytes(host->store, &left) == 0)
		metrics_one(t, "store_free_bytes", "gauge", "Space left where the store is.",
			    (double)left);
	LOCK_SCOPE(&store.lock);
	if (!store.looking && (!store.when_ns || now - store.when_ns > USAGE_AGE_NS))
		store.looking = host_run(host, look, NULL) == 0;
	if (!store.when_ns)
		return;
	metrics_family(
		t, "store_bytes", "gauge",
		"Bytes on disk, some minutes ago: in files of one snapshot or sandbox alone, "
		"in files that several share, each counted once, and outside of both.");
	metrics_sample(t, "kind", "private", (double)store.own);
	metrics_sample(t, "kind", "shared",
		       (double)(store.total.snapshots + store.total.sandboxes - store.own));
	metrics_sample(t, "kind", "other", (double)(store.total.temporary + store.total.other));
	metrics_one(t, "store_bytes_age_seconds", "gauge", "How long ago that was.",
		    (double)(now - store.when_ns) / 1e9);
}

static void count_state(void *userdata, struct sandbox *sb)
{
	unsigned *counts = userdata;

	LOCK_SCOPE(&sb->info);
	if (!sb->pooled) /* which have figures of their own */
		counts[sb->record.state]++;
}

static void write_sandboxes(struct host *host, struct metrics_text *t)
{
	unsigned counts[SANDBOX_N_STATES] = {0};
	struct events_counters n;

	if (host_each_sandbox(host, count_state, counts) < 0)
		t->error = -ENOMEM;
	metrics_family(t, "sandboxes", "gauge", "Sandboxes by state.");
	for (unsigned i = 0; i < SANDBOX_N_STATES; i++)
		metrics_sample(t, "state", sandbox_state_name((enum sandbox_state)i), counts[i]);
	metrics_one(t, "sandboxes_stalled", "gauge",
		    "Running ones whose VM stands still, as the host's disk is full.",
		    atomic_load(&host->n_stalled));
	events_counters(host->events, &n);
	metrics_one(t, "events_total", "counter", "Events that happened.", (double)n.added);
	metrics_one(t, "events_lost_total", "counter", "Of these: not kept, for want of memory.",
		    (double)n.lost);
	metrics_one(t, "events_missed_total", "counter",
		    "Events that were gone when a slow watcher came for them.", (double)n.missed);
}

static void write_pager(struct host *host, struct metrics_text *t)
{
	_cleanup_free_ char *text = NULL;
	int r = pager_client_metrics(host->pager, deadline_after_ms(PAGER_MS), &text);

	metrics_one(t, "pager_ends_total", "counter",
		    "Pagers that ended, since this dormd started: deaths and upgrades.",
		    atomic_load(&host->pager_deaths));
	metrics_one(t, "pager_up", "gauge",
		    "1: it answered, and its own metrics follow. 0: it did not, in time.", r == 0);
	if (r == 0 && !t->error)
		t->error = buf_append(t->buf, text, strlen(text));
}

int host_metrics(struct host *host, char **ret)
{
	_cleanup_buf_ struct buf b = {0};
	struct metrics_text t = {.buf = &b};
	int r;

	write_sandboxes(host, &t);
	metrics_write(&t);
	write_store(host, &t);
	if (!t.error)
		t.error = admission_metrics(host, &b);
	write_pager(host, &t);
	r = t.error ? t.error : buf_append(&b, "", 1);
	if (r < 0)
		return error_trace(r);
	*ret = take_ptr(b.data);
	b = (struct buf){0};
	return 0;
}
