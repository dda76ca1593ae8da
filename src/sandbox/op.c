/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/op.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>

#include "base/clock.h"
#include "base/log.h"
#include "sandbox/private.h"
#include "sys/pidfd.h"
#include "sys/proc.h"

#define OP_POLL_MS    500
#define FAULT_POLL_MS 10
#define FAULT_DEAD_MS 5000

static const char *const kinds[] = {
	[OP_NONE] = "none",	      [OP_CREATE] = "create",	  [OP_WAKE] = "wake",
	[OP_SLEEP] = "sleep",	      [OP_SNAPSHOT] = "snapshot", [OP_FORK] = "fork",
	[OP_DELETE] = "delete",	      [OP_BUILD] = "build",	  [OP_NETWORK] = "network",
	[OP_RECONNECT] = "reconnect", [OP_RECOVER] = "recover",
};
static_assert(ARRAY_SIZE(kinds) == OP_N_KINDS, "every operation has a name");

static const char *const steps[] = {
	[STEP_NONE] = "none",	  [STEP_BEGIN] = "begin",	[STEP_CHECK] = "check",
	[STEP_CLONE] = "clone",	  [STEP_SESSION] = "session",	[STEP_START] = "start",
	[STEP_LOAD] = "load",	  [STEP_RESUME] = "resume",	[STEP_ANSWER] = "answer",
	[STEP_REPAIR] = "repair", [STEP_PREPARE] = "prepare",	[STEP_PAUSE] = "pause",
	[STEP_DEVICE] = "device", [STEP_DISKS] = "disks",	[STEP_MEMORY] = "memory",
	[STEP_COMMIT] = "commit", [STEP_CONTINUE] = "continue", [STEP_NAME] = "name",
	[STEP_COPIES] = "copies", [STEP_RECORD] = "record",	[STEP_END] = "end",
	[STEP_REMOVE] = "remove", [STEP_REPLY] = "reply",
};
static_assert(ARRAY_SIZE(steps) == OP_N_STEPS, "every step has a name");

const char *op_kind_name(enum op_kind kind)
{
	assert(kind < OP_N_KINDS);
	return kinds[kind];
}

const char *op_step_name(enum op_step step)
{
	assert(step < OP_N_STEPS);
	return steps[step];
}

/* Ending its VM ends it: there is no running guest yet that could be lost. */
static bool brings_up(enum op_kind kind)
{
	return kind == OP_CREATE || kind == OP_WAKE;
}

/* When all of it is to be over. */
static uint64_t deadline_of(const struct sandbox *sb, enum op_kind kind)
{
	const struct host_limits *l = &sb->host->limits;

	if (brings_up(kind))
		return deadline_after_ms(l->operation_ms);
	if (kind == OP_SLEEP || kind == OP_SNAPSHOT || kind == OP_FORK)
		return deadline_after_ms(l->save_ms);
	return DEADLINE_NEVER; /* bounded by what it waits for */
}

void op_begin(struct sandbox *sb, enum op_kind kind)
{
	int late = OP_TOO_LATE;

	assert(op_is_mine(sb));
	pthread_mutex_lock(&sb->info);
	sb->doing = (struct op){.kind = kind,
				.since_real_ns = clock_real_ns(),
				.deadline_ns = deadline_of(sb, kind)};
	pthread_mutex_unlock(&sb->info);
	/* Too late is for one operation; deleted is for ever. */
	(void)atomic_compare_exchange_strong(&sb->interrupt, &late, OP_GO_ON);
	if (brings_up(kind))
		monitor_kick(sb->host);
}

void op_end(struct sandbox *sb)
{
	LOCK_SCOPE(&sb->info);
	sb->doing = (struct op){.kind = OP_NONE};
}

/* ---- the lock ---------------------------------------------------------------------------------
 */

/* Its type reports who locks twice; a time that is past makes asking not wait. */
static bool is_mine(pthread_mutex_t *m)
{
	static const struct timespec past = {0};
	int r = pthread_mutex_timedlock(m, &past);

	if (r == 0)
		pthread_mutex_unlock(m);
	return r == EDEADLK;
}

bool op_is_mine(struct sandbox *sb)
{
	return is_mine(&sb->op);
}

int op_lock(struct sandbox *sb, uint64_t deadline_ns)
{
	int r;

	assert(!is_mine(&sb->disk));
	assert(!is_mine(&sb->host->lock));
	assert(!is_mine(&sb->info));
	assert(!is_mine(&sb->host->pager_lock));
	r = deadline_lock(&sb->op, deadline_ns);
	if (r < 0) /* not asked before: while it is free, that would take it for a moment */
		assert(!is_mine(&sb->op));
	return r;
}

bool op_try(struct sandbox *sb)
{
	return pthread_mutex_trylock(&sb->op) == 0;
}

bool op_wait(struct sandbox *sb)
{
	while (op_lock(sb, deadline_after_ms(OP_POLL_MS)) < 0)
		if (atomic_load(&sb->host->stopping))
			return false;
	if (!sb->gone)
		return true;
	pthread_mutex_unlock(&sb->op);
	return false;
}

void op_unlock(struct sandbox *sb)
{
	op_end(sb);
	pthread_mutex_unlock(&sb->op);
}

/* ---- its end, before its time -----------------------------------------------------------------
 */

