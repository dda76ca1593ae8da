/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sandbox.c - the transitions of sandboxes, one function each
 *
 * Each takes the sandbox's op lock, checks the state it starts from, does its work with deadlines,
 * and leaves one of the states that sandbox/state.h allows. What a client asked for either happened
 * or did not: a create that fails leaves nothing, a sleep that fails leaves a running sandbox, a
 * wake that fails leaves a sleeping one. docs/lifecycle.md has all of it as tables.
 */
#include "sandbox/private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "sandbox/metrics.h"
#include "sandbox/pool.h"
#include "sandbox/trace.h"
#include "sys/pidfd.h"

#define EXPIRE_AGAIN_NS (60 * NSEC_PER_SEC)
#define DELETE_WAIT_MS	1500 /* for the operation that it interrupts; then it goes on behind */

/* ---- create -----------------------------------------------------------------------------------
 */

int sandbox_clone_memory(struct sandbox *sb, int from, struct problem *problem)
{
	struct store *store = sb->host->store;
	struct manifest m;
	char final[96];
	TRACE("link");
	int r;

	(void)snprintf(final, sizeof(final), "sandboxes/%s/memory-0", sb->record.id); /* fits */
	r = snapshot_clone(store->root_fd, store->root, from, sb->host->keys, final, NULL, problem);
	if (r == 0)
		r = snapshot_open(from, sb->host->keys, problem, &m);
	if (r != 0)
		return r;
	sandbox_set_generation(sb, 0, m.image_id);
	sandbox_set_manifest(sb, &m);
	return 0;
}

/*
 * If it cannot be recorded, a dormd that starts after a crash would end the VM, however long it has
 * been running by then; so it is ended now, while the client can be told.
 */
int sandbox_come_to_life(struct sandbox *sb, bool durable, struct problem *problem)
{
	int r = op_step(sb, STEP_RECORD);

	if (r == 0 && pidfd_is_gone(vmm_pidfd(sb->vmm)) != 0) {
		char why[400];

		vmm_exit_reason(sb->vmm, why, sizeof(why));
		problem_set(problem, 500, "the VM of sandbox %s ended: %s", sb->record.id, why);
		r = -ECONNRESET;
	}
	if (r == 0)
		r = sandbox_try_state(sb, SANDBOX_RUNNING, durable);
	if (r < 0) {
		problem_errno(problem, r, "recording that sandbox %s runs", sb->record.id);
		sandbox_take_down(sb);
		sandbox_forget_disks(sb);
	}
	return error_trace(r);
}

static int refuse_no_disk(const struct sandbox *sb, struct problem *problem)
{
	problem_set(problem, 400,
		    "autoPauseMemory: false needs a sandbox with a disk, and '%s' has none",
		    sb->record.template_id);
	problem_hint(problem, "build the template with --disk, or let it keep its memory");
	return -EOPNOTSUPP;
}

int sandbox_create_from(struct host *host, int from, const struct record *like,
			const struct sandbox_memory_options *memory, struct problem *problem,
			char ret_id[ID_LEN + 1], struct sandbox_timings *timings)
{
	struct record record = *like;
	struct sandbox *sb = NULL;
	uint64_t t0 = clock_now_ns(), cloned;
	int r;

	id_new('i', record.id);
	if (record.traffic_token[0])
		traffic_token_new(record.traffic_token); /* never another's */
	record.state = SANDBOX_CREATING;
	record.created_ns = clock_real_ns();
	r = sandbox_new(host, &record, true, problem, &sb);
	if (r < 0)
		return r;
	pthread_mutex_lock(&sb->op);
	op_begin(sb, OP_CREATE);
	r = sandbox_insert(sb);
	if (r == 0)
		r = op_step(sb, STEP_CLONE);
	if (r == 0)
		r = sandbox_clone_memory(sb, from, problem);
	if (r == 0)
		r = quota_take(sb, problem);
	cloned = clock_now_ns() - t0;
	if (r == 0 && record.auto_pause_disk && !sandbox_has_disk(sb))
		r = refuse_no_disk(sb, problem);
	if (r == 0 && sb->record.disk_only)
		r = sandbox_boot(sb, problem, timings);
	else if (r == 0)
		r = sandbox_bring_up(sb, NULL, sb->manifest.memory_bytes, sb->manifest.cpus, memory,
				     problem, timings);
	if (r == 0)
		r = sandbox_come_to_life(sb, false, problem);
	if (r == 0) {
		timings->image_ns += cloned;
		timings->total_ns += cloned;
		if (!sb->record.disk_only)
			sandbox_refine_later(sb);
		memcpy(ret_id, record.id, ID_LEN + 1);
		(void)op_step(sb, STEP_REPLY);
	} else {
		op_explain(sb, r, problem);
		sandbox_discard(sb);
		problem_errno(problem, r > 0 ? -EBADMSG : r, "creating a sandbox");
	}
	op_unlock(sb);
	sandbox_unref(sb);
	if (r == 0 && memory)
		sandbox_await_memory(host, ret_id, memory->wait);
	return r > 0 ? -EBADMSG : error_trace(r);
}

