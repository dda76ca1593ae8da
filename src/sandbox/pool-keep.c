/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool-keep.c - the pool's thread: makes VMs ahead, ends what is too much
 *
 * It does one thing at a time, the most urgent first: look again at what is kept after something
 * changed; end what is too much; make what is wanted, if admission allows. A template of which none
 * could be made is left alone for a while, longer each time.
 */
#include "sandbox/pool-internal.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "sys/pidfd.h"

#define BACKOFF_NS    (2 * NSEC_PER_SEC)
#define BACKOFF_SHIFT 7u
#define LOOK_NS	      (5 * NSEC_PER_SEC)   /* at memory, while something is kept */
#define BUSY_NS	      (20 * NSEC_PER_MSEC) /* when clients come first */
#define FILL_BYTES    (24ull << 20)	   /* what one takes before its guest runs */

/* ---- one VM, without the lock -----------------------------------------------------------------
 */

bool pool_is_fit(struct sandbox *sb)
{
	pid_t pager;

	return !sb->gone && sb->vmm && sb->record.state == SANDBOX_CREATING &&
	       pidfd_is_gone(vmm_pidfd(sb->vmm)) == 0 && host_pager(sb->host, NULL, &pager) == 0 &&
	       atomic_load(&sb->pager_pid) == pager;
}

void pool_end(struct sandbox *sb)
{
	if (op_wait(sb)) { /* else the next dormd discards it, as it does with all half-made ones */
		sandbox_discard(sb);
		op_unlock(sb);
	}
	sandbox_unref(sb);
}

static int bring_half_up(struct sandbox *sb, int from, struct problem *problem)
{
	struct sandbox_timings t;
	int r;

	(void)op_lock(sb, DEADLINE_NEVER); /* nobody else knows of it yet */
	op_begin(sb, OP_CREATE);
	r = sandbox_insert(sb);
	if (r == 0)
		r = sandbox_clone_memory(sb, from, problem);
	if (r == 0)
		r = sandbox_stage(sb, problem, &t);
	if (r)
		sandbox_discard(sb);
	op_unlock(sb);
	return r > 0 ? -EBADMSG : error_trace(r);
}

/* @ret_from: the directory that it was made from */
static int make(struct host *host, const char *name, struct problem *problem, int *ret_from,
		struct sandbox **ret)
{
	struct record record = {.state = SANDBOX_CREATING, .created_ns = clock_real_ns()};
	char snapshot_id[ID_LEN + 1];
	_cleanup_fd_ int from = snapshot_open_dir(host, name, problem, snapshot_id);
	struct sandbox *sb = NULL;
	int r;

	if (from < 0)
		return from;
	id_new('i', record.id);
	str_copy(record.template_id, sizeof(record.template_id), name);
	r = sandbox_new(host, &record, true, problem, &sb);
	if (r < 0)
		return r;
	sb->pooled = true; /* before anybody sees it */
	r = bring_half_up(sb, from, problem);
	if (r < 0) {
		sandbox_unref(sb);
		return r;
	}
	*ret_from = take_fd(from);
	*ret = sb;
	return 0;
}

/* ---- the thread's work ------------------------------------------------------------------------
 * Called with the lock, which they give up for a while. Return: was there something to do?
 */

/* Take out of an entry what is not fit, or of another directory than @dirfd. */
static void weed(struct pool *p, const char *name, int dirfd)
{
	struct sandbox *kept[POOL_READY];
	struct entry *e = pool_find(p, name);
	unsigned n;
	bool stale;

	if (!e)
		return;
	n = e->n_ready;
	memcpy(kept, e->ready, n * sizeof(kept[0]));
	stale = n && !pool_same_directory(e->dirfd, dirfd);
	e->n_ready = 0;
	if (stale)
		e->dirfd = fd_close(e->dirfd);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < n; i++) {
		bool fit = false;

		if (op_wait(kept[i])) {
			fit = !stale && pool_is_fit(kept[i]);
			op_unlock(kept[i]);
		}
		if (fit)
			continue;
		pool_end(kept[i]);
		kept[i] = NULL;
	}
	pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < n; i++)
		if (kept[i]) /* the entry is in its place: it is kept while the thread works */
			e->ready[e->n_ready++] = kept[i];
}