/* Not through sb->vmm, which is its operation's. What the record names is set before anything waits
 * for a guest, and cleared when it is dead. */
static void kill_vm(struct sandbox *sb)
{
	struct vmm_identity vm;
	_cleanup_fd_ int fd = -1;
	uint64_t start;

	pthread_mutex_lock(&sb->info);
	vm = sb->record.vm;
	pthread_mutex_unlock(&sb->info);
	fd = vm.pid > 0 ? pidfd_from_pid(vm.pid) : -ESRCH;
	if (fd >= 0 && proc_start_time(vm.pid, &start) == 0 && start == vm.start_time)
		(void)pidfd_signal(fd, SIGKILL); /* gone already is as good */
}

void op_interrupt(struct sandbox *sb, enum op_interrupt why)
{
	int none = OP_GO_ON;

	if (why == OP_DELETED)
		atomic_store(&sb->interrupt, OP_DELETED);
	else
		(void)atomic_compare_exchange_strong(&sb->interrupt, &none, (int)why);
	kill_vm(sb);
}

bool op_is_interrupted(const struct sandbox *sb)
{
	return atomic_load(&sb->interrupt) != OP_GO_ON;
}

bool op_is_late(const struct sandbox *sb, uint64_t *ret_left_ns)
{
	uint64_t now = clock_now_ns();

	if (!brings_up(sb->doing.kind) || op_is_interrupted(sb))
		return false;
	if (sb->doing.deadline_ns <= now)
		return true;
	*ret_left_ns = MIN(*ret_left_ns, sb->doing.deadline_ns - now);
	return false;
}

/* ---- steps ------------------------------------------------------------------------------------
 */

/* What stands in for a slow disk, guest or pager: it, too, ends when it is interrupted. */
static void hang(struct sandbox *sb, unsigned seconds)
{
	uint64_t end = deadline_after_ms(1000ull * seconds);

	while (!deadline_passed(end) && !op_is_interrupted(sb) && !atomic_load(&sb->host->stopping))
		clock_sleep_ms(FAULT_POLL_MS);
}

/* Return when it is dead, so that it is certain what the step will find. */
static void kill_and_wait(pid_t pid)
{
	_cleanup_fd_ int fd = pid > 0 ? pidfd_from_pid(pid) : -ESRCH;

	if (fd < 0 || pidfd_signal(fd, SIGKILL) < 0 ||
	    pidfd_wait(fd, deadline_after_ms(FAULT_DEAD_MS)) < 0)
		log_warn("DORM_FAULT: process %d could not be killed", (int)pid);
}

static pid_t vm_pid(struct sandbox *sb)
{
	LOCK_SCOPE(&sb->info);
	return sb->record.vm.pid;
}

int op_fault(struct sandbox *sb, enum op_kind kind, enum op_step step)
{
	unsigned n = 0;
	pid_t pager;

	switch (fault_at(kinds[kind], steps[step], &n)) {
	case FAULT_ERROR:
		return -EIO;
	case FAULT_ENOSPC:
		return -ENOSPC;
	case FAULT_VMM:
		kill_and_wait(vm_pid(sb));
		return 0;
	case FAULT_PAGER:
		if (host_find_pager(sb->host, &pager) == 0)
			kill_and_wait(pager);
		return 0;
	case FAULT_HANG:
		hang(sb, n);
		return 0;
	default:
		return 0;
	}
}

int op_step(struct sandbox *sb, enum op_step step)
{
	enum op_kind kind;
	uint64_t deadline_ns;
	int r;

	pthread_mutex_lock(&sb->info);
	sb->doing.step = step;
	kind = sb->doing.kind;
	deadline_ns = sb->doing.deadline_ns;
	pthread_mutex_unlock(&sb->info);
	if (!op_is_point(kind, step))
		return 0;
	r = op_fault(sb, kind, step);
	if (op_is_interrupted(sb))
		return atomic_load(&sb->interrupt) == OP_DELETED ? -ECANCELED : -ETIMEDOUT;
	return r == 0 && deadline_passed(deadline_ns) ? -ETIMEDOUT : r;
}

void op_explain(struct sandbox *sb, int r, struct problem *problem)
{
	const struct op *op = &sb->doing;
	bool deleted = atomic_load(&sb->interrupt) == OP_DELETED;

	if (!problem || r >= 0 || op->kind == OP_NONE)
		return;
	if (deleted) {
		*problem = PROBLEM_INIT;
		problem_set(problem, 409,
			    "sandbox %s was deleted during this operation (%s, step %s)",
			    sb->record.id, kinds[op->kind], steps[op->step]);
	} else if (atomic_load(&sb->interrupt) == OP_TOO_LATE || deadline_passed(op->deadline_ns)) {
		*problem = PROBLEM_INIT;
		problem_set(problem, 504, "sandbox %s: %s took too long and was ended at step %s",
			    sb->record.id, kinds[op->kind], steps[op->step]);
	} else if (r == -ETIMEDOUT) {
		problem_set(problem, 504, "sandbox %s: step %s of %s took too long", sb->record.id,
			    steps[op->step], kinds[op->kind]);
		problem_hint(problem, "it was ended at step %s of %s", steps[op->step],
			     kinds[op->kind]);
	}
}