int sandbox_create(struct host *host, const struct sandbox_options *options,
		   struct problem *problem, char ret_id[ID_LEN + 1], char ret_token[65],
		   struct sandbox_timings *ret_timings)
{
	struct record like = {.auto_pause = options->auto_pause,
			      .auto_pause_disk = options->auto_pause_disk,
			      .auto_resume = options->auto_resume,
			      .end_ns = sandbox_end_after(options->timeout_s),
			      .timeout_s = options->timeout_s,
			      .metadata = options->metadata,
			      .envs = options->envs,
			      .network = options->network};
	_cleanup_work_ struct host *work = work_begin(host, problem);
	const struct admit_ask ask = {.verb = "another sandbox",
				      .template_id = options->template_id,
				      .abandoned = options->abandoned,
				      .userdata = options->userdata};
	struct admission_ticket ticket = {0};
	char snapshot_id[ID_LEN + 1];
	uint64_t t0 = clock_now_ns();
	TRACE("create");
	int r;

	if (!work)
		return -EAGAIN;
	if (options->secure)
		record_new_token(&like);
	str_copy(like.template_id, sizeof(like.template_id), options->template_id);
	str_copy(like.request, sizeof(like.request), options->request ?: "");
	str_copy(like.owner, sizeof(like.owner), options->owner ?: "");
	str_copy(like.mask_host, sizeof(like.mask_host), options->mask_host ?: "");
	if (options->private_traffic)
		traffic_token_new(like.traffic_token);
	r = quota_check(host, like.owner, problem);
	if (r == 0)
		r = snapshot_resolve(host, options->template_id, problem, snapshot_id);
	if (r == 0)
		r = host_admit(host, &ask, problem, &ticket);
	if (r < 0)
		return r;
	like.end_ns = sandbox_end_after(options->timeout_s); /* from when it is there */
	for (int i = 1;; i++) {
		_cleanup_fd_ int from =
			snapshot_open_dir(host, options->template_id, problem, snapshot_id);
		struct problem p = PROBLEM_INIT;

		if (from < 0) {
			host_admitted(host, &ticket, NULL);
			return from;
		}
		r = sandbox_create_warm(host, from, &like, &options->memory, ret_id, ret_timings);
		if (r == 0)
			r = sandbox_create_from(host, from, &like, &options->memory, &p, ret_id,
						ret_timings);
		if (r < 0 && i < SNAPSHOT_TRIES && snapshot_was_replaced(host, snapshot_id, from))
			continue;
		if (r < 0)
			problem_pass(problem, &p);
		else
			memcpy(ret_token, like.token, sizeof(like.token));
		ret_timings->queue_ns = ticket.waited_ns;
		host_admitted(host, &ticket, r < 0 ? NULL : ret_id);
		if (r >= 0)
			pool_used(host->pool, like.template_id, ret_timings->warm);
		metrics_op(METRICS_CREATE, MIN(r, 0), t0);
		return r < 0 ? error_trace(r) : 0;
	}
}

