/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sandbox.c - the transitions of sandboxes, one function each
 *
 * Each takes the sandbox's op lock, checks the state it starts from, does its work with deadlines,
 * and leaves one of the states that sandbox/state.h allows. What a client asked for either happened
 * or did not: a create that fails leaves nothing, a sleep that fails leaves a running sandbox, a
 * wake that fails leaves a sleeping one.
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
#include "sandbox/trace.h"

#define EXPIRE_AGAIN_NS (60 * NSEC_PER_SEC)

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
	r = sandbox_insert(sb);
	if (r == 0)
		r = sandbox_clone_memory(sb, from, problem);
	cloned = clock_now_ns() - t0;
	if (r == 0)
		r = sandbox_bring_up(sb, NULL, sb->manifest.memory_bytes, sb->manifest.cpus, memory,
				     problem, timings);
	if (r == 0) {
		timings->image_ns += cloned;
		timings->total_ns += cloned;
		sandbox_settle(sb, SANDBOX_RUNNING, false);
		sandbox_refine_later(sb);
		memcpy(ret_id, record.id, ID_LEN + 1);
	} else {
		sandbox_discard(sb);
		problem_errno(problem, r > 0 ? -EBADMSG : r, "creating a sandbox");
	}
	pthread_mutex_unlock(&sb->op);
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
			      .metadata = options->metadata,
			      .envs = options->envs,
			      .network = options->network};
	char snapshot_id[ID_LEN + 1];
	uint64_t t0 = clock_now_ns();
	TRACE("create");
	int r;

	if (options->secure)
		record_new_token(&like);
	str_copy(like.template_id, sizeof(like.template_id), options->template_id);
	str_copy(like.owner, sizeof(like.owner), options->owner ?: "");
	str_copy(like.mask_host, sizeof(like.mask_host), options->mask_host ?: "");
	if (options->private_traffic)
		traffic_token_new(like.traffic_token);
	for (int i = 1;; i++) {
		_cleanup_fd_ int from =
			snapshot_open_dir(host, options->template_id, problem, snapshot_id);
		struct problem p = PROBLEM_INIT;

		if (from < 0)
			return from;
		r = sandbox_create_from(host, from, &like, &options->memory, &p, ret_id,
					ret_timings);
		if (r < 0 && i < SNAPSHOT_TRIES && snapshot_was_replaced(host, snapshot_id, from))
			continue;
		if (r < 0)
			problem_pass(problem, &p);
		else
			memcpy(ret_token, like.token, sizeof(like.token));
		metrics_op(METRICS_CREATE, r, t0);
		return error_trace(r);
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

/* The new memory is on disk: make it the truth, then end the VM. */
static int fall_asleep(struct sandbox *sb, struct manifest *m, struct problem *problem)
{
	unsigned old = sb->record.generation;
	int r;

	sandbox_set_generation(sb, old + 1, m->image_id);
	r = sandbox_set_state(sb, SANDBOX_ASLEEP, true);
	if (r < 0) {
		problem_errno(problem, r, "recording that sandbox %s is asleep", sb->record.id);
		sandbox_set_generation(sb, old, sb->manifest.image_id);
		pthread_mutex_lock(&sb->info);
		sb->record.state = SANDBOX_PAUSING;
		pthread_mutex_unlock(&sb->info);
		sandbox_forget_generation(sb, old + 1);
		manifest_deinit(m);
		return error_trace(r);
	}
	sandbox_take_down(sb);
	sandbox_forget_disks(sb);
	sandbox_set_manifest(sb, m);
	sandbox_forget_generation(sb, old);
	sandbox_compact_later(sb);
	return 0;
}

static int sleep_locked(struct sandbox *sb, struct problem *problem,
			struct sandbox_save_timings *timings)
{
	struct manifest m;
	char final[128], memory[32], id[ID_LEN + 1];
	int r;

	if (sb->record.state != SANDBOX_RUNNING)
		return sandbox_wrong_state(sb, "put to sleep", problem);
	sandbox_await_pager(sb);
	id_new(SANDBOX_MEMORY_PREFIX, id);
	(void)snprintf(final, sizeof(final), "sandboxes/%s/%s", sb->record.id,
		       sandbox_memory_name(sb->record.generation + 1, memory)); /* fits */
	sandbox_settle(sb, SANDBOX_PAUSING, false);
	r = sandbox_save(sb, final, id, NULL, &sb->host->sleep_options, problem, timings, &m);
	if (r == 0) {
		r = fall_asleep(sb, &m, problem);
		if (r == 0)
			return 0;
		(void)sandbox_run_on(sb, NULL); /* logs and records it when that fails too */
	}
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
	pthread_mutex_unlock(&sb->info);
	monitor_kick(sb->host);
}

static int wake_locked(struct sandbox *sb, uint64_t timeout_s,
		       const struct sandbox_memory_options *memory, struct problem *problem,
		       struct sandbox_timings *ret_timings)
{
	int r;

	if (sb->record.state == SANDBOX_RUNNING) {
		extend(sb, timeout_s);
		r = sandbox_write_record(sb, false);
		return r < 0 ? error_trace(r) : 1;
	}
	if (sb->record.state != SANDBOX_ASLEEP)
		return sandbox_wrong_state(sb, "woken", problem);
	r = check_memory(sb, problem);
	if (r < 0)
		return error_trace(r);
	sandbox_settle(sb, SANDBOX_WAKING, false);
	r = sandbox_bring_up(sb, NULL, sb->manifest.memory_bytes, sb->manifest.cpus, memory,
			     problem, ret_timings);
	if (r == 0)
		extend(sb, timeout_s);
	/* Durable: a host that goes down now must not find it asleep at a point it has left behind.
	 */
	sandbox_settle(sb, r == 0 ? SANDBOX_RUNNING : SANDBOX_ASLEEP, true);
	return error_trace(r);
}

int sandbox_wake(struct host *host, const char *id, uint64_t timeout_s,
		 const struct sandbox_memory_options *memory, struct problem *problem,
		 struct sandbox_timings *ret_timings)
{
	TRACE("wake");
	uint64_t t0 = clock_now_ns();
	struct sandbox *sb = sandbox_op_begin(host, id, problem);
	int r;

	trace_add("queue", t0, clock_now_ns());
	if (!sb)
		return -ENOENT;
	r = wake_locked(sb, timeout_s, memory, problem, ret_timings);
	sandbox_op_endp(&sb);
	if (r <= 0)
		metrics_op(METRICS_WAKE, r, t0);
	if (r >= 0 && memory)
		sandbox_await_memory(host, id, memory->wait);
	return r;
}

/* ---- delete, timeout --------------------------------------------------------------------------
 */

int sandbox_delete(struct host *host, const char *id, struct problem *problem)
{
	uint64_t t0 = clock_now_ns();
	_cleanup_op_ struct sandbox *sb = sandbox_op_begin(host, id, problem);

	if (!sb)
		return -ENOENT;
	sandbox_settle(sb, SANDBOX_DELETING, false); /* the rename that follows is what counts */
	sandbox_discard(sb);
	metrics_op(METRICS_DELETE, 0, t0);
	return 0;
}

/* Whoever came first, a client's operation may have changed everything since the clock struck. */
static int expire_locked(struct sandbox *sb, struct problem *problem)
{
	struct sandbox_save_timings t;
	enum sandbox_state state = sb->record.state;
	int r = 0;

	if (!sb->record.end_ns || sb->record.end_ns > clock_real_ns())
		return 0;
	if (state == SANDBOX_RUNNING && sb->record.auto_pause) {
		r = sleep_locked(sb, problem, &t);
	} else if ((state == SANDBOX_RUNNING || state == SANDBOX_ASLEEP) &&
		   !sb->record.auto_pause) {
		sandbox_settle(sb, SANDBOX_DELETING, false);
		sandbox_discard(sb);
	} else {
		return 0;
	}
	if (r == 0) {
		log_info("sandbox=%s time is up: %s", sb->record.id,
			 sandbox_state_name(sb->record.state));
		metrics_expired();
		sandbox_event(sb, "sandbox.expired",
			      json_pack("{s:s}", "state", sandbox_state_name(sb->record.state)));
	}
	return error_trace(r);
}

int sandbox_expire(struct sandbox *sb, struct problem *problem)
{
	_cleanup_op_ struct sandbox *locked = sandbox_op_lock(sandbox_ref(sb), problem);
	int r = locked ? expire_locked(sb, problem) : sb->gone ? 0 : -EBUSY;

	pthread_mutex_lock(&sb->info);
	sb->expiring = false;
	if (r < 0) /* again in a while */
		sb->record.end_ns = MAX(sb->record.end_ns, clock_real_ns() + EXPIRE_AGAIN_NS);
	pthread_mutex_unlock(&sb->info);
	monitor_kick(sb->host);
	return error_trace(r);
}

int sandbox_set_timeout(struct host *host, const char *id, uint64_t timeout_s,
			struct problem *problem)
{
	_cleanup_(sandbox_unrefp) struct sandbox *sb = sandbox_find(host, id, problem);
	bool durable;
	int r = 0;

	if (!sb)
		return -ENOENT;
	pthread_mutex_lock(&sb->info);
	/* only a sleeper outlives the host, so only its record must */
	durable = sb->record.state == SANDBOX_ASLEEP;
	if (sb->record.state == SANDBOX_FAILED || sb->record.state == SANDBOX_DELETING)
		r = sandbox_wrong_state(sb, "given more time", problem);
	else
		sb->record.end_ns = timeout_s ? sandbox_end_after(timeout_s) : clock_real_ns();
	pthread_mutex_unlock(&sb->info);
	if (r == 0)
		r = sandbox_write_record(sb, durable);
	monitor_kick(host);
	return error_trace(r);
}
