/* SPDX-License-Identifier: Apache-2.0 */
/*
 * drain.c - see drain.h
 *
 * What is under way is counted: work_begin() first counts, then looks whether the host is drained;
 * host_drain() first says that it is, then looks at the count. So whoever was let in is waited for.
 */
#include "sandbox/drain.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/str.h"
#include "sandbox/pool.h"
#include "sandbox/private.h"

#define RETRY_S	  30 /* a host that is drained comes back after minutes, or not at all */
#define LOOK_MS	  20
#define N_WORKERS 2 /* sleeps at once: they share a disk */
#define N_PASSES  3 /* a sandbox may have been busy with something that left it running */

int drain_mode_parse(const char *text, enum drain_mode *ret)
{
	if (strcmp(text, "wait") != 0 && strcmp(text, "sleep") != 0)
		return -EINVAL;
	*ret = strcmp(text, "wait") ? DRAIN_SLEEP : DRAIN_WAIT;
	return 0;
}

struct host *work_begin(struct host *host, struct problem *problem)
{
	atomic_fetch_add(&host->n_work, 1);
	if (!atomic_load(&host->draining))
		return host;
	work_end(host);
	problem_set(problem, 503, "this host is being drained: it takes no new work");
	problem_hint(problem, "use another host; `dorm undrain` lets this one take work again");
	problem_retry(problem, RETRY_S);
	return NULL;
}

void work_end(struct host *host)
{
	atomic_fetch_sub(&host->n_work, 1);
}

bool host_is_draining(struct host *host)
{
	return atomic_load(&host->draining);
}

void host_undrain(struct host *host)
{
	if (atomic_exchange(&host->draining, false))
		log_info("taking work again");
	pool_poke(host->pool);
}

/* ---- waiting
 * ------------------------------------------------------------------------------------- */

static bool is_cancelled(const struct host_task *t)
{
	return t->cancelled && t->cancelled(t->userdata);
}

static void progress(const struct host_task *t, uint64_t done, uint64_t total)
{
	if (t->progress)
		t->progress(t->userdata, done, total);
}

static int await_work(struct host *host, const struct drain_options *o, uint64_t deadline_ns,
		      struct problem *problem)
{
	const struct timespec pause = {.tv_nsec = LOOK_MS * 1000000};
	unsigned n;

	while ((n = atomic_load(&host->n_work)) > 0) {
		if (is_cancelled(&o->task) || atomic_load(&host->stopping))
			return -ECANCELED;
		if (deadline_passed(deadline_ns)) {
			problem_set(problem, 504,
				    "%u operations are still under way after %u s; no new ones are "
				    "let in",
				    n, o->timeout_s);
			problem_hint(problem, "drain again to go on waiting, or `dorm undrain`");
			return -ETIMEDOUT;
		}
		(void)nanosleep(&pause, NULL); /* a signal only makes it look earlier */
	}
	return 0;
}

/* ---- putting to sleep
 * ---------------------------------------------------------------------------- */

struct sleepers {
	struct host *host;
	const struct drain_options *options;
	uint64_t deadline_ns;
	char (*ids)[ID_LEN + 1]; /* constant once the workers run */
	size_t n, cap;
	bool no_memory;
	bool last_pass;
	atomic_size_t next, done;
	pthread_mutex_t lock;
	struct drain_result result; /* lock */
};

static void collect_running(void *userdata, struct sandbox *sb)
{
	struct sleepers *s = userdata;
	bool runs;

	pthread_mutex_lock(&sb->info);
	runs = sb->record.state == SANDBOX_RUNNING || sb->record.state == SANDBOX_PAUSING ||
	       sb->record.state == SANDBOX_WAKING;
	pthread_mutex_unlock(&sb->info);
	if (!runs)
		return;
	if (s->n == s->cap) {
		size_t cap = s->cap ? s->cap * 2 : 64;
		void *more = reallocarray(s->ids, cap, sizeof(*s->ids));

		if (!more) {
			s->no_memory = true;
			return;
		}
		s->ids = more;
		s->cap = cap;
	}
	memcpy(s->ids[s->n++], sb->record.id, ID_LEN + 1);
}

static bool is_running(struct host *host, const char *id)
{
	struct sandbox_info info;
	bool runs;

	if (sandbox_info(host, id, NULL, &info) < 0)
		return false;
	runs = info.state == SANDBOX_RUNNING;
	sandbox_info_deinit(&info);
	return runs;
}