/* ---- sleep and wake ---------------------------------------------------------------------------
 */

void sandbox_forget_generation(struct sandbox *sb, unsigned generation)
{
	char path[128], memory[32];
	struct problem p = PROBLEM_INIT;

	(void)snprintf(path, sizeof(path), "sandboxes/%s/%s", sb->record.id,
		       sandbox_memory_name(generation, memory)); /* fits */
	if (snapshot_delete(sb->host->store->root_fd, path, &p) < 0)
		log_warn("sandbox=%s %s could not be removed: %s", sb->record.id, memory,
			 p.message);
}

static void set_disk_only(struct sandbox *sb, const struct manifest *m)
{
	LOCK_SCOPE(&sb->info);
	sb->record.disk_only = sandbox_is_disk_only(m);
}

/* The new memory is on disk: make it the truth, then end the VM. */
int sandbox_fall_asleep(struct sandbox *sb, struct manifest *m, struct problem *problem)
{
	unsigned old = sb->record.generation;
	int r;

	sandbox_set_generation(sb, old + 1, m->image_id);
	set_disk_only(sb, m);
	r = op_step(sb, STEP_RECORD);
	if (r == 0)
		r = sandbox_try_state(sb, SANDBOX_ASLEEP, true);
	if (r < 0) {
		problem_errno(problem, r, "recording that sandbox %s is asleep", sb->record.id);
		sandbox_set_generation(sb, old, sb->manifest.image_id);
		set_disk_only(sb, &sb->manifest);
		sandbox_forget_generation(sb, old + 1);
		manifest_deinit(m);
		return error_trace(r);
	}
	(void)op_step(sb, STEP_END);
	sandbox_take_down(sb);
	(void)op_step(sb, STEP_REMOVE);
	sandbox_forget_disks(sb);
	sandbox_set_manifest(sb, m);
	sandbox_forget_generation(sb, old);
	sandbox_compact_later(sb);
	(void)op_step(sb, STEP_REPLY);
	return 0;
}

static int sleep_locked(struct sandbox *sb, struct problem *problem,
			struct sandbox_save_timings *timings)
{
	struct manifest m;
	char final[128], id[ID_LEN + 1];
	int r;

	if (sb->record.state != SANDBOX_RUNNING)
		return sandbox_wrong_state(sb, "put to sleep", problem);
	r = sandbox_begin_sleep(sb, problem);
	if (r < 0)
		return error_trace(r);
	id_new(SANDBOX_MEMORY_PREFIX, id);
	sandbox_next_memory(sb, final);
	r = sandbox_save(sb, final, id, NULL, &sb->host->sleep_options, problem, timings, &m);
	if (r == 0) {
		r = sandbox_fall_asleep(sb, &m, problem);
		if (r == 0)
			return 0;
		(void)sandbox_run_on(sb, NULL); /* logs and records it when that fails too */
	}
	op_explain(sb, r, problem);
	if (sb->record.state == SANDBOX_PAUSING)
		sandbox_settle(sb, SANDBOX_RUNNING, false);
	return error_trace(r);
}

int sandbox_sleep(struct host *host, const char *id, struct problem *problem,
		  struct sandbox_save_timings *ret_timings)
{
	uint64_t t0 = clock_now_ns();
	_cleanup_op_ struct sandbox *sb = sandbox_op_begin(host, id, problem);
	int r = sb ? sleep_locked(sb, problem, ret_timings) : -ENOENT;

	metrics_op(METRICS_SLEEP, r, t0);
	return r;
}

/*
 * What it wakes from must be what it fell asleep with, and not a directory of the same name from an
 * earlier day, however well that one is sealed. Damage is different: the files may be restored.
 */
static int check_memory(struct sandbox *sb, struct problem *problem)
{
	struct manifest m = {0};
	char why[256];
	TRACE("check");
	int r = sandbox_read_memory(sb, sb->record.generation, problem, &m);

	if (r == 0 && !sandbox_is_its_memory(sb, &m, why)) {
		sandbox_fail(sb, "%s", why);
		r = sandbox_wrong_state(sb, "woken", problem);
	}
	if (r == 0)
		sandbox_set_manifest(sb, &m); /* a daemon without its key knew it from hearsay */
	manifest_deinit(&m);
	return r > 0 ? -EBADMSG : error_trace(r);
}