static bool look_again(struct pool *p)
{
	if (!p->recheck)
		return false;
	p->recheck = false;
	for (unsigned i = 0; i < POOL_TEMPLATES; i++) {
		char name[64], id[ID_LEN + 1];
		int dirfd;

		if (!p->entries[i].n_ready)
			continue;
		str_copy(name, sizeof(name), p->entries[i].name);
		p->entries[i].n_making++; /* so that the entry stays */
		pthread_mutex_unlock(&p->lock);
		dirfd = snapshot_open_dir(p->host, name, NULL, id);
		pthread_mutex_lock(&p->lock);
		weed(p, name, dirfd);
		p->entries[i].n_making--;
		fd_close(dirfd);
	}
	return true;
}

static unsigned count_all(const struct pool *p)
{
	unsigned n = 0;

	for (unsigned i = 0; i < POOL_TEMPLATES; i++)
		n += p->entries[i].n_ready + p->entries[i].n_making;
	return n;
}

struct entry *pool_least_wanted(struct pool *p)
{
	struct entry *best = NULL;

	for (unsigned i = 0; i < POOL_TEMPLATES; i++) {
		struct entry *e = &p->entries[i];

		if (!e->n_ready)
			continue;
		if (!best || (!e->pinned && best->pinned) ||
		    (!e->pinned == !best->pinned && e->used_ns < best->used_ns))
			best = e;
	}
	return best;
}

bool pool_end_one(struct pool *p, struct entry *e)
{
	struct sandbox *sb;

	if (!e)
		return false;
	sb = pool_pop(e);
	pthread_mutex_unlock(&p->lock);
	pool_end(sb);
	pthread_mutex_lock(&p->lock);
	return true;
}

static bool end_surplus(struct pool *p, uint64_t now)
{
	for (unsigned i = 0; i < POOL_TEMPLATES; i++) {
		struct entry *e = &p->entries[i];

		if (e->n_ready > pool_wanted(p, e, now))
			return pool_end_one(p, e);
	}
	return count_all(p) > p->options.total && pool_end_one(p, pool_least_wanted(p));
}

/* The one that lacks some: asked for first, then the one used last. */
static struct entry *most_lacking(struct pool *p, uint64_t now)
{
	struct entry *best = NULL;

	for (unsigned i = 0; i < POOL_TEMPLATES; i++) {
		struct entry *e = &p->entries[i];

		if (e->n_ready + e->n_making >= pool_wanted(p, e, now) || now < e->not_before_ns)
			continue;
		if (!best || (e->pinned && !best->pinned) ||
		    (!e->pinned == !best->pinned && e->used_ns > best->used_ns))
			best = e;
	}
	return best;
}

/* Is there a place for one of @e, or one whose VM is in its place with less right? */
static bool make_place(struct pool *p, const struct entry *e)
{
	struct entry *worst;

	if (count_all(p) < p->options.total)
		return true;
	worst = pool_least_wanted(p);
	if (!worst || worst == e || (worst->pinned && !e->pinned) ||
	    (!worst->pinned == !e->pinned && worst->used_ns >= e->used_ns))
		return false;
	return pool_end_one(p, worst);
}

static void made(struct pool *p, struct entry *e, struct sandbox *sb, int dirfd, uint64_t took_ns)
{
	e->failures = 0;
	e->make_ns += ((int64_t)took_ns - (int64_t)e->make_ns) / 4;
	p->figures.made++;
	if (e->n_ready && !pool_same_directory(e->dirfd, dirfd)) {
		p->recheck = true; /* one of the two is old: what the name leads to now decides */
		while (e->n_ready)
			(void)pool_end_one(p, e);
	}
	fd_close(e->dirfd);
	e->dirfd = dirfd;
	e->ready[e->n_ready++] = sb;
}

