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

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"

#define FORK_MAX           1000u
#define EXPIRE_AGAIN_NS    (60 * NSEC_PER_SEC)
#define FORK_THREADS_MAX   8u
#define FORK_FORECAST      (40ull << 20) /* what one VMM takes before its guest has written much */

/* ---- objects and the table -------------------------------------------------------------------- */

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

int sandbox_new(struct host *host, const struct record *record, bool make_dir,
		struct problem *problem, struct sandbox **ret)
{
	struct sandbox *sb = calloc(1, sizeof(*sb));
	int r;

	if (!sb)
		return -ENOMEM;
	sb->host = host;
	sb->refs = 1;
	sb->dirfd = sb->memory_fd = -1;
	pthread_mutex_init(&sb->op, NULL);
	pthread_mutex_init(&sb->info, NULL);
	pthread_mutex_init(&sb->disk, NULL);
	sb->record = *record;
	json_incref(sb->record.metadata);
	json_incref(sb->record.envs);
	sb->path = str_printf("%s/sandboxes/%s", host->store->root, record->id);
	r = sb->path ? open_dir(host, record->id, make_dir, &sb->dirfd) : -ENOMEM;
	if (r == 0 && make_dir)
		r = sandbox_write_record(sb, false);
	if (r < 0) {
		problem_errno(problem, r, "directory of sandbox %s", record->id);
		if (make_dir && sb->dirfd >= 0)
			(void)snapshot_delete(host->store->root_fd, sb->path + strlen(host->store->root) + 1,
					      NULL);
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
	channel_free(sb->channel);
	vmm_free(sb->vmm);
	fd_close(sb->memory_fd);
	fd_close(sb->dirfd);
	free(sb->path);
	record_deinit(&sb->record);
	manifest_deinit(&sb->manifest);
	pthread_mutex_destroy(&sb->info);
	pthread_mutex_destroy(&sb->disk);
	pthread_mutex_destroy(&sb->op);
	free(sb);
	return NULL;
}

int sandbox_insert(struct sandbox *sb)
{
	struct host *host = sb->host;

	LOCK_SCOPE(&host->lock);
	if (host->n_sandboxes == host->cap_sandboxes) {
		size_t cap = host->cap_sandboxes ? 2 * host->cap_sandboxes : 64;
		struct sandbox **p = realloc(host->sandboxes, cap * sizeof(*p));

		if (!p)
			return -ENOMEM;
		host->sandboxes = p;
		host->cap_sandboxes = cap;
	}
	host->sandboxes[host->n_sandboxes++] = sandbox_ref(sb);
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

struct sandbox *sandbox_find(struct host *host, const char *id, struct problem *problem)
{
	LOCK_SCOPE(&host->lock);
	for (size_t i = 0; i < host->n_sandboxes; i++)
		if (!strcmp(host->sandboxes[i]->record.id, id))
			return sandbox_ref(host->sandboxes[i]);
	problem_set(problem, 404, "there is no sandbox %.64s", id);
	problem_hint(problem, "`dorm ps -a` lists them");
	return NULL;
}

/* ---- locking and states ----------------------------------------------------------------------- */

static void op_unlockp(struct sandbox **sb)
{
	if (*sb) {
		pthread_mutex_unlock(&(*sb)->op);
		sandbox_unref(*sb);
	}
}
#define _cleanup_op_ _cleanup_(op_unlockp)

/* Take the op lock: NULL with a 503 when it stays busy, with a 404 when it is gone. Consumes @sb. */
static struct sandbox *op_lock(struct sandbox *sb, struct problem *problem)
{
	uint64_t deadline = deadline_after_ms(OP_WAIT_MS);
	struct timespec ts = {.tv_sec = (time_t)(deadline / NSEC_PER_SEC),
			      .tv_nsec = (long)(deadline % NSEC_PER_SEC)};

	if (pthread_mutex_clocklock(&sb->op, CLOCK_MONOTONIC, &ts) != 0) {
		problem_set(problem, 503, "sandbox %s is busy with another operation", sb->record.id);
		sandbox_unref(sb);
		return NULL;
	}
	if (sb->gone) {
		problem_set(problem, 404, "there is no sandbox %s", sb->record.id);
		op_unlockp(&sb);
		return NULL;
	}
	return sb;
}

/* Look a sandbox up and take its op lock. */
static struct sandbox *op_begin(struct host *host, const char *id, struct problem *problem)
{
	struct sandbox *sb = sandbox_find(host, id, problem);

	return sb ? op_lock(sb, problem) : NULL;
}

int sandbox_write_record(struct sandbox *sb, bool durable)
{
	_cleanup_free_ char *text = NULL;
	LOCK_SCOPE(&sb->disk);

	pthread_mutex_lock(&sb->info);
	text = record_encode(&sb->record);
	pthread_mutex_unlock(&sb->info);
	return text ? record_write(sb->dirfd, text, durable) : -ENOMEM;
}

int sandbox_set_state(struct sandbox *sb, enum sandbox_state state, bool durable)
{
	int r;

	assert(sandbox_state_may(sb->record.state, state));
	pthread_mutex_lock(&sb->info);
	sb->record.state = state;
	if (state == SANDBOX_RUNNING)
		sb->record.started_ns = clock_real_ns();
	pthread_mutex_unlock(&sb->info);
	r = sandbox_write_record(sb, durable);
	monitor_kick(sb->host);
	return error_trace(r);
}

void sandbox_set_manifest(struct sandbox *sb, struct manifest *m)
{
	LOCK_SCOPE(&sb->info);
	manifest_deinit(&sb->manifest);
	sb->manifest = *m;
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

	sandbox_take_down(sb);
	sandbox_remove(sb);
	(void)snprintf(name, sizeof(name), "sandboxes/%s", sb->record.id); /* fixed length */
	if (snapshot_delete(sb->host->store->root_fd, name, &p) < 0)
		log_error("sandbox=%s its directory could not be removed: %s", sb->record.id, p.message);
}

/* A transition whose record cannot be written still happened in memory: say so, and go on. */
static void settle(struct sandbox *sb, enum sandbox_state state, bool durable)
{
	int r = sandbox_set_state(sb, state, durable);

	if (r < 0)
		log_error("sandbox=%s state=%s could not be recorded: %s", sb->record.id,
			  sandbox_state_name(state), strerrordesc_np(-r));
}

static int wrong_state(struct sandbox *sb, const char *verb, struct problem *problem)
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

static uint64_t end_after(uint64_t timeout_s)
{
	const uint64_t year = 366ull * 86400;

	return timeout_s ? clock_real_ns() + MIN(timeout_s, 100 * year) * NSEC_PER_SEC : 0;
}

/* ---- create ----------------------------------------------------------------------------------- */

/* A sandbox over a clone of the memory directory @from: nothing of it remains if this fails. */
static int create_from(struct host *host, int from, const struct record *like,
		       struct problem *problem, char ret_id[ID_LEN + 1],
		       struct sandbox_timings *timings)
{
	struct record record = *like;
	struct sandbox *sb = NULL;
	struct manifest m;
	uint64_t t0 = clock_now_ns(), cloned;
	char final[96];
	int r;

	id_new('i', record.id);
	record.state = SANDBOX_CREATING;
	record.created_ns = clock_real_ns();
	r = sandbox_new(host, &record, true, problem, &sb);
	if (r < 0)
		return r;
	pthread_mutex_lock(&sb->op);
	(void)snprintf(final, sizeof(final), "sandboxes/%s/memory-0", record.id); /* fits */
	r = sandbox_insert(sb);
	if (r == 0)
		r = snapshot_clone(host->store->root_fd, host->store->root, from, final, NULL, problem);
	if (r == 0)
		r = snapshot_open(from, problem, &m);
	if (r == 0)
		sandbox_set_manifest(sb, &m);
	cloned = clock_now_ns() - t0;
	if (r == 0)
		r = sandbox_bring_up(sb, NULL, sb->manifest.memory_bytes, sb->manifest.cpus, problem,
				     timings);
	if (r == 0) {
		timings->image_ns += cloned;
		timings->total_ns += cloned;
		settle(sb, SANDBOX_RUNNING, false);
		memcpy(ret_id, record.id, ID_LEN + 1);
	} else {
		sandbox_discard(sb);
		problem_errno(problem, r > 0 ? -EBADMSG : r, "creating a sandbox");
	}
	pthread_mutex_unlock(&sb->op);
	sandbox_unref(sb);
	return r > 0 ? -EBADMSG : error_trace(r);
}

static int open_snapshot(struct host *host, const char *id, struct problem *problem)
{
	char path[64];
	int fd;

	(void)snprintf(path, sizeof(path), "snapshots/%s", id); /* ids have a fixed length */
	fd = file_open_dir(host->store->root_fd, path);
	if (fd < 0)
		problem_errno(problem, fd, "snapshot %s", id);
	return fd;
}

int sandbox_create(struct host *host, const struct sandbox_options *options,
		   struct problem *problem, char ret_id[ID_LEN + 1],
		   struct sandbox_timings *ret_timings)
{
	struct record like = {.auto_pause = options->auto_pause,
			      .end_ns = end_after(options->timeout_s),
			      .metadata = options->metadata,
			      .envs = options->envs};
	_cleanup_fd_ int from = -1;
	char snapshot_id[ID_LEN + 1];
	int r;

	r = snapshot_resolve(host, options->template_id, problem, snapshot_id);
	if (r < 0)
		return r;
	from = open_snapshot(host, snapshot_id, problem);
	if (from < 0)
		return from;
	str_copy(like.template_id, sizeof(like.template_id), options->template_id);
	return create_from(host, from, &like, problem, ret_id, ret_timings);
}

/* ---- sleep and wake --------------------------------------------------------------------------- */

static void forget_generation(struct sandbox *sb, unsigned generation)
{
	char path[128], memory[32];
	struct problem p = PROBLEM_INIT;

	(void)snprintf(path, sizeof(path), "sandboxes/%s/%s", sb->record.id,
		       sandbox_memory_name(generation, memory)); /* fits */
	if (snapshot_delete(sb->host->store->root_fd, path, &p) < 0)
		log_warn("sandbox=%s %s could not be removed: %s", sb->record.id, memory, p.message);
}

/* The new memory is on disk: make it the truth, then end the VM. */
static int fall_asleep(struct sandbox *sb, struct manifest *m, struct problem *problem)
{
	unsigned old = sb->record.generation;
	int r;

	pthread_mutex_lock(&sb->info);
	sb->record.generation = old + 1;
	pthread_mutex_unlock(&sb->info);
	r = sandbox_set_state(sb, SANDBOX_ASLEEP, true);
	if (r < 0) {
		problem_errno(problem, r, "recording that sandbox %s is asleep", sb->record.id);
		pthread_mutex_lock(&sb->info);
		sb->record.generation = old;
		sb->record.state = SANDBOX_PAUSING;
		pthread_mutex_unlock(&sb->info);
		forget_generation(sb, old + 1);
		manifest_deinit(m);
		return error_trace(r);
	}
	sandbox_take_down(sb);
	sandbox_set_manifest(sb, m);
	forget_generation(sb, old);
	return 0;
}

static int sleep_locked(struct sandbox *sb, struct problem *problem,
			struct sandbox_save_timings *timings)
{
	struct manifest m;
	char final[128], memory[32], id[ID_LEN + 1];
	int r;

	if (sb->record.state != SANDBOX_RUNNING)
		return wrong_state(sb, "put to sleep", problem);
	id_new('s', id);
	(void)snprintf(final, sizeof(final), "sandboxes/%s/%s", sb->record.id,
		       sandbox_memory_name(sb->record.generation + 1, memory)); /* fits */
	settle(sb, SANDBOX_PAUSING, false);
	r = sandbox_save(sb, final, id, NULL, problem, timings, &m);
	if (r == 0) {
		r = fall_asleep(sb, &m, problem);
		if (r == 0)
			return 0;
		(void)sandbox_run_on(sb, NULL); /* logs and records it when that fails too */
	}
	if (sb->record.state == SANDBOX_PAUSING)
		settle(sb, SANDBOX_RUNNING, false);
	return error_trace(r);
}

int sandbox_sleep(struct host *host, const char *id, struct problem *problem,
		  struct sandbox_save_timings *ret_timings)
{
	_cleanup_op_ struct sandbox *sb = op_begin(host, id, problem);

	return sb ? sleep_locked(sb, problem, ret_timings) : -ENOENT;
}

static void extend(struct sandbox *sb, uint64_t timeout_s)
{
	/* one whose time was up while it slept is not to fall asleep again at once */
	uint64_t end = timeout_s ? end_after(timeout_s) : clock_real_ns() + EXPIRE_AGAIN_NS;

	pthread_mutex_lock(&sb->info);
	if (sb->record.end_ns && (timeout_s || sb->record.end_ns < clock_real_ns()))
		sb->record.end_ns = MAX(sb->record.end_ns, end);
	pthread_mutex_unlock(&sb->info);
	monitor_kick(sb->host);
}

int sandbox_wake(struct host *host, const char *id, uint64_t timeout_s, struct problem *problem,
		 struct sandbox_timings *ret_timings)
{
	_cleanup_op_ struct sandbox *sb = op_begin(host, id, problem);
	int r;

	if (!sb)
		return -ENOENT;
	if (sb->record.state == SANDBOX_RUNNING) {
		extend(sb, timeout_s);
		r = sandbox_write_record(sb, false);
		return r < 0 ? error_trace(r) : 1;
	}
	if (sb->record.state != SANDBOX_ASLEEP)
		return wrong_state(sb, "woken", problem);
	settle(sb, SANDBOX_WAKING, false);
	r = sandbox_bring_up(sb, NULL, sb->manifest.memory_bytes, sb->manifest.cpus, problem,
			     ret_timings);
	if (r == 0)
		extend(sb, timeout_s);
	/* Durable: a host that goes down now must not find it asleep at a point it has left behind. */
	settle(sb, r == 0 ? SANDBOX_RUNNING : SANDBOX_ASLEEP, true);
	return error_trace(r);
}

/* ---- snapshot and fork ------------------------------------------------------------------------ */

/* Save a running sandbox, or clone a sleeping one, to @final. The sandbox goes on as it was. */
static int copy_out(struct sandbox *sb, const char *verb, const char *final, const char *id,
		    const char *name, struct problem *problem, struct sandbox_save_timings *timings)
{
	struct manifest m;
	int r;

	if (sb->record.state == SANDBOX_ASLEEP) {
		char memory[32];
		_cleanup_fd_ int from = file_open_dir(
			sb->dirfd, sandbox_memory_name(sb->record.generation, memory));
		uint64_t t0 = clock_now_ns();

		if (from < 0)
			return error_trace(from);
		r = snapshot_clone(sb->host->store->root_fd, sb->host->store->root, from, final, id,
				   problem);
		timings->total_ns = clock_now_ns() - t0;
		return error_trace(r);
	}
	if (sb->record.state != SANDBOX_RUNNING)
		return wrong_state(sb, verb, problem);
	settle(sb, SANDBOX_PAUSING, false);
	r = sandbox_save(sb, final, id, name, problem, timings, &m);
	if (r == 0) {
		manifest_deinit(&m);
		(void)sandbox_run_on(sb, NULL); /* fails the sandbox; the copy is good all the same */
	}
	if (sb->record.state == SANDBOX_PAUSING)
		settle(sb, SANDBOX_RUNNING, false);
	return error_trace(r);
}

int sandbox_snapshot(struct host *host, const char *id, const char *name, struct problem *problem,
		     char ret_id[ID_LEN + 1], struct sandbox_save_timings *ret_timings)
{
	_cleanup_op_ struct sandbox *sb = NULL;
	char final[64];
	int r;

	if (name && !str_is_name(name)) {
		problem_set(problem, 400, "name: '%.64s' is not a name", name);
		problem_hint(problem, "1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit");
		return -EINVAL;
	}
	sb = op_begin(host, id, problem);
	if (!sb)
		return -ENOENT;
	id_new('s', ret_id);
	(void)snprintf(final, sizeof(final), "snapshots/%s", ret_id); /* fixed length */
	r = copy_out(sb, "snapshotted", final, ret_id, name, problem, ret_timings);
	if (r == 0 && name) {
		r = store_template_set(host->store, name, ret_id);
		if (r < 0) {
			problem_errno(problem, r, "naming snapshot %s '%s'", ret_id, name);
			(void)snapshot_delete(host->store->root_fd, final, NULL); /* the error counts */
		}
	}
	return error_trace(r);
}

struct fork_job {
	struct host *host;
	int from;
	struct record like;
	struct sandbox_fork *forks;
	unsigned count;
	atomic_uint next;
};

static void *fork_worker(void *arg)
{
	struct fork_job *job = arg;
	unsigned i;

	while ((i = atomic_fetch_add(&job->next, 1)) < job->count) {
		struct sandbox_fork *f = &job->forks[i];

		f->problem = PROBLEM_INIT;
		f->result = create_from(job->host, job->from, &job->like, &f->problem, f->id,
					&f->timings);
	}
	return NULL;
}

static void fork_all(struct fork_job *job)
{
	pthread_t threads[FORK_THREADS_MAX];
	unsigned n = MIN(2u * (unsigned)get_nprocs(), FORK_THREADS_MAX), started = 0;

	n = MIN(n, job->count);
	while (started + 1 < n && pthread_create(&threads[started], NULL, fork_worker, job) == 0)
		started++;
	fork_worker(job); /* this thread is one of them */
	for (unsigned i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
}

static int admit_forks(unsigned count, struct problem *problem)
{
	unsigned long long available = 0;
	_cleanup_free_ char *text = NULL;
	const char *p;

	if (count < 1 || count > FORK_MAX) {
		problem_set(problem, 400, "count: %u is not between 1 and %u", count, FORK_MAX);
		return -EINVAL;
	}
	if (file_read(AT_FDCWD, "/proc/meminfo", 65536, &text, NULL) == 0 &&
	    (p = strstr(text, "MemAvailable:")) && sscanf(p, "MemAvailable: %llu", &available) == 1 &&
	    (available << 10) < count * FORK_FORECAST) {
		char need[16], have[16];

		problem_set(problem, 503, "%u forks need about %s of memory, %s are available", count,
			    str_format_bytes(count * FORK_FORECAST, need),
			    str_format_bytes(available << 10, have));
		problem_hint(problem, "fork fewer, or put other sandboxes to sleep");
		return -ENOMEM;
	}
	return 0;
}

int sandbox_fork(struct host *host, const char *id, unsigned count, uint64_t timeout_s,
		 struct problem *problem, struct sandbox_fork *forks)
{
	struct fork_job job = {.host = host, .from = -1, .forks = forks, .count = count};
	struct sandbox_save_timings timings = {0};
	struct sandbox *sb;
	char point[64], fork_id[ID_LEN + 1];
	int r = admit_forks(count, problem);

	if (r < 0)
		return r;
	sb = op_begin(host, id, problem);
	if (!sb)
		return -ENOENT;
	/* The fork point lives in tmp/: gone after a crash, and every fork has links of its own. */
	id_new('s', fork_id);
	(void)snprintf(point, sizeof(point), "tmp/fork-%s", fork_id); /* fixed length */
	r = copy_out(sb, "forked", point, fork_id, NULL, problem, &timings);
	memcpy(job.like.template_id, sb->record.template_id, sizeof(job.like.template_id));
	job.like.metadata = json_incref(sb->record.metadata);
	job.like.envs = json_incref(sb->record.envs);
	job.like.auto_pause = sb->record.auto_pause;
	job.like.end_ns = end_after(timeout_s);
	op_unlockp(&sb);
	if (r == 0) {
		job.from = file_open_dir(host->store->root_fd, point);
		r = job.from < 0 ? job.from : 0;
	}
	if (r == 0) {
		fork_all(&job);
		(void)snapshot_delete(host->store->root_fd, point, NULL); /* emptied at start anyway */
	}
	fd_close(job.from);
	json_decref(job.like.metadata);
	json_decref(job.like.envs);
	return error_trace(r);
}

/* ---- delete, timeout -------------------------------------------------------------------------- */

int sandbox_delete(struct host *host, const char *id, struct problem *problem)
{
	_cleanup_op_ struct sandbox *sb = op_begin(host, id, problem);

	if (!sb)
		return -ENOENT;
	settle(sb, SANDBOX_DELETING, false); /* the rename that follows is what counts */
	sandbox_discard(sb);
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
	} else if ((state == SANDBOX_RUNNING || state == SANDBOX_ASLEEP) && !sb->record.auto_pause) {
		settle(sb, SANDBOX_DELETING, false);
		sandbox_discard(sb);
	} else {
		return 0;
	}
	if (r == 0)
		log_info("sandbox=%s time is up: %s", sb->record.id,
			 sandbox_state_name(sb->record.state));
	return error_trace(r);
}

int sandbox_expire(struct sandbox *sb, struct problem *problem)
{
	_cleanup_op_ struct sandbox *locked = op_lock(sandbox_ref(sb), problem);
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
		r = wrong_state(sb, "given more time", problem);
	else
		sb->record.end_ns = timeout_s ? end_after(timeout_s) : clock_real_ns();
	pthread_mutex_unlock(&sb->info);
	if (r == 0)
		r = sandbox_write_record(sb, durable);
	monitor_kick(host);
	return error_trace(r);
}

/* ---- looking ---------------------------------------------------------------------------------- */

void sandbox_info_deinit(struct sandbox_info *info)
{
	json_decref(info->metadata);
	*info = (struct sandbox_info){0};
}

static void fill_info(struct sandbox *sb, struct sandbox_info *ret)
{
	LOCK_SCOPE(&sb->info);
	*ret = (struct sandbox_info){
		.state = sb->record.state,
		.created_ns = sb->record.created_ns,
		.started_ns = sb->record.started_ns ? sb->record.started_ns : sb->record.created_ns,
		.end_ns = sb->record.end_ns,
		.auto_pause = sb->record.auto_pause,
		.cpus = sb->manifest.cpus,
		.memory_bytes = sb->manifest.memory_bytes,
		.metadata = json_incref(sb->record.metadata),
	};
	memcpy(ret->id, sb->record.id, sizeof(ret->id));
	memcpy(ret->template_id, sb->record.template_id, sizeof(ret->template_id));
	memcpy(ret->failure, sb->record.failure, sizeof(ret->failure));
	for (uint32_t i = 0; i < sb->manifest.n_disks; i++)
		ret->disk_bytes += sb->manifest.disks[i].size;
}

int sandbox_info(struct host *host, const char *id, struct problem *problem,
		 struct sandbox_info *ret)
{
	_cleanup_(sandbox_unrefp) struct sandbox *sb = sandbox_find(host, id, problem);

	if (!sb)
		return -ENOENT;
	fill_info(sb, ret);
	return 0;
}

int sandbox_each(struct host *host, sandbox_visit visit, void *userdata)
{
	_cleanup_free_ struct sandbox **all = NULL;
	size_t n;

	pthread_mutex_lock(&host->lock);
	n = host->n_sandboxes;
	all = calloc(n + 1, sizeof(*all));
	for (size_t i = 0; all && i < n; i++)
		all[i] = sandbox_ref(host->sandboxes[i]);
	pthread_mutex_unlock(&host->lock);
	if (!all)
		return -ENOMEM;
	for (size_t i = n; i-- > 0;) {
		struct sandbox_info info;

		fill_info(all[i], &info);
		if (info.state != SANDBOX_CREATING && info.state != SANDBOX_DELETING)
			visit(userdata, &info);
		sandbox_info_deinit(&info);
		sandbox_unref(all[i]);
	}
	return 0;
}

static json_t *describe_memory(struct sandbox *sb)
{
	const struct image_writer_stats *st = &sb->manifest.stats;
	struct vmm_memory_use use = {0};
	json_t *pager = NULL, *o;

	if (sb->vmm)
		(void)vmm_memory_use(sb->vmm, &use); /* a VM that is just dying shows zeros */
	if (sb->pager_pid)
		(void)pager_client_session_stats(sb->host->pager, sb->record.id,
						 deadline_after_ms(1000), &pager); /* null then */
	o = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:{s:s, s:I, s:I, s:I}, s:o}",
		      "sandboxID", sb->record.id, "status", sandbox_state_name(sb->record.state),
		      "memoryBytes", (json_int_t)sb->manifest.memory_bytes, "ownBytes",
		      (json_int_t)(use.private_pages * DORM_PAGE_SIZE), "sharedBytes",
		      (json_int_t)(use.shared_pages * DORM_PAGE_SIZE), "vmmRssBytes",
		      (json_int_t)use.rss_bytes, "vmmPssBytes", (json_int_t)use.pss_bytes,
		      "vmmPrivateBytes", (json_int_t)use.private_bytes, "stored", "imageID",
		      sb->manifest.image_id, "layerBytes", (json_int_t)st->bytes_stored, "layerPages",
		      (json_int_t)st->pages_stored, "mapBytes", (json_int_t)st->map_bytes, "pager",
		      pager ? pager : json_null());
	return o;
}

