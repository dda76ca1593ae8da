/* SPDX-License-Identifier: Apache-2.0 */
/*
 * table.c - sandboxes as objects: allocated, in the table, locked, in a state
 *
 * What every operation begins and ends with. The operations themselves are in sandbox.c and fork.c.
 */
#include "sandbox/private.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"

/* ---- objects and the table --------------------------------------------------------------------
 */

char *sandbox_memory_name(unsigned generation, char buf[32])
{
	(void)snprintf(buf, 32, "memory-%u", generation); /* fits */
	return buf;
}

static int open_dir(struct host *host, const char *id, bool make, int *ret)
{
	char name[64];
	int fd;

	(void)snprintf(name, sizeof(name), "sandboxes/%s", id); /* ids have a fixed length */
	if (make && mkdirat(host->store->root_fd, name, 0700) < 0)
		return error_errno();
	fd = file_open_dir(host->store->root_fd, name);
	if (fd < 0)
		return error_trace(fd);
	*ret = fd;
	return 0;
}

/* Of the kind that knows who holds it, for op_lock(). */
static void init_lock(pthread_mutex_t *m)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK);
	pthread_mutex_init(m, &attr);
	pthread_mutexattr_destroy(&attr);
}

int sandbox_new(struct host *host, const struct record *record, bool make_dir,
		struct problem *problem, struct sandbox **ret)
{
	struct sandbox *sb = calloc(1, sizeof(*sb));
	int r;

	if (!sb)
		return -ENOMEM;
	sb->host = host;
	sb->refs = 1;
	sb->dirfd = sb->memory_fd = sb->agent_fd = -1;
	sb->net = NET_PROCESS_NONE;
	init_lock(&sb->op);
	init_lock(&sb->info);
	init_lock(&sb->disk);
	pthread_cond_init(&sb->resume.changed, NULL);
	sb->record = *record;
	json_incref(sb->record.metadata);
	json_incref(sb->record.envs);
	json_incref(sb->record.network);
	sb->path = str_printf("%s/sandboxes/%s", host->store->root, record->id);
	r = sb->path ? open_dir(host, record->id, make_dir, &sb->dirfd) : -ENOMEM;
	if (r == 0 && make_dir)
		r = sandbox_write_record(sb, false);
	if (r < 0) {
		problem_errno(problem, r, "directory of sandbox %s", record->id);
		if (make_dir && sb->dirfd >= 0)
			(void)snapshot_delete(host->store->root_fd,
					      sb->path + strlen(host->store->root) + 1, NULL);
		sandbox_unref(sb);
		return r;
	}
	*ret = sb;
	return 0;
}

struct sandbox *sandbox_ref(struct sandbox *sb)
{
	atomic_fetch_add(&sb->refs, 1);
	return sb;
}

struct sandbox *sandbox_unref(struct sandbox *sb)
{
	if (!sb || atomic_fetch_sub(&sb->refs, 1) != 1)
		return NULL;
	if (sb->stalled)
		atomic_fetch_sub(&sb->host->n_stalled, 1);
	channel_free(sb->channel);
	channel_free(sb->greeted);
	vmm_free(sb->vmm);
	net_process_forget(&sb->net);
	fd_close(sb->agent_fd);
	fd_close(sb->memory_fd);
	fd_close(sb->dirfd);
	free(sb->path);
	usage_deinit(&sb->usage);
	record_deinit(&sb->record);
	manifest_deinit(&sb->manifest);
	pthread_mutex_destroy(&sb->info);
	pthread_mutex_destroy(&sb->disk);
	pthread_cond_destroy(&sb->resume.changed);
	pthread_mutex_destroy(&sb->op);
	free(sb);
	return NULL;
}

int sandbox_insert(struct sandbox *sb)
{
	struct host *host = sb->host;
	int r;

	pthread_mutex_lock(&host->lock);
	r = mem_grow(&host->sandboxes, &host->cap_sandboxes, host->n_sandboxes,
		     sizeof(*host->sandboxes));
	if (r == 0)
		host->sandboxes[host->n_sandboxes++] = sandbox_ref(sb);
	pthread_mutex_unlock(&host->lock);
	if (r < 0)
		return r;
	monitor_kick(host); /* its time, and that of what is done with it, count from now on */
	if (sb->record.state == SANDBOX_CREATING) /* recovered ones have been here before */
		sandbox_event(sb, "sandbox.state",
			      json_pack("{s:s, s:s}", "state", "creating", "templateID",
					sb->record.template_id));
	return 0;
}

