/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resume.c - requests to a sandbox that sleeps, and wakes when it is asked for something
 *
 * However many requests come, one worker wakes it, as a client's connect would: when there is room
 * for it, and its turn has come (admission.h). They wait for that, each until its own deadline.
 * Whoever comes while it is falling asleep waits for the end of that, and has it woken again. When
 * it does not come up, those that waited are told why, and so is whoever comes within the next
 * RESUME_PAUSE_MS: what fails at every try is not to be tried at every request.
 *
 * A sandbox that sleeps without its memory is never woken so: a boot is not what somebody expects
 * who did not see it sleep. Nor does anything here look at who asks; api/proxy-wake.c does.
 */
#include "sandbox/private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

#define RESUME_WAIT_MS	   60000
#define RESUME_PAUSE_MS	   2000
#define RESUME_MAX_WAITING 512u
#define RESUME_TIMEOUT_S   300 /* of one whose last time limit is not known */

enum look { LOOK_RUNS, LOOK_CHANGES, LOOK_SLEEPS, LOOK_STAYS };

/* info held */
static enum look look(const struct sandbox *sb)
{
	if (sb->gone || !sb->record.auto_resume)
		return LOOK_STAYS;
	switch (sb->record.state) {
	case SANDBOX_RUNNING:
		return LOOK_RUNS;
	case SANDBOX_PAUSING:
	case SANDBOX_WAKING:
		return LOOK_CHANGES;
	case SANDBOX_ASLEEP:
		return sb->record.disk_only ? LOOK_STAYS : LOOK_SLEEPS;
	default:
		return LOOK_STAYS;
	}
}

/* ---- the worker -------------------------------------------------------------------------------
 */

/* op held. Who had it before may have woken it, or done anything else. */
static int wake(struct sandbox *sb, struct problem *problem)
{
	uint64_t timeout_s = sb->record.timeout_s ?: RESUME_TIMEOUT_S;
	struct sandbox_timings t = {0};
	int r;

	if (look(sb) != LOOK_SLEEPS)
		return 0;
	r = sandbox_wake_locked(sb, timeout_s, NULL, problem, &t);
	if (r == 0)
		log_info("sandbox=%s woken by a request in %.0f ms", sb->record.id,
			 (double)t.total_ns / NSEC_PER_MSEC);
	return error_trace(r);
}

static void note_failure(struct sandbox *sb, int r, struct problem *p)
{
	problem_errno(p, r, "waking sandbox %s for a request", sb->record.id);
	if (p->status < 500)
		p->status = 503; /* the request was right */
	if (p->status == 503 || p->status == 504)
		problem_retry(p, RESUME_PAUSE_MS / 1000);
	log_warn("sandbox=%s could not be woken by a request: %s", sb->record.id, p->message);
	sb->resume.problem = *p;
	sb->resume.n_failed++;
	sb->resume.not_before_ns = deadline_after_ms(RESUME_PAUSE_MS);
}

static int wake_when_admitted(struct sandbox *sb, struct problem *problem)
{
	struct admission_ticket ticket = {0};
	int r = sandbox_admit_wake(sb->host, sb->record.id, problem, &ticket);
	struct sandbox *locked;

	if (r < 0)
		return error_trace(r);
	locked = sandbox_op_lock(sandbox_ref(sb), problem);
	r = locked ? wake(locked, problem) : -EBUSY;
	sandbox_op_endp(&locked);
	host_admitted(sb->host, &ticket, r == 0 ? sb->record.id : NULL);
	return error_trace(r);
}

/* @arg: a reference */
static void worker(struct host *host, void *arg)
{
	struct sandbox *sb = arg;
	struct problem p = PROBLEM_INIT;
	int r = wake_when_admitted(sb, &p);

	pthread_mutex_lock(&sb->info);
	sb->resume.under_way = false;
	if (r < 0)
		note_failure(sb, r, &p);
	pthread_cond_broadcast(&sb->resume.changed);
	pthread_mutex_unlock(&sb->info);
	sandbox_unref(sb);
}

/* info held */
static int start_worker(struct sandbox *sb)
{
	int r;

	if (sb->resume.under_way)
		return 0;
	r = host_run(sb->host, worker, sandbox_ref(sb));
	sb->resume.under_way = r == 0;
	if (r < 0)
		sandbox_unref(sb); /* not the last one */
	return r;
}

/* ---- those who wait ---------------------------------------------------------------------------
 */

/* info held. Return: 0 it runs; 1 wait for a change; -ENOTCONN it stays as it is; negative errno */
static int step(struct sandbox *sb, unsigned n_failed, struct problem *problem)
{
	enum look now = look(sb);

	if (now == LOOK_RUNS)
		return 0;
	if (atomic_load(&sb->host->stopping)) {
		problem_set(problem, 503, "dormd is ending");
		problem_retry(problem, RESUME_PAUSE_MS / 1000);
		return -EAGAIN;
	}
	if (n_failed != sb->resume.n_failed ||
	    (now == LOOK_SLEEPS && !deadline_passed(sb->resume.not_before_ns))) {
		problem_pass(problem, &sb->resume.problem);
		return -EIO;
	}
	if (now == LOOK_STAYS)
		return -ENOTCONN;
	return now == LOOK_SLEEPS ? start_worker(sb) ?: 1 : 1;
}

/* info held */
static int await(struct sandbox *sb, uint64_t deadline_ns, struct problem *problem)
{
	const struct timespec ts = {.tv_sec = (time_t)(deadline_ns / NSEC_PER_SEC),
				    .tv_nsec = (long)(deadline_ns % NSEC_PER_SEC)};
	unsigned n_failed = sb->resume.n_failed;
	int r;

	while ((r = step(sb, n_failed, problem)) == 1) {
		if (deadline_passed(deadline_ns)) {
			problem_set(problem, 504, "sandbox %s did not wake within %d s",
				    sb->record.id, RESUME_WAIT_MS / 1000);
			problem_retry(problem, RESUME_PAUSE_MS / 1000);
			return -ETIMEDOUT;
		}
		(void)pthread_cond_clockwait(&sb->resume.changed, &sb->info, CLOCK_MONOTONIC,
					     &ts); /* what has changed is looked at */
	}
	return r;
}

int sandbox_resume(struct host *host, const char *id, struct problem *problem)
{
	_cleanup_(sandbox_unrefp) struct sandbox *sb = sandbox_find(host, id, NULL);
	int r;

	if (!sb)
		return -ENOTCONN;
	LOCK_SCOPE(&sb->info);
	if (sb->resume.n_waiting >= RESUME_MAX_WAITING) {
		problem_set(problem, 503, "%u requests wait for sandbox %s already",
			    sb->resume.n_waiting, id);
		problem_retry(problem, 1);
		return -EAGAIN;
	}
	sb->resume.n_waiting++;
	r = await(sb, deadline_after_ms(RESUME_WAIT_MS), problem);
	sb->resume.n_waiting--;
	return r;
}
