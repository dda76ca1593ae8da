/* SPDX-License-Identifier: Apache-2.0 */
/*
 * admission.c - a queue of those who want to bring up a sandbox
 *
 * Waiters lie on the stacks of their threads, in a list in the order of their coming. Only the
 * first is judged; when it has been let in, it wakes the next. Whatever may change the verdict (one
 * has been brought up, one has ended) wakes the first; what nobody tells us (the host's memory) it
 * looks at every TICK_MS. All others only look whether they are still wanted.
 *
 * Time in which the queue stands still for want of room is counted once for all, in blocked_ns; a
 * waiter gives up when as much of it has passed since it came as may. So in a burst that moves on,
 * nobody is sent away because many came before it.
 */
#include "sandbox/admission.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/str.h"
#include "sandbox/forecast.h"

#define YOUNG_NS	(30 * NSEC_PER_SEC)
#define YOUNG_MAX	1024u
#define TICK_MS		100
#define LOOK_MS		500		     /* the same for those who are not the first */
#define TURNS_NS	(600 * NSEC_PER_SEC) /* that long somebody waits for a turn at most */
#define RETRY_S		5
#define RESERVE_LEAST	(256ull << 20)
#define RESERVE_PERCENT 5

enum verdict { ADMIT, NO_TURN, TOO_MANY, NO_MEMORY };

/* A VM that was started a short while ago. */
struct young {
	pid_t pid;
	uint64_t bytes; /* its forecast */
	uint64_t since_ns;
	char template[64];
};

struct waiter {
	struct waiter *next;
	pthread_cond_t cond;
	uint64_t came_ns;
	uint64_t blocked_before_ns; /* admission.blocked_ns when it came */
};

struct admission {
	struct admission_limits limits;
	struct admission_hooks hooks;

	pthread_mutex_t lock; /* the hook give_back is called without it, the others with it */
	struct waiter *first, **last;
	unsigned n_waiting;
	bool stopped;
	unsigned bringing_up, fills; /* those with a ticket; of them, those that nobody waits for */
	uint64_t ticket_bytes;
	struct young *young;
	size_t n_young, cap_young;
	struct forecasts forecasts;
	uint64_t blocked_ns;	   /* how long the queue has stood still, in all */
	uint64_t blocked_since_ns; /* and since when it does; 0: it does not */
	struct admission_figures counts;
};

/* ---- arithmetic -------------------------------------------------------------------------------
 * All of it with the lock held.
 */

static uint64_t reserve_of(const struct admission *a, uint64_t total)
{
	return a->limits.reserve ? a->limits.reserve
				 : MAX(total / 100 * RESERVE_PERCENT, (uint64_t)RESERVE_LEAST);
}

/* One that is not young any more shows in what the host has available; and what it held by then
 * tells something about the next one. */
static void grow_up(struct admission *a, uint64_t now)
{
	size_t kept = 0;

	for (size_t i = 0; i < a->n_young; i++) {
		struct young *y = &a->young[i];
		uint64_t held;

		if (now - y->since_ns < YOUNG_NS) {
			a->young[kept++] = *y;
			continue;
		}
		held = a->hooks.held(a->hooks.userdata, y->pid);
		if (held)
			forecast_learn(&a->forecasts, y->template, held);
	}
	a->n_young = kept;
}

/* What was promised and has not been taken. @exact: look at what they hold; otherwise the most that
 * it can be, which costs nothing. Those that are being brought up count in full. */
static uint64_t promised(struct admission *a, bool exact)
{
	uint64_t sum = a->ticket_bytes;
	size_t kept = 0;

	for (size_t i = 0; i < a->n_young; i++) {
		struct young *y = &a->young[i];
		uint64_t held = exact ? a->hooks.held(a->hooks.userdata, y->pid) : 0;

		if (exact && !held)
			continue; /* it has ended: nothing is promised to it any more */
		sum += y->bytes - MIN(y->bytes, held);
		a->young[kept++] = *y;
	}
	a->n_young = kept;
	return sum;
}

/* Is there memory for @bytes, and @margin besides? */
static bool has_memory(struct admission *a, uint64_t bytes, uint64_t margin)
{
	uint64_t available, total, reserve;

	if (a->hooks.memory(a->hooks.userdata, &available, &total) < 0)
		return true;
	reserve = reserve_of(a, total);
	if (available >= reserve + promised(a, false) + bytes + margin)
		return true;
	return available >= reserve + promised(a, true) + bytes + margin;
}