int sandbox_memory(struct host *host, const char *id, struct problem *problem, json_t **ret)
{
	_cleanup_op_ struct sandbox *sb = op_begin(host, id, problem);
	json_t *o;

	if (!sb)
		return -ENOENT;
	o = describe_memory(sb);
	if (!o)
		return -ENOMEM;
	*ret = o;
	return 0;
}

/* ---- leases ----------------------------------------------------------------------------------- */

int sandbox_lease(struct host *host, const char *id, struct problem *problem,
		  struct sandbox_lease *ret)
{
	_cleanup_(sandbox_unrefp) struct sandbox *sb = sandbox_find(host, id, NULL);
	enum sandbox_state state = SANDBOX_FAILED;
	struct channel *channel = NULL;

	if (sb) {
		LOCK_SCOPE(&sb->info);
		state = sb->record.state;
		if (sb->channel && channel_is_open(sb->channel))
			channel = channel_ref(sb->channel);
	}
	if (channel) {
		*ret = (struct sandbox_lease){.channel = channel};
		return 0;
	}
	/* the text that clients match; pausing and waking are worth a retry */
	if (state == SANDBOX_PAUSING || state == SANDBOX_WAKING)
		problem_set(problem, 409, "The sandbox is changing state");
	else
		problem_set(problem, 502, "The sandbox was not found");
	if (state == SANDBOX_RUNNING) {
		problem_hint(problem, "sandbox %s is running but its guest does not answer", id);
		sandbox_reconnect(sb);
	} else if (sb) {
		problem_hint(problem, "sandbox %s is %s", id, sandbox_state_name(state));
	}
	return sb ? -ENOTCONN : -ENOENT;
}

void sandbox_lease_return(struct sandbox_lease *lease)
{
	channel_free(lease->channel);
	*lease = (struct sandbox_lease){0};
}
