/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.c - makes VMs ahead, hands them out, gives them back
 *
 * An entry per template, by the name that clients use: a name that leads elsewhere by now shows by
 * its directory, of which the entry keeps a descriptor, so that its inode number is not given to
 * another one meanwhile. What is in `ready` is in the table of sandboxes too, with a reference for
 * each; whoever takes one out of `ready`, under the lock, is the only one to have it.
 *
 * The lock is held for moments: taking a VM down, making one, opening directories happen without.
 * Lock order: pool.lock is innermost, nothing of private.h's is taken with it.
 *
 * The thread does one thing at a time, the most urgent first: look again at what is kept after
 * something changed; end what is too much; make what is wanted, if admission allows. A template of
 * which none could be made is left alone for a while, longer each time.
 */
#include "sandbox/pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "sandbox/private.h"
#include "sys/pidfd.h"

#define MAX_TEMPLATES 32u
#define MAX_READY     64u
#define STACK_BYTES   (512u << 10)
#define HALF_NS	      (5 * NSEC_PER_SEC) /* after which a create counts half */
#define MAKE_GUESS_NS (200 * NSEC_PER_MSEC)
#define BACKOFF_NS    (2 * NSEC_PER_SEC)
#define BACKOFF_SHIFT 7u
#define LOOK_NS	      (5 * NSEC_PER_SEC)   /* at memory, while something is kept */
#define BUSY_NS	      (20 * NSEC_PER_MSEC) /* when clients come first */
#define FILL_BYTES    (24ull << 20)	   /* what one takes before its guest runs */

struct entry {
	char name[64]; /* "": free */
	int dirfd;     /* what those in ready were made from; -1: none */
	struct sandbox *ready[MAX_READY];
	unsigned n_ready, n_making;
	unsigned pinned;
	struct pool_rate rate;
	uint64_t used_ns; /* 0: never */
	uint64_t make_ns; /* mean time to make one */
	unsigned failures;
	uint64_t not_before_ns;
	uint64_t hits, misses;
};

struct pool {
	struct host *host;
	struct pool_options options;

	pthread_mutex_t lock;
	pthread_cond_t cond;
	pthread_t thread;
	bool started, stopping;
	bool recheck; /* something changed under what is kept */
	bool poked;
	uint64_t looked_ns; /* at memory */
	struct entry entries[MAX_TEMPLATES];
	struct pool_figures figures;
};

/* ---- arithmetic -------------------------------------------------------------------------------
 */

void pool_rate_add(struct pool_rate *r, unsigned n, uint64_t now_ns)
{
	const uint64_t dt = now_ns > r->when_ns ? now_ns - r->when_ns : 0;
	const uint64_t halvings = dt / HALF_NS;

	for (uint64_t i = 0; i < MIN(halvings, 64ull); i++)
		r->per_s /= 2;
	r->when_ns += halvings * HALF_NS;
	/* at a steady rate it moves between 2/3 and 4/3 of that, as what came since the last
	 * halving counts in full */
	r->per_s += n / (1.5 * (double)(HALF_NS / NSEC_PER_SEC));
}

unsigned pool_demand(double per_s, uint64_t make_ns, unsigned max)
{
	const double while_made = per_s * (double)make_ns / (double)NSEC_PER_SEC;
	const double n = 1 + (2 * while_made + 0.5);

	return n < max ? (unsigned)n : max;
}

static unsigned most(const struct pool *p)
{
	return MIN(p->options.total, MAX_READY);
}

/* How many of it there should be, if there is room. Lock held, like below unless it says so. */
static unsigned wanted(struct pool *p, struct entry *e, uint64_t now)
{
	unsigned n = 0;

	if (!e->name[0])
		return 0;
	if (e->used_ns && now - e->used_ns < p->options.idle_s * NSEC_PER_SEC) {
		pool_rate_add(&e->rate, 0, now);
		n = pool_demand(e->rate.per_s, e->make_ns, p->options.max);
	}
	n = MAX(n, e->pinned);
	return MIN(n, most(p));
}

/* ---- entries ----------------------------------------------------------------------------------
 */