static enum verdict judge(struct admission *a, uint64_t bytes)
{
	if (a->bringing_up >= a->limits.turns)
		return NO_TURN;
	if (a->limits.max_sandboxes &&
	    a->hooks.running(a->hooks.userdata) + a->bringing_up - a->fills >=
		    a->limits.max_sandboxes)
		return TOO_MANY;
	return has_memory(a, bytes, 0) ? ADMIT : NO_MEMORY;
}

static uint64_t blocked_until(const struct admission *a, uint64_t now)
{
	return a->blocked_ns + (a->blocked_since_ns ? now - a->blocked_since_ns : 0);
}

static void set_blocked(struct admission *a, bool blocked, uint64_t now)
{
	if (blocked == (a->blocked_since_ns != 0))
		return;
	a->blocked_ns = blocked_until(a, now);
	a->blocked_since_ns = blocked ? MAX(now, 1ull) : 0;
}

/* ---- the queue --------------------------------------------------------------------------------
 */

static void wake_first(struct admission *a)
{
	if (a->first)
		pthread_cond_signal(&a->first->cond);
}

static void waiter_init(struct waiter *w)
{
	pthread_condattr_t attr;

	*w = (struct waiter){0};
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&w->cond, &attr);
	pthread_condattr_destroy(&attr);
}

static void enqueue(struct admission *a, struct waiter *w, uint64_t now)
{
	waiter_init(w);
	w->came_ns = now;
	w->blocked_before_ns = blocked_until(a, now);
	*a->last = w;
	a->last = &w->next;
	a->n_waiting++;
}

static void dequeue(struct admission *a, struct waiter *w)
{
	struct waiter **p = &a->first;

	while (*p != w)
		p = &(*p)->next;
	*p = w->next;
	if (a->last == &w->next)
		a->last = p;
	a->n_waiting--;
	if (p == &a->first) {
		set_blocked(a, false, a->hooks.now_ns());
		wake_first(a);
	}
	pthread_cond_destroy(&w->cond);
}

static void doze(struct admission *a, struct waiter *w, unsigned ms)
{
	uint64_t until = clock_now_ns() + ms * NSEC_PER_MSEC;
	struct timespec ts = {.tv_sec = (time_t)(until / NSEC_PER_SEC),
			      .tv_nsec = (long)(until % NSEC_PER_SEC)};

	(void)pthread_cond_timedwait(&w->cond, &a->lock, &ts); /* both ways we look again */
}

/* ---- who is sent away -------------------------------------------------------------------------
 */

static void refuse(struct problem *problem)
{
	problem_retry(problem, RETRY_S);
	problem_code(problem, ADMISSION_CODE);
}

static int say_no_memory(struct admission *a, const struct admission_ask *ask, uint64_t bytes,
			 struct problem *problem)
{
	uint64_t available = 0, total = 0;
	char need[16], have[16], kept[16], given[16];

	(void)a->hooks.memory(a->hooks.userdata, &available, &total); /* shows zeros */
	problem_set(problem, 503,
		    "there is no memory for %s: it takes about %s; %s are available, of which %s "
		    "are the reserve and %s are promised to others",
		    ask->what, str_format_bytes(bytes, need), str_format_bytes(available, have),
		    str_format_bytes(reserve_of(a, total), kept),
		    str_format_bytes(promised(a, true), given));
	problem_hint(problem, "delete sandboxes, or put some to sleep; docs/capacity.md");
	refuse(problem);
	return -EAGAIN;
}

static int say_too_many(struct admission *a, const struct admission_ask *ask,
			struct problem *problem)
{
	problem_set(problem, 503, "there is no room for %s: %u of at most %u sandboxes run",
		    ask->what, a->hooks.running(a->hooks.userdata), a->limits.max_sandboxes);
	problem_hint(problem, "delete sandboxes, or put some to sleep");
	refuse(problem);
	return -EAGAIN;
}