static void extend(struct sandbox *sb, uint64_t timeout_s)
{
	/* one whose time was up while it slept is not to fall asleep again at once */
	uint64_t end = timeout_s ? sandbox_end_after(timeout_s) : clock_real_ns() + EXPIRE_AGAIN_NS;

	pthread_mutex_lock(&sb->info);
	if (sb->record.end_ns && (timeout_s || sb->record.end_ns < clock_real_ns()))
		sb->record.end_ns = MAX(sb->record.end_ns, end);
	sb->record.timeout_s = MAX(sb->record.timeout_s, timeout_s);
	pthread_mutex_unlock(&sb->info);
	monitor_kick(sb->host);
}

/* What it slept with is brought back, unless that is a disk alone, or nobody wants the rest. */
static int bring_back(struct sandbox *sb, const struct sandbox_memory_options *memory,
		      struct problem *problem, struct sandbox_timings *timings)
{
	if (sb->record.disk_only || (memory && memory->reboot))
		return sandbox_boot_anew(sb, problem, timings);
	return sandbox_bring_up(sb, NULL, sb->manifest.memory_bytes, sb->manifest.cpus, memory,
				problem, timings);
}

int sandbox_wake_locked(struct sandbox *sb, uint64_t timeout_s,
			const struct sandbox_memory_options *memory, struct problem *problem,
			struct sandbox_timings *ret_timings)
{
	_cleanup_work_ struct host *work = NULL;
	int r;

	if (sb->record.state == SANDBOX_RUNNING) {
		extend(sb, timeout_s);
		r = sandbox_write_record(sb, false);
		return r < 0 ? error_trace(r) : 1;
	}
	if (sb->record.state != SANDBOX_ASLEEP)
		return sandbox_wrong_state(sb, "woken", problem);
	work = work_begin(sb->host, problem);
	if (!work)
		return -EAGAIN;
	op_begin(sb, OP_WAKE);
	r = op_step(sb, STEP_CHECK);
	if (r == 0)
		r = check_memory(sb, problem);
	if (r == 0)
		r = quota_take(sb, problem);
	if (r < 0) {
		op_explain(sb, r, problem);
		problem_errno(problem, r, "waking sandbox %s", sb->record.id);
		return error_trace(r);
	}
	sandbox_settle(sb, SANDBOX_WAKING, false);
	r = bring_back(sb, memory, problem, ret_timings);
	if (r == 0)
		extend(sb, timeout_s);
	/* Durable: a host that goes down now must not find it asleep at a point it has left behind.
	 */
	if (r == 0)
		r = sandbox_come_to_life(sb, true, problem);
	if (r == 0) {
		(void)op_step(sb, STEP_REPLY);
		return 0;
	}
	op_explain(sb, r, problem);
	sandbox_settle(sb, SANDBOX_ASLEEP, true);
	return error_trace(r);
}

int sandbox_admit_wake(struct host *host, const char *id, struct problem *problem,
		       struct admission_ticket *ticket)
{
	_cleanup_(sandbox_unrefp) struct sandbox *sb = sandbox_find(host, id, problem);
	char template_id[sizeof(sb->record.template_id)];
	struct admit_ask ask = {.verb = "a sandbox", .template_id = template_id};
	bool asleep;

	if (!sb)
		return -ENOENT;
	pthread_mutex_lock(&sb->info);
	asleep = sb->record.state == SANDBOX_ASLEEP;
	memcpy(template_id, sb->record.template_id, sizeof(template_id));
	/* what it wrote last is its own */
	ask.least = sb->manifest.stats.pages_stored * DORM_PAGE_SIZE;
	pthread_mutex_unlock(&sb->info);
	return asleep ? host_admit(host, &ask, problem, ticket) : 0;
}