static struct entry *find(struct pool *p, const char *name)
{
	for (unsigned i = 0; i < MAX_TEMPLATES; i++)
		if (p->entries[i].name[0] && !strcmp(p->entries[i].name, name))
			return &p->entries[i];
	return NULL;
}

/* One that is not in use, or else the one not used for longest; with VMs of its own it stays. */
static struct entry *make_entry(struct pool *p, const char *name)
{
	struct entry *best = NULL;

	for (unsigned i = 0; i < MAX_TEMPLATES; i++) {
		struct entry *e = &p->entries[i];

		if (e->n_ready || e->n_making || e->pinned)
			continue;
		if (!best || !e->name[0] || (best->name[0] && e->used_ns < best->used_ns))
			best = e;
	}
	if (!best)
		return NULL;
	fd_close(best->dirfd);
	*best = (struct entry){.dirfd = -1, .make_ns = MAKE_GUESS_NS};
	str_copy(best->name, sizeof(best->name), name);
	return best;
}

static struct entry *find_or_make(struct pool *p, const char *name)
{
	struct entry *e = find(p, name);

	return e ? e : make_entry(p, name);
}

static bool same_directory(int a, int b)
{
	struct stat x, y;

	return a >= 0 && b >= 0 && fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

static struct sandbox *pop(struct entry *e)
{
	struct sandbox *sb = e->ready[0]; /* the oldest: the youngest may still be loading */

	memmove(e->ready, e->ready + 1, --e->n_ready * sizeof(e->ready[0]));
	return sb;
}

/* ---- one VM, without the lock -----------------------------------------------------------------
 */

/* op held. Is it as good as when it was made? */
static bool is_fit(struct sandbox *sb)
{
	pid_t pager;

	return !sb->gone && sb->vmm && sb->record.state == SANDBOX_CREATING &&
	       pidfd_is_gone(vmm_pidfd(sb->vmm)) == 0 && host_pager(sb->host, NULL, &pager) == 0 &&
	       atomic_load(&sb->pager_pid) == pager;
}

/* Consumes the reference. */
static void end(struct sandbox *sb)
{
	pthread_mutex_lock(&sb->op);
	if (!sb->gone)
		sandbox_discard(sb);
	pthread_mutex_unlock(&sb->op);
	sandbox_unref(sb);
}

static int bring_half_up(struct sandbox *sb, int from, struct problem *problem)
{
	struct sandbox_timings t;
	int r;

	pthread_mutex_lock(&sb->op);
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
	struct sandbox *kept[MAX_READY];
	struct entry *e = find(p, name);
	unsigned n;
	bool stale;

	if (!e)
		return;
	n = e->n_ready;
	memcpy(kept, e->ready, n * sizeof(kept[0]));
	stale = n && !same_directory(e->dirfd, dirfd);
	e->n_ready = 0;
	if (stale)
		e->dirfd = fd_close(e->dirfd);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < n; i++) {
		bool fit;

		pthread_mutex_lock(&kept[i]->op);
		fit = !stale && is_fit(kept[i]);
		pthread_mutex_unlock(&kept[i]->op);
		if (fit)
			continue;
		end(kept[i]);
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
	for (unsigned i = 0; i < MAX_TEMPLATES; i++) {
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

	for (unsigned i = 0; i < MAX_TEMPLATES; i++)
		n += p->entries[i].n_ready + p->entries[i].n_making;
	return n;
}

/* The one to go first when there is no room for all: not asked for, and not used for longest. */
static struct entry *least_wanted(struct pool *p)
{
	struct entry *best = NULL;

	for (unsigned i = 0; i < MAX_TEMPLATES; i++) {
		struct entry *e = &p->entries[i];

		if (!e->n_ready)
			continue;
		if (!best || (!e->pinned && best->pinned) ||
		    (!e->pinned == !best->pinned && e->used_ns < best->used_ns))
			best = e;
	}
	return best;
}

static bool end_one(struct pool *p, struct entry *e)
{
	struct sandbox *sb;

	if (!e)
		return false;
	sb = pop(e);
	pthread_mutex_unlock(&p->lock);
	end(sb);
	pthread_mutex_lock(&p->lock);
	return true;
}

static bool end_surplus(struct pool *p, uint64_t now)
{
	for (unsigned i = 0; i < MAX_TEMPLATES; i++) {
		struct entry *e = &p->entries[i];

		if (e->n_ready > wanted(p, e, now))
			return end_one(p, e);
	}
	return count_all(p) > p->options.total && end_one(p, least_wanted(p));
}

/* The one that lacks some: asked for first, then the one used last. */
static struct entry *most_lacking(struct pool *p, uint64_t now)
{
	struct entry *best = NULL;

	for (unsigned i = 0; i < MAX_TEMPLATES; i++) {
		struct entry *e = &p->entries[i];

		if (e->n_ready + e->n_making >= wanted(p, e, now) || now < e->not_before_ns)
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
	worst = least_wanted(p);
	if (!worst || worst == e || (worst->pinned && !e->pinned) ||
	    (!worst->pinned == !e->pinned && worst->used_ns >= e->used_ns))
		return false;
	return end_one(p, worst);
}

static void made(struct pool *p, struct entry *e, struct sandbox *sb, int dirfd, uint64_t took_ns)
{
	e->failures = 0;
	e->make_ns += ((int64_t)took_ns - (int64_t)e->make_ns) / 4;
	p->figures.made++;
	if (e->n_ready && !same_directory(e->dirfd, dirfd)) {
		p->recheck = true; /* one of the two is old: what the name leads to now decides */
		while (e->n_ready)
			(void)end_one(p, e);
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
	return end_one(p, least_wanted(p));
}

/* When there may be something to do again; 0: when somebody says so. */
static uint64_t next_look(struct pool *p, uint64_t now)
{
	uint64_t next = count_all(p) ? now + LOOK_NS : 0;

	for (unsigned i = 0; i < MAX_TEMPLATES; i++) {
		struct entry *e = &p->entries[i];
		uint64_t at = 0;

		if (e->n_ready > wanted(p, e, now))
			at = now;
		else if (e->n_ready + e->n_making < wanted(p, e, now))
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

static void *pool_main(void *arg)
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

/* ---- for others -------------------------------------------------------------------------------
 */

static void poke(struct pool *p)
{
	p->poked = true;
	pthread_cond_signal(&p->cond);
}

/* One that is of that directory. Lock not held. */
static struct sandbox *take_any(struct pool *p, const char *name, int dirfd)
{
	struct entry *e;
	LOCK_SCOPE(&p->lock);

	e = find(p, name);
	if (!e || !e->n_ready)
		return NULL;
	if (same_directory(e->dirfd, dirfd))
		return pop(e);
	p->recheck = true; /* the thread ends them */
	poke(p);
	return NULL;
}

struct sandbox *pool_take(struct pool *p, const char *name, int dirfd)
{
	struct sandbox *sb;

	while (p && (sb = take_any(p, name, dirfd))) {
		pthread_mutex_lock(&sb->op);
		if (is_fit(sb)) {
			pthread_mutex_lock(&sb->info);
			sb->pooled = false;
			pthread_mutex_unlock(&sb->info);
			return sb;
		}
		pthread_mutex_unlock(&sb->op);
		log_info("sandbox=%s was kept ready and has ended", sb->record.id);
		end(sb);
	}
	return NULL;
}

void pool_used(struct pool *p, const char *name, bool warm)
{
	const uint64_t now = clock_now_ns();
	struct entry *e;

	if (!p || !p->options.total)
		return;
	LOCK_SCOPE(&p->lock);
	e = find_or_make(p, name);
	if (!e)
		return; /* all have VMs of their own: it does without */
	e->used_ns = now;
	pool_rate_add(&e->rate, 1, now);
	e->hits += warm;
	e->misses += !warm;
	p->figures.hits += warm;
	p->figures.misses += !warm;
	poke(p);
}

int pool_pin(struct pool *p, const char *name, unsigned n, struct problem *problem)
{
	struct entry *e;

	if (n > most(p)) {
		problem_set(problem, 400, "vms: %u is more than this host keeps in all, %u", n,
			    most(p));
		problem_hint(problem, "dormd --warm-total");
		return -EINVAL;
	}
	LOCK_SCOPE(&p->lock);
	e = n ? find_or_make(p, name) : find(p, name);
	if (e) {
		e->pinned = n;
		if (!n)
			e->used_ns = 0; /* now, and not when it would have been forgotten */
		e->not_before_ns = 0;
	} else if (n) {
		problem_set(problem, 503, "VMs of %u other templates are kept already",
			    MAX_TEMPLATES);
		return -EAGAIN;
	}
	poke(p);
	return 0;
}

void pool_recheck(struct pool *p)
{
	if (!p)
		return;
	LOCK_SCOPE(&p->lock);
	p->recheck = true;
	poke(p);
}

void pool_poke(struct pool *p)
{
	if (!p)
		return;
	LOCK_SCOPE(&p->lock);
	poke(p);
}

bool pool_give_back(struct pool *p)
{
	if (!p)
		return false;
	LOCK_SCOPE(&p->lock);
	p->figures.given_back++;
	if (end_one(p, least_wanted(p)))
		return true;
	p->figures.given_back--;
	return false;
}

json_t *pool_status(struct pool *p)
{
	const uint64_t now = clock_now_ns();
	json_t *templates = json_array();
	struct pool_figures f;

	pool_figures(p, &f);
	LOCK_SCOPE(&p->lock);
	for (unsigned i = 0; templates && i < MAX_TEMPLATES; i++) {
		struct entry *e = &p->entries[i];

		if (!e->name[0])
			continue;
		(void)json_array_append_new(/* short of memory: left out */
					    templates,
					    json_pack("{s:s, s:i, s:i, s:i, s:i, s:I, s:I}", "name",
						      e->name, "ready", (int)e->n_ready, "making",
						      (int)e->n_making, "wanted",
						      (int)wanted(p, e, now), "pinned",
						      (int)e->pinned, "hits", (json_int_t)e->hits,
						      "misses", (json_int_t)e->misses));
	}
	return json_pack("{s:i, s:i, s:o}", "ready", (int)f.ready, "making", (int)f.making,
			 "templates", templates);
}

void pool_figures(struct pool *p, struct pool_figures *ret)
{
	*ret = (struct pool_figures){0};
	if (!p)
		return;
	LOCK_SCOPE(&p->lock);
	*ret = p->figures;
	for (unsigned i = 0; i < MAX_TEMPLATES; i++) {
		ret->ready += p->entries[i].n_ready;
		ret->making += p->entries[i].n_making;
	}
}

/* ---- life -------------------------------------------------------------------------------------
 */

int pool_new(struct host *host, const struct pool_options *options, struct pool **ret)
{
	struct pool *p = calloc(1, sizeof(*p));
	pthread_condattr_t attr;

	if (!p)
		return -ENOMEM;
	p->host = host;
	p->options = *options;
	for (unsigned i = 0; i < MAX_TEMPLATES; i++)
		p->entries[i].dirfd = -1;
	pthread_mutex_init(&p->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->cond, &attr);
	pthread_condattr_destroy(&attr);
	*ret = p;
	return 0;
}

int pool_start(struct pool *p)
{
	pthread_attr_t attr;
	int r;

	if (!p->options.total)
		return 0;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	r = pthread_create(&p->thread, &attr, pool_main, p);
	pthread_attr_destroy(&attr);
	p->started = r == 0;
	return -r;
}

void pool_stop(struct pool *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->stopping = true;
	pthread_cond_signal(&p->cond);
	pthread_mutex_unlock(&p->lock);
	if (p->started)
		pthread_join(p->thread, NULL);
	p->started = false;
	while (pool_give_back(p))
		;
}

struct pool *pool_free(struct pool *p)
{
	if (!p)
		return NULL;
	for (unsigned i = 0; i < MAX_TEMPLATES; i++)
		fd_close(p->entries[i].dirfd);
	pthread_cond_destroy(&p->cond);
	pthread_mutex_destroy(&p->lock);
	free(p);
	return NULL;
}