static int say_full(struct admission *a, const struct admission_ask *ask, struct problem *problem)
{
	problem_set(problem, 503, "there is no room for %s: %u others wait already", ask->what,
		    a->n_waiting);
	problem_hint(problem, "try again later, or with fewer at once");
	refuse(problem);
	return -EAGAIN;
}

/* Its time is up. */
static int give_up(struct admission *a, const struct admission_ask *ask, uint64_t bytes,
		   struct problem *problem)
{
	enum verdict why = judge(a, bytes);

	if (why == TOO_MANY)
		return say_too_many(a, ask, problem);
	return why == NO_MEMORY ? say_no_memory(a, ask, bytes, problem) : say_full(a, ask, problem);
}

/* What sandboxes can have when there are no others. */
static uint64_t all_of_it(struct admission *a)
{
	uint64_t available, total;

	if (a->hooks.memory(a->hooks.userdata, &available, &total) < 0)
		return UINT64_MAX;
	return total - MIN(total, reserve_of(a, total));
}

/* ---- waiting ----------------------------------------------------------------------------------
 */

/* The first of the queue looks whether it can go. Return: 1 it can; 0 not yet */
static int look(struct admission *a, uint64_t bytes)
{
	enum verdict v = judge(a, bytes);
	bool more;

	set_blocked(a, v == TOO_MANY || v == NO_MEMORY, a->hooks.now_ns());
	while (v == NO_MEMORY && a->hooks.give_back) {
		pthread_mutex_unlock(&a->lock);
		more = a->hooks.give_back(a->hooks.userdata);
		pthread_mutex_lock(&a->lock);
		v = judge(a, bytes);
		if (!more)
			break;
	}
	return v == ADMIT;
}

static int await_turn(struct admission *a, const struct admission_ask *ask, uint64_t bytes,
		      struct problem *problem)
{
	const uint64_t patience = a->limits.queue_ms * NSEC_PER_MSEC;
	struct waiter w;
	int r;

	enqueue(a, &w, a->hooks.now_ns());
	for (;;) {
		uint64_t now;

		r = a->first == &w ? look(a, bytes) : 0;
		now = a->hooks.now_ns();
		if (a->stopped || (ask->abandoned && ask->abandoned(ask->userdata)))
			r = -ECANCELED;
		else if (r == 0 && (blocked_until(a, now) - w.blocked_before_ns >= patience ||
				    now - w.came_ns >= TURNS_NS))
			r = give_up(a, ask, bytes, problem);
		if (r)
			break;
		doze(a, &w, a->first == &w ? TICK_MS : LOOK_MS);
	}
	a->counts.waited++;
	a->counts.waited_ns += a->hooks.now_ns() - w.came_ns;
	a->counts.abandoned += r == -ECANCELED;
	dequeue(a, &w);
	return MIN(r, 0);
}

/* What was learned from one that grew very large must not shut its template out for ever: then
 * nothing could teach us better. */
static uint64_t bytes_for(struct admission *a, const struct admission_ask *ask)
{
	const uint64_t learned = forecast_ask(&a->forecasts, ask->template, ask->start);
	const uint64_t least = MAX(ask->least, (uint64_t)FORECAST_LEAST);
	const uint64_t likely = MIN(learned, all_of_it(a) / 2);

	return MAX(likely, least);
}

static void hand_out(struct admission *a, const struct admission_ask *ask, uint64_t bytes,
		     bool is_fill, struct admission_ticket *ret)
{
	*ret = (struct admission_ticket){.bytes = bytes, .is_fill = is_fill, .held = true};
	str_copy(ret->template, sizeof(ret->template), ask->template);
	a->bringing_up++;
	a->fills += is_fill;
	a->ticket_bytes += bytes;
}

int admission_enter(struct admission *a, const struct admission_ask *ask, struct problem *problem,
		    struct admission_ticket *ret)
{
	uint64_t bytes, came = a->hooks.now_ns();
	int r = 0;
	LOCK_SCOPE(&a->lock);