int sandbox_wake(struct host *host, const char *id, uint64_t timeout_s,
		 const struct sandbox_memory_options *memory, struct problem *problem,
		 struct sandbox_timings *ret_timings)
{
	TRACE("wake");
	struct admission_ticket ticket = {0};
	uint64_t t0 = clock_now_ns();
	struct sandbox *sb;
	int r = sandbox_admit_wake(host, id, problem, &ticket);

	if (r < 0)
		return r;
	sb = sandbox_op_begin(host, id, problem);
	trace_add("queue", t0, clock_now_ns());
	if (!sb) {
		host_admitted(host, &ticket, NULL);
		return -ENOENT;
	}
	r = sandbox_wake_locked(sb, timeout_s, memory, problem, ret_timings);
	sandbox_op_endp(&sb);
	if (r == 0)
		ret_timings->queue_ns = ticket.waited_ns;
	host_admitted(host, &ticket, r == 0 ? id : NULL);
	if (r <= 0)
		metrics_op(METRICS_WAKE, r, t0);
	if (r >= 0 && memory)
		sandbox_await_memory(host, id, memory->wait);
	return r;
}

/* ---- delete, timeout --------------------------------------------------------------------------
 */

/* op held */
static void end_doomed(struct sandbox *sb)
{
	op_begin(sb, OP_DELETE);
	sandbox_settle(sb, SANDBOX_DELETING, false);
	sandbox_discard(sb);
	(void)op_step(sb, STEP_REPLY);
}

/* An operation that does not end soon (it waits for a disk, or for a pager that stands still) is
 * nothing that a client should wait for. */
static void end_later(struct host *host, void *arg)
{
	struct sandbox *sb = arg;

	if (op_wait(sb)) { /* else the next dormd removes it, by what its record says */
		end_doomed(sb);
		op_unlock(sb);
	}
	sandbox_unref(sb);
}

static void doom_later(struct sandbox *sb)
{
	log_info("sandbox=%s is deleted as soon as the operation under way has ended",
		 sb->record.id);
	if (host_run(sb->host, end_later, sandbox_ref(sb)) < 0)
		sandbox_unref(sb); /* not the last one; the next dormd removes it */
}

/* Make way for the delete of a sandbox that is busy. Return: true, and then op is held */
static bool interrupt(struct sandbox *sb)
{
	op_interrupt(sb, OP_DELETED);
	/* now already: it may go on behind the client's back */
	if (sandbox_write_record(sb, false) < 0)
		log_warn("sandbox=%s that it is to be deleted could not be recorded",
			 sb->record.id);
	return op_lock(sb, deadline_after_ms(DELETE_WAIT_MS)) == 0;
}

bool sandbox_doom(struct sandbox *sb)
{
	bool first;

	(void)op_fault(sb, OP_DELETE, STEP_BEGIN); /* goes on whatever fails */
	pthread_mutex_lock(&sb->info);
	first = !sb->gone && !atomic_exchange(&sb->doomed, true);
	pthread_mutex_unlock(&sb->info);
	if (!first)
		return false;
	if (!op_try(sb) && !interrupt(sb)) {
		doom_later(sb);
		return true;
	}
	if (!sb->gone)
		end_doomed(sb);
	op_unlock(sb);
	return true;
}

int sandbox_delete(struct host *host, const char *id, struct problem *problem)
{
	_cleanup_(sandbox_unrefp) struct sandbox *sb = sandbox_find(host, id, problem);
	uint64_t t0 = clock_now_ns();

	if (!sb)
		return -ENOENT;
	if (sandbox_doom(sb)) {
		metrics_op(METRICS_DELETE, 0, t0);
		return 0;
	}
	problem_set(problem, 404, "there is no sandbox %.64s", id);
	return -ENOENT;
}

/* info held. Whoever came first, a client's operation may have changed everything since the clock
 * struck. */
static bool is_over(const struct sandbox *sb)
{
	return sb->record.end_ns && sb->record.end_ns <= clock_real_ns();
}

static bool is_to_sleep(struct sandbox *sb)
{
	LOCK_SCOPE(&sb->info);
	return is_over(sb) && sb->record.auto_pause && sb->record.state == SANDBOX_RUNNING;
}