static void not_made(struct pool *p, struct entry *e, int r, const struct problem *problem)
{
	if (r == -ENOENT) { /* there is no such template any more */
		e->used_ns = 0;
		e->pinned = 0;
		return;
	}
	p->figures.failed++;
	e->not_before_ns = clock_now_ns() + (BACKOFF_NS << MIN(e->failures, BACKOFF_SHIFT));
	if (e->failures++ == 0)
		log_warn("template=%s no VM of it could be made ahead: %s", e->name,
			 problem->message);
}

static bool make_one(struct pool *p, uint64_t now)
{
	const struct admission_ask ask = {.what = "", .template = "", .start = FILL_BYTES};
	struct entry *e = most_lacking(p, now);
	struct problem problem = PROBLEM_INIT;
	struct admission_ticket ticket;
	struct sandbox *sb = NULL;
	int dirfd = -1, r;
	char name[64];

	if (!e || !make_place(p, e))
		return false;
	str_copy(name, sizeof(name), e->name);
	e->n_making++;
	pthread_mutex_unlock(&p->lock);
	if (!admission_try(p->host->admission, &ask, &ticket)) {
		pthread_mutex_lock(&p->lock);
		e->n_making--;
		return false;
	}
	r = make(p->host, name, &problem, &dirfd, &sb);
	admission_leave(p->host->admission, &ticket, r == 0 ? vmm_pid(sb->vmm) : 0);
	pthread_mutex_lock(&p->lock);
	if (r == 0)
		made(p, e, sb, dirfd, clock_now_ns() - now);
	else
		not_made(p, e, r, &problem);
	e->n_making--;
	return true;
}

/* What is kept is the first to go when memory is short, also for others than sandboxes. */
static bool look_at_memory(struct pool *p, uint64_t now)
{
	struct admission_figures f;

	if (!count_all(p) || now - p->looked_ns < LOOK_NS)
		return false;
	p->looked_ns = now;
	pthread_mutex_unlock(&p->lock);
	admission_figures(p->host->admission, &f);
	pthread_mutex_lock(&p->lock);
	if (f.available >= f.reserve || !f.total)
		return false;
	p->figures.given_back++;
	return pool_end_one(p, pool_least_wanted(p));
}

/* When there may be something to do again; 0: when somebody says so. */
static uint64_t next_look(struct pool *p, uint64_t now)
{
	uint64_t next = count_all(p) ? now + LOOK_NS : 0;

	for (unsigned i = 0; i < POOL_TEMPLATES; i++) {
		struct entry *e = &p->entries[i];
		uint64_t at = 0;

		if (e->n_ready > pool_wanted(p, e, now))
			at = now;
		else if (e->n_ready + e->n_making < pool_wanted(p, e, now))
			at = MAX(e->not_before_ns, now + LOOK_NS); /* or sooner, when poked */
		else if (e->n_ready && e->used_ns && !e->pinned)
			at = e->used_ns + p->options.idle_s * NSEC_PER_SEC;
		if (at)
			next = next ? MIN(next, at) : at;
	}
	return next;
}

static void doze(struct pool *p, uint64_t now)
{
	uint64_t next = p->poked ? now + BUSY_NS : next_look(p, now);
	struct timespec ts = {.tv_sec = (time_t)(next / NSEC_PER_SEC),
			      .tv_nsec = (long)(next % NSEC_PER_SEC)};

	p->poked = false;
	if (next)
		(void)pthread_cond_timedwait(&p->cond, &p->lock, &ts); /* both ways we look */
	else
		pthread_cond_wait(&p->cond, &p->lock);
}

void *pool_main(void *arg)
{
	struct pool *p = arg;

	pthread_mutex_lock(&p->lock);
	while (!p->stopping) {
		uint64_t now = clock_now_ns();

		if (look_again(p) || end_surplus(p, now) || look_at_memory(p, now) ||
		    make_one(p, now))
			continue;
		if (!p->stopping && !p->recheck)
			doze(p, clock_now_ns());
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}