	grow_up(a, came);
	bytes = bytes_for(a, ask);
	if (a->stopped)
		r = -ECANCELED;
	else if (bytes > all_of_it(a)) /* not even an empty host has that much */
		r = say_no_memory(a, ask, bytes, problem);
	else if (!a->first && judge(a, bytes) == ADMIT)
		r = 0;
	else if (a->n_waiting >= a->limits.queue_max)
		r = say_full(a, ask, problem);
	else
		r = await_turn(a, ask, bytes, problem);
	if (r < 0) {
		a->counts.refused += r == -EAGAIN;
		return r == -EAGAIN ? r : error_trace(r);
	}
	hand_out(a, ask, bytes, false, ret);
	ret->waited_ns = a->hooks.now_ns() - came;
	a->counts.admitted++;
	wake_first(a); /* there may be room for the next one too */
	return 0;
}

bool admission_try(struct admission *a, const struct admission_ask *ask,
		   struct admission_ticket *ret)
{
	uint64_t bytes;
	LOCK_SCOPE(&a->lock);

	grow_up(a, a->hooks.now_ns());
	bytes = bytes_for(a, ask);
	/* as much again must be left, or the next client takes it away at once */
	if (a->stopped || a->first || a->bringing_up > a->fills ||
	    a->bringing_up >= a->limits.turns || !has_memory(a, bytes, bytes))
		return false;
	hand_out(a, ask, bytes, true, ret);
	return true;
}

static void add_young(struct admission *a, const struct admission_ticket *t, pid_t pid)
{
	struct young y = {.pid = pid, .bytes = t->bytes, .since_ns = a->hooks.now_ns()};

	str_copy(y.template, sizeof(y.template), t->template);
	for (size_t i = 0; i < a->n_young; i++)
		if (a->young[i].pid == pid) { /* it was kept ready, and is somebody's now */
			a->young[i] = y;
			return;
		}
	if (a->n_young == YOUNG_MAX ||
	    mem_grow(&a->young, &a->cap_young, a->n_young, sizeof(*a->young)) < 0)
		return; /* then it only counts as what it holds */
	a->young[a->n_young++] = y;
}

void admission_leave(struct admission *a, struct admission_ticket *t, pid_t pid)
{
	LOCK_SCOPE(&a->lock);

	if (!t->held)
		return;
	t->held = false;
	a->bringing_up--;
	a->fills -= t->is_fill;
	a->ticket_bytes -= t->bytes;
	if (pid > 0)
		add_young(a, t, pid);
	wake_first(a);
}

/* ---- what else there is -----------------------------------------------------------------------
 */

void admission_learn(struct admission *a, const char *template, uint64_t bytes)
{
	LOCK_SCOPE(&a->lock);
	forecast_learn(&a->forecasts, template, bytes);
}

bool admission_knows(struct admission *a, const char *template)
{
	LOCK_SCOPE(&a->lock);
	return forecast_ask(&a->forecasts, template, 0) > FORECAST_LEAST;
}

void admission_changed(struct admission *a)
{
	if (!a)
		return;
	LOCK_SCOPE(&a->lock);
	wake_first(a);
}

void admission_stop(struct admission *a)
{
	LOCK_SCOPE(&a->lock);
	a->stopped = true;
	for (struct waiter *w = a->first; w; w = w->next)
		pthread_cond_signal(&w->cond);
}

void admission_figures(struct admission *a, struct admission_figures *ret)
{
	LOCK_SCOPE(&a->lock);
	*ret = a->counts;
	(void)a->hooks.memory(a->hooks.userdata, &ret->available, &ret->total); /* shows zeros */
	ret->reserve = reserve_of(a, ret->total);
	ret->promised = promised(a, true);
	ret->bringing_up = a->bringing_up;
	ret->turns = a->limits.turns;
	ret->waiting = a->n_waiting;
	ret->queue_max = a->limits.queue_max;
	ret->running = a->hooks.running(a->hooks.userdata);
	ret->max_sandboxes = a->limits.max_sandboxes;
	ret->blocked = a->blocked_since_ns != 0;
}

int admission_new(const struct admission_limits *limits, const struct admission_hooks *hooks,
		  struct admission **ret)
{
	struct admission *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->limits = *limits;
	a->limits.turns = MAX(a->limits.turns, 1u);
	a->hooks = *hooks;
	a->last = &a->first;
	pthread_mutex_init(&a->lock, NULL);
	*ret = a;
	return 0;
}

struct admission *admission_free(struct admission *a)
{
	if (!a)
		return NULL;
	pthread_mutex_destroy(&a->lock);
	free(a->young);
	free(a);
	return NULL;
}