static void say_expired(struct sandbox *sb, const char *state)
{
	metrics_expired();
	sandbox_event(sb, "sandbox.expired", json_pack("{s:s}", "state", state));
}

static int expire_to_sleep(struct sandbox *sb, struct problem *problem)
{
	_cleanup_op_ struct sandbox *locked = sandbox_op_lock(sandbox_ref(sb), problem);
	struct sandbox_save_timings t;
	int r;

	if (!locked)
		return sb->gone || atomic_load(&sb->doomed) ? 0 : -EBUSY;
	if (!is_to_sleep(sb))
		return 0;
	r = sb->record.auto_pause_disk ? sandbox_sleep_disk_locked(sb, problem, &t)
				       : sleep_locked(sb, problem, &t);
	if (r == 0) {
		log_info("sandbox=%s time is up: asleep", sb->record.id);
		say_expired(sb, "asleep");
	}
	return error_trace(r);
}

/* It is not worth waiting for what is done with it: that is ended, too. But one that is being woken
 * may be given more time by just that. */
static void expire_for_good(struct sandbox *sb)
{
	bool over;

	pthread_mutex_lock(&sb->info);
	over = is_over(sb) && !sb->record.auto_pause && sb->record.state != SANDBOX_WAKING &&
	       sb->record.state != SANDBOX_FAILED;
	pthread_mutex_unlock(&sb->info);
	if (over && sandbox_doom(sb)) {
		log_info("sandbox=%s time is up: deleted", sb->record.id);
		say_expired(sb, "deleting");
	}
}

int sandbox_expire(struct sandbox *sb, struct problem *problem)
{
	int r = 0;

	if (is_to_sleep(sb))
		r = expire_to_sleep(sb, problem);
	else
		expire_for_good(sb);
	pthread_mutex_lock(&sb->info);
	sb->expiring = false;
	if (r < 0) /* again in a while */
		sb->record.end_ns = MAX(sb->record.end_ns, clock_real_ns() + EXPIRE_AGAIN_NS);
	pthread_mutex_unlock(&sb->info);
	monitor_kick(sb->host);
	return error_trace(r);
}

/*
 * Its end: @timeout_s from now; when only @longer, unless that would be sooner than it is.
 * Return: 0; negative errno, and then it keeps the time it had
 */
static int set_end(struct host *host, const char *id, uint64_t timeout_s, bool longer,
		   struct problem *problem)
{
	_cleanup_(sandbox_unrefp) struct sandbox *sb = sandbox_find(host, id, problem);
	uint64_t end = timeout_s ? sandbox_end_after(timeout_s) : clock_real_ns(), before;
	enum sandbox_state state;
	int r;

	if (!sb)
		return -ENOENT;
	pthread_mutex_lock(&sb->info);
	state = sb->record.state;
	before = sb->record.end_ns;
	if (state != SANDBOX_FAILED && state != SANDBOX_DELETING) {
		if (!longer || (before && before < end))
			sb->record.end_ns = end;
		if (timeout_s)
			sb->record.timeout_s = timeout_s;
	}
	pthread_mutex_unlock(&sb->info);
	if (state == SANDBOX_FAILED || state == SANDBOX_DELETING)
		return sandbox_wrong_state(sb, "given more time", problem);
	/* only a sleeper outlives the host, so only its record must */
	r = sandbox_write_record(sb, state == SANDBOX_ASLEEP);
	if (r < 0) {
		pthread_mutex_lock(&sb->info);
		sb->record.end_ns = before;
		pthread_mutex_unlock(&sb->info);
		problem_errno(problem, r, "recording the end of sandbox %s", id);
	}
	monitor_kick(host);
	return error_trace(r);
}

int sandbox_set_timeout(struct host *host, const char *id, uint64_t timeout_s,
			struct problem *problem)
{
	return set_end(host, id, timeout_s, false, problem);
}

int sandbox_extend(struct host *host, const char *id, uint64_t timeout_s, struct problem *problem)
{
	return set_end(host, id, timeout_s, true, problem);
}