/* One that is gone, or asleep by somebody else's doing, needs nothing. */
static void put_to_sleep(struct sleepers *s, const char *id)
{
	const struct drain_options *o = s->options;
	struct sandbox_save_timings timings = {0};
	struct problem p = PROBLEM_INIT;
	int r = sandbox_sleep(s->host, id, &p, &timings);

	if (r < 0 && !is_running(s->host, id))
		return;
	LOCK_SCOPE(&s->lock);
	if (r == 0) {
		s->result.n_slept++;
	} else if (s->last_pass) {
		problem_errno(&p, r, "putting it to sleep");
		log_warn("sandbox=%s is not asleep though the host is drained: %s", id, p.message);
		s->result.n_failed++;
		if (o->failed)
			o->failed(o->task.userdata, id, &p);
	}
}

static void *sleeper_main(void *arg)
{
	struct sleepers *s = arg;

	for (;;) {
		size_t i = atomic_fetch_add(&s->next, 1);

		if (i >= s->n || is_cancelled(&s->options->task) ||
		    atomic_load(&s->host->stopping) || deadline_passed(s->deadline_ns))
			return NULL;
		put_to_sleep(s, s->ids[i]);
		progress(&s->options->task, atomic_fetch_add(&s->done, 1) + 1, s->n);
	}
}

static void run_sleepers(struct sleepers *s)
{
	pthread_t threads[N_WORKERS - 1];
	unsigned n = 0;

	while (n < ARRAY_SIZE(threads) && !pthread_create(&threads[n], NULL, sleeper_main, s))
		n++;
	sleeper_main(s);
	while (n)
		pthread_join(threads[--n], NULL);
}

/* Return: 0; negative errno when not all were tried */
static int sleep_pass(struct sleepers *s, struct problem *problem)
{
	int r;

	s->n = 0;
	atomic_store(&s->next, 0);
	atomic_store(&s->done, 0);
	r = host_each_sandbox(s->host, collect_running, s);
	if (r < 0 || s->no_memory)
		return r < 0 ? r : -ENOMEM;
	run_sleepers(s);
	if (atomic_load(&s->done) == s->n)
		return 0;
	if (!deadline_passed(s->deadline_ns))
		return -ECANCELED;
	problem_set(problem, 504, "%zu sandboxes are not asleep yet after %u s",
		    s->n - atomic_load(&s->done), s->options->timeout_s);
	problem_hint(problem, "drain again to go on; no new work is let in");
	return -ETIMEDOUT;
}

static int sleep_all(struct host *host, const struct drain_options *o, uint64_t deadline_ns,
		     struct problem *problem, struct drain_result *ret)
{
	struct sleepers s = {.host = host, .options = o, .deadline_ns = deadline_ns};
	int r = 0;

	pthread_mutex_init(&s.lock, NULL);
	for (unsigned i = 1; r == 0 && i <= N_PASSES; i++) {
		s.last_pass = i == N_PASSES;
		r = sleep_pass(&s, problem);
		if (s.n == 0)
			break;
	}
	pthread_mutex_destroy(&s.lock);
	free(s.ids);
	*ret = s.result;
	return r;
}

int host_drain(struct host *host, const struct drain_options *o, struct problem *problem,
	       struct drain_result *ret)
{
	uint64_t deadline_ns = deadline_after_ms((uint64_t)o->timeout_s * 1000);
	struct drain_result result = {0};
	int r;

	if (!atomic_exchange(&host->draining, true))
		log_info("draining: no new work is let in");
	pool_poke(host->pool); /* nobody will ask for what it keeps */
	r = await_work(host, o, deadline_ns, problem);
	if (r == 0 && o->mode == DRAIN_SLEEP)
		r = sleep_all(host, o, deadline_ns, problem, &result);
	if (r == -ECANCELED)
		problem_set(problem, 503, "the draining was given up; no new work is let in");
	if (r < 0)
		return error_trace(r);
	log_info("drained: %u sandboxes put to sleep, %u could not be", result.n_slept,
		 result.n_failed);
	*ret = result;
	return 0;
}

/* ---- looking
 * ------------------------------------------------------------------------------------- */

static void count_states(void *userdata, struct sandbox *sb)
{
	unsigned *n = userdata;

	LOCK_SCOPE(&sb->info);
	if (!sb->pooled)
		n[sb->record.state]++;
}

json_t *host_status(struct host *host)
{
	unsigned n[SANDBOX_N_STATES] = {0};

	if (host_each_sandbox(host, count_states, n) < 0)
		return NULL;
	return json_pack("{s:s, s:b, s:i, s:{s:i, s:i, s:i, s:i}}", "version", DORM_VERSION,
			 "draining", (int)host_is_draining(host), "operations",
			 (int)atomic_load(&host->n_work), "sandboxes", "running",
			 (int)n[SANDBOX_RUNNING], "asleep", (int)n[SANDBOX_ASLEEP], "failed",
			 (int)n[SANDBOX_FAILED], "changing",
			 (int)(n[SANDBOX_CREATING] + n[SANDBOX_PAUSING] + n[SANDBOX_WAKING] +
			       n[SANDBOX_DELETING]));
}