void sandbox_remove(struct sandbox *sb)
{
	struct host *host = sb->host;
	bool found = false;

	pthread_mutex_lock(&host->lock);
	for (size_t i = 0; i < host->n_sandboxes; i++) {
		if (found)
			host->sandboxes[i - 1] = host->sandboxes[i];
		else if (host->sandboxes[i] == sb)
			found = true;
	}
	host->n_sandboxes -= found;
	pthread_mutex_unlock(&host->lock);
	pthread_mutex_lock(&sb->info);
	sb->gone = true;
	pthread_mutex_unlock(&sb->info);
	if (found)
		sandbox_unref(sb);
}

void sandbox_move_to_end(struct sandbox *sb)
{
	struct host *host = sb->host;
	size_t n = 0;
	LOCK_SCOPE(&host->lock);

	for (size_t i = 0; i < host->n_sandboxes; i++)
		if (host->sandboxes[i] != sb)
			host->sandboxes[n++] = host->sandboxes[i];
	if (n < host->n_sandboxes)
		host->sandboxes[n] = sb;
}

struct sandbox *sandbox_find(struct host *host, const char *id, struct problem *problem)
{
	LOCK_SCOPE(&host->lock);
	for (size_t i = 0; i < host->n_sandboxes; i++)
		if (!strcmp(host->sandboxes[i]->record.id, id) &&
		    !atomic_load(&host->sandboxes[i]->doomed))
			return sandbox_ref(host->sandboxes[i]);
	problem_set(problem, 404, "there is no sandbox %.64s", id);
	problem_hint(problem, "`dorm ps -a` lists them");
	return NULL;
}

/* ---- locking and states -----------------------------------------------------------------------
 */

static void say_busy(struct sandbox *sb, struct problem *problem)
{
	struct op op;

	pthread_mutex_lock(&sb->info);
	op = sb->doing;
	pthread_mutex_unlock(&sb->info);
	problem_set(problem, 503, "sandbox %s is busy with another operation (%s, step %s)",
		    sb->record.id, op_kind_name(op.kind), op_step_name(op.step));
	problem_retry(problem, OP_RETRY_S);
}

struct sandbox *sandbox_op_lock(struct sandbox *sb, struct problem *problem)
{
	if (op_lock(sb, deadline_after_ms(OP_WAIT_MS)) < 0) {
		say_busy(sb, problem);
		sandbox_unref(sb);
		return NULL;
	}
	if (sb->gone || atomic_load(&sb->doomed)) {
		problem_set(problem, 404, "there is no sandbox %s", sb->record.id);
		sandbox_op_endp(&sb);
		return NULL;
	}
	return sb;
}

struct sandbox *sandbox_op_begin(struct host *host, const char *id, struct problem *problem)
{
	struct sandbox *sb = sandbox_find(host, id, problem);

	return sb ? sandbox_op_lock(sb, problem) : NULL;
}

int sandbox_write_record(struct sandbox *sb, bool durable)
{
	_cleanup_free_ char *text = NULL;
	enum sandbox_state state;
	LOCK_SCOPE(&sb->disk);

	pthread_mutex_lock(&sb->info);
	state = sb->record.state;
	if (atomic_load(&sb->doomed)) /* whatever the operation that was interrupted makes of it */
		sb->record.state = SANDBOX_DELETING;
	text = record_encode(&sb->record);
	sb->record.state = state;
	pthread_mutex_unlock(&sb->info);
	return text ? record_write(sb->dirfd, text, durable) : -ENOMEM;
}

void sandbox_set_generation(struct sandbox *sb, unsigned generation, const char *image_id)
{
	LOCK_SCOPE(&sb->info);
	sb->record.generation = generation;
	str_copy(sb->record.image_id, sizeof(sb->record.image_id), image_id);
}

int sandbox_read_memory(struct sandbox *sb, unsigned generation, struct problem *problem,
			struct manifest *ret)
{
	char memory[32];
	_cleanup_fd_ int fd = file_open_dir(sb->dirfd, sandbox_memory_name(generation, memory));
	int r = fd < 0 ? fd : snapshot_open(fd, sb->host->keys, problem, ret);

	if (r)
		problem_errno(problem, r > 0 ? -EBADMSG : r, "memory of sandbox %s", sb->record.id);
	return error_trace(r);
}

bool sandbox_is_its_memory(const struct sandbox *sb, const struct manifest *m, char why[256])
{
	if (!sb->record.image_id[0] || !strcmp(sb->record.image_id, m->image_id))
		return true;
	(void)snprintf(why, 256, /* both have a fixed length */
		       "its memory directory was replaced: it holds image %s, but it slept with %s",
		       m->image_id, sb->record.image_id);
	return false;
}

void sandbox_event(struct sandbox *sb, const char *type, json_t *details)
{
	if (sb->pooled) { /* nobody's, and nobody is to know of it */
		json_decref(details);
		return;
	}
	events_add_owned(sb->host->events, type, sb->record.id, sb->record.owner, details);
}

