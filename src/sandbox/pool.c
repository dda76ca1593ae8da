/* SPDX-License-Identifier: Apache-2.0 */
/* pool.c - what is kept ready as others see it: hand one out, say what is wanted, tell figures */
#include "sandbox/pool-internal.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "sandbox/drain.h"

#define STACK_BYTES   (512u << 10)
#define HALF_NS	      (5 * NSEC_PER_SEC) /* after which a create counts half */
#define MAKE_GUESS_NS (200 * NSEC_PER_MSEC)

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

static unsigned pool_most(const struct pool *p)
{
	return MIN(p->options.total, POOL_READY);
}

unsigned pool_wanted(struct pool *p, struct entry *e, uint64_t now)
{
	unsigned n = 0;

	if (!e->name[0] || host_is_draining(p->host))
		return 0;
	/* it may have been used since the thread looked at the clock */
	if (e->used_ns && now < e->used_ns + p->options.idle_s * NSEC_PER_SEC) {
		pool_rate_add(&e->rate, 0, now);
		n = pool_demand(e->rate.per_s, e->make_ns, p->options.max);
	}
	n = MAX(n, e->pinned);
	return MIN(n, pool_most(p));
}

/* ---- entries ----------------------------------------------------------------------------------
 */

struct entry *pool_find(struct pool *p, const char *name)
{
	for (unsigned i = 0; i < POOL_TEMPLATES; i++)
		if (p->entries[i].name[0] && !strcmp(p->entries[i].name, name))
			return &p->entries[i];
	return NULL;
}

/* One that is not in use, or else the one not used for longest; with VMs of its own it stays. */
static struct entry *make_entry(struct pool *p, const char *name)
{
	struct entry *best = NULL;

	for (unsigned i = 0; i < POOL_TEMPLATES; i++) {
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
	struct entry *e = pool_find(p, name);

	return e ? e : make_entry(p, name);
}

bool pool_same_directory(int a, int b)
{
	struct stat x, y;

	return a >= 0 && b >= 0 && fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

struct sandbox *pool_pop(struct entry *e)
{
	struct sandbox *sb = e->ready[0]; /* the oldest: the youngest may still be loading */

	memmove(e->ready, e->ready + 1, --e->n_ready * sizeof(e->ready[0]));
	return sb;
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

	e = pool_find(p, name);
	if (!e || !e->n_ready)
		return NULL;
	if (pool_same_directory(e->dirfd, dirfd))
		return pool_pop(e);
	p->recheck = true; /* the thread ends them */
	poke(p);
	return NULL;
}

struct sandbox *pool_take(struct pool *p, const char *name, int dirfd)
{
	struct sandbox *sb;

	while (p && (sb = take_any(p, name, dirfd))) {
		if (op_wait(sb)) {
			if (pool_is_fit(sb)) {
				pthread_mutex_lock(&sb->info);
				sb->pooled = false;
				pthread_mutex_unlock(&sb->info);
				return sb;
			}
			op_unlock(sb);
		}
		log_info("sandbox=%s was kept ready and has ended", sb->record.id);
		pool_end(sb);
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

	if (n > pool_most(p)) {
		problem_set(problem, 400, "vms: %u is more than this host keeps in all, %u", n,
			    pool_most(p));
		problem_hint(problem, "dormd --warm-total");
		return -EINVAL;
	}
	LOCK_SCOPE(&p->lock);
	e = n ? find_or_make(p, name) : pool_find(p, name);
	if (e) {
		e->pinned = n;
		if (!n)
			e->used_ns = 0; /* now, and not when it would have been forgotten */
		e->not_before_ns = 0;
	} else if (n) {
		problem_set(problem, 503, "VMs of %u other templates are kept already",
			    POOL_TEMPLATES);
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
	if (pool_end_one(p, pool_least_wanted(p)))
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
	for (unsigned i = 0; templates && i < POOL_TEMPLATES; i++) {
		struct entry *e = &p->entries[i];

		if (!e->name[0])
			continue;
		(void)json_array_append_new(/* short of memory: left out */
					    templates,
					    json_pack("{s:s, s:i, s:i, s:i, s:i, s:I, s:I}", "name",
						      e->name, "ready", (int)e->n_ready, "making",
						      (int)e->n_making, "wanted",
						      (int)pool_wanted(p, e, now), "pinned",
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
	for (unsigned i = 0; i < POOL_TEMPLATES; i++) {
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
	for (unsigned i = 0; i < POOL_TEMPLATES; i++)
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
	for (unsigned i = 0; i < POOL_TEMPLATES; i++)
		fd_close(p->entries[i].dirfd);
	pthread_cond_destroy(&p->cond);
	pthread_mutex_destroy(&p->lock);
	free(p);
	return NULL;
}