/* One that comes back to where it was from a state in between has failed to do what it began. */
static void say_state(struct sandbox *sb, enum sandbox_state before, enum sandbox_state state)
{
	sandbox_event(sb, "sandbox.state",
		      json_pack("{s:s, s:s, s:s*}", "state", sandbox_state_name(state), "previous",
				sandbox_state_name(before), "reason",
				state == SANDBOX_FAILED ? sb->record.failure : NULL));
}

int sandbox_set_state(struct sandbox *sb, enum sandbox_state state, bool durable)
{
	enum sandbox_state before = sb->record.state;
	int r;

	assert(sandbox_state_may(before, state));
	pthread_mutex_lock(&sb->info);
	sb->record.state = state;
	sb->charged = sb->charged && state == SANDBOX_WAKING; /* from here on its state counts */
	atomic_store(&sb->compact_cancel, true);	      /* compaction.c */
	if (state == SANDBOX_RUNNING)
		sb->record.started_ns = clock_real_ns();
	pthread_cond_broadcast(&sb->resume.changed);
	pthread_mutex_unlock(&sb->info);
	say_state(sb, before, state);
	r = sandbox_write_record(sb, durable);
	monitor_kick(sb->host);
	return error_trace(r);
}

int sandbox_try_state(struct sandbox *sb, enum sandbox_state state, bool durable)
{
	enum sandbox_state before = sb->record.state;
	int r = sandbox_set_state(sb, state, durable);

	if (r < 0) {
		pthread_mutex_lock(&sb->info);
		sb->record.state = before;
		pthread_mutex_unlock(&sb->info);
	}
	return error_trace(r);
}

void sandbox_set_manifest(struct sandbox *sb, struct manifest *m)
{
	LOCK_SCOPE(&sb->info);
	manifest_deinit(&sb->manifest);
	sb->manifest = *m;
	sb->record.disk_only = sandbox_is_disk_only(m);
	*m = (struct manifest){0};
}

void sandbox_fail(struct sandbox *sb, const char *fmt, ...)
{
	char why[sizeof(sb->record.failure)];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(why, sizeof(why), fmt, ap); /* cut is fine */
	va_end(ap);
	sandbox_take_down(sb);
	pthread_mutex_lock(&sb->info);
	str_copy(sb->record.failure, sizeof(sb->record.failure), why);
	pthread_mutex_unlock(&sb->info);
	if (sandbox_set_state(sb, SANDBOX_FAILED, true) < 0)
		log_error("sandbox=%s its failure could not be recorded on disk", sb->record.id);
	if (!atomic_load(&sb->doomed)) /* else it is our doing */
		log_error("sandbox=%s failed: %s", sb->record.id, why);
}

void sandbox_fail_asking_pager(struct sandbox *sb, const char *why)
{
	struct problem p = PROBLEM_INIT;

	sandbox_ask_pager(sb, &p);
	sandbox_fail(sb, "its VM ended: %s", problem_is_set(&p) ? p.message : why);
}

void sandbox_discard(struct sandbox *sb)
{
	struct problem p = PROBLEM_INIT;
	char name[64];

	(void)op_step(sb, STEP_END);
	sandbox_take_down(sb);
	(void)op_step(sb, STEP_REMOVE);
	sandbox_remove(sb);
	(void)snprintf(name, sizeof(name), "sandboxes/%s", sb->record.id); /* fixed length */
	if (snapshot_delete(sb->host->store->root_fd, name, &p) < 0)
		log_error("sandbox=%s its directory could not be removed: %s", sb->record.id,
			  p.message);
	sandbox_event(sb, "sandbox.deleted", NULL);
}

void sandbox_settle(struct sandbox *sb, enum sandbox_state state, bool durable)
{
	int r = sandbox_set_state(sb, state, durable);

	if (r < 0)
		log_error("sandbox=%s state=%s could not be recorded: %s", sb->record.id,
			  sandbox_state_name(state), strerrordesc_np(-r));
}

int sandbox_wrong_state(struct sandbox *sb, const char *verb, struct problem *problem)
{
	if (sb->record.state == SANDBOX_FAILED)
		problem_set(problem, 409, "sandbox %s has failed: %.300s", sb->record.id,
			    sb->record.failure);
	else
		problem_set(problem, 409, "sandbox %s is %s and cannot be %s", sb->record.id,
			    sandbox_state_name(sb->record.state), verb);
	if (sb->record.state == SANDBOX_FAILED)
		problem_hint(problem, "a failed sandbox can only be deleted");
	else if (sb->record.state == SANDBOX_ASLEEP)
		problem_hint(problem, "wake it first");
	return -EBUSY;
}

uint64_t sandbox_end_after(uint64_t timeout_s)
{
	const uint64_t year = 366ull * 86400;

	return timeout_s ? clock_real_ns() + MIN(timeout_s, 100 * year) * NSEC_PER_SEC : 0;
}
