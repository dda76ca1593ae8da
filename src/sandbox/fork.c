/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork.c - copies of a sandbox: snapshots, and sandboxes that go on from where it is
 *
 * A running source is saved in a pause, a sleeping one is linked; either way the result is a
 * directory of its own, to which the source means nothing any more. A fork's directory is linked
 * from that point, which lies in tmp/ and goes when all forks have been made.
 */
#include "sandbox/private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "sandbox/pool.h"
#include "sandbox/metrics.h"
#include "sandbox/trace.h"

#define FORK_MAX	 1000u
#define FORK_THREADS_MAX 8u

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
		r = snapshot_clone(sb->host->store->root_fd, sb->host->store->root, from,
				   sb->host->keys, final, id, problem);
		timings->total_ns = clock_now_ns() - t0;
		return error_trace(r);
	}
	if (sb->record.state != SANDBOX_RUNNING)
		return sandbox_wrong_state(sb, verb, problem);
	r = op_step(sb, STEP_BEGIN);
	if (r < 0) {
		op_explain(sb, r, problem);
		problem_errno(problem, r, "pausing sandbox %s", sb->record.id);
		return error_trace(r);
	}
	sandbox_await_pager(sb);
	sandbox_settle(sb, SANDBOX_PAUSING, false);
	r = sandbox_save(sb, final, id, name, &sb->host->sleep_options, problem, timings, &m);
	if (r == 0) {
		manifest_deinit(&m);
		(void)op_step(sb, STEP_CONTINUE);
		(void)sandbox_run_on(sb,
				     NULL); /* fails the sandbox; the copy is good all the same */
	}
	op_explain(sb, r, problem);
	if (sb->record.state == SANDBOX_PAUSING)
		sandbox_settle(sb, SANDBOX_RUNNING, false);
	return error_trace(r);
}

int sandbox_snapshot(struct host *host, const char *id, const char *name, struct problem *problem,
		     char ret_id[ID_LEN + 1], struct sandbox_save_timings *ret_timings)
{
	_cleanup_op_ struct sandbox *sb = NULL;
	uint64_t t0 = clock_now_ns();
	char final[64];
	int r;

	if (name && !str_is_name(name)) {
		problem_set(problem, 400, "name: '%.64s' is not a name", name);
		problem_hint(problem, "1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit");
		return -EINVAL;
	}
	sb = sandbox_op_begin(host, id, problem);
	if (!sb)
		return -ENOENT;
	op_begin(sb, OP_SNAPSHOT);
	if (sb->record.state == SANDBOX_ASLEEP && sb->record.disk_only) {
		problem_set(problem, 409,
			    "sandbox %s sleeps without its memory, and a snapshot has one", id);
		problem_hint(problem, "wake it first; or fork it");
		return -EOPNOTSUPP;
	}
	id_new('s', ret_id);
	(void)snprintf(final, sizeof(final), "snapshots/%s", ret_id); /* fixed length */
	r = copy_out(sb, "snapshotted", final, ret_id, name, problem, ret_timings);
	if (r == 0 && name) {
		r = op_step(sb, STEP_NAME);
		if (r == 0)
			r = store_template_set(host->store, name, ret_id);
		if (r < 0) {
			problem_errno(problem, r, "naming snapshot %s '%s'", ret_id, name);
			(void)snapshot_delete(host->store->root_fd, final,
					      NULL); /* the error counts */
		}
	}
	if (r == 0)
		(void)op_step(sb, STEP_REPLY);
	if (name)
		pool_recheck(host->pool);
	metrics_op(METRICS_SNAPSHOT, r, t0);
	if (r == 0)
		sandbox_event(sb, "snapshot.created",
			      json_pack("{s:s, s:s*}", "snapshotID", ret_id, "name", name));
	return error_trace(r);
}

struct fork_job {
	char request[LOG_REQUEST_MAX + 1];
	struct trace *traces; /* one for each, or NULL */
	struct host *host;
	int from;
	struct record like;
	const struct sandbox_memory_options *memory;
	struct sandbox_fork *forks;
	unsigned count;
	atomic_uint next;
	atomic_int refused; /* by admission: the rest need not wait as long for the same answer */
};

/* Each waits for room and its turn, and until then holds nothing. */
static int fork_one(struct fork_job *job, const struct record *like, struct sandbox_fork *f)
{
	const struct admit_ask ask = {.verb = "a fork", .template_id = like->template_id};
	struct admission_ticket ticket = {0};
	int r = atomic_load(&job->refused);

	if (r < 0) {
		problem_set(&f->problem, 503, "there was no room for the forks before this one");
		problem_code(&f->problem, ADMISSION_CODE);
		return r;
	}
	r = host_admit(job->host, &ask, &f->problem, &ticket);
	if (r < 0) {
		atomic_store(&job->refused, r);
		return r;
	}
	r = sandbox_create_from(job->host, job->from, like, job->memory, &f->problem, f->id,
				&f->timings);
	f->timings.queue_ns = ticket.waited_ns;
	host_admitted(job->host, &ticket, r == 0 ? f->id : NULL);
	return r;
}

static void *fork_worker(void *arg)
{
	struct fork_job *job = arg;
	unsigned i;

	log_set_request(job->request);

	while ((i = atomic_fetch_add(&job->next, 1)) < job->count) {
		struct sandbox_fork *f = &job->forks[i];
		uint64_t t0 = clock_now_ns();

		struct record like = job->like; /* metadata and envs stay the job's */

		f->problem = PROBLEM_INIT;
		if (like.token[0])
			record_new_token(&like); /* the source's would open it to others */
		memcpy(f->token, like.token, sizeof(f->token));
		if (job->traces)
			trace_begin(&job->traces[i]);
		f->result = fork_one(job, &like, f);
		metrics_op(METRICS_FORK, f->result, t0);
		trace_add("fork", t0, clock_now_ns());
		if (job->traces)
			trace_end();
	}
	return NULL;
}

static void fork_all(struct fork_job *job)
{
	pthread_t threads[FORK_THREADS_MAX];
	unsigned n = MIN(2u * (unsigned)get_nprocs(), FORK_THREADS_MAX), started = 0;

	str_copy(job->request, sizeof(job->request), log_request());
	n = MIN(n, job->count);
	while (started + 1 < n && pthread_create(&threads[started], NULL, fork_worker, job) == 0)
		started++;
	fork_worker(job); /* this thread is one of them */
	for (unsigned i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
}

static int check_count(unsigned count, struct problem *problem)
{
	if (count >= 1 && count <= FORK_MAX)
		return 0;
	problem_set(problem, 400, "count: %u is not between 1 and %u", count, FORK_MAX);
	return -EINVAL;
}

/* The thread's own trace gets a lane for each copy. */
static void fork_all_traced(struct fork_job *job)
{
	struct trace *all = trace_now();

	if (all)
		job->traces = calloc(job->count, sizeof(*job->traces)); /* NULL: none */
	fork_all(job);
	if (all)
		trace_begin(all);
	for (unsigned i = 0; job->traces && i < job->count; i++) {
		trace_join(all, &job->traces[i], i + 1);
		trace_deinit(&job->traces[i]);
	}
	free(job->traces);
}

static void say_forked(struct host *host, const char *id, const char *owner,
		       const struct sandbox_fork *forks, unsigned count)
{
	unsigned made = 0;

	for (unsigned i = 0; i < count; i++)
		made += forks[i].result == 0;
	events_add_owned(host->events, "sandbox.forked", id, owner,
			 json_pack("{s:i, s:i}", "count", (int)count, "made", (int)made));
}

int sandbox_fork(struct host *host, const char *id, unsigned count, uint64_t timeout_s,
		 const struct sandbox_memory_options *memory, json_t *network, const char *owner,
		 struct problem *problem, struct sandbox_fork *forks)
{
	struct fork_job job = {
		.host = host, .from = -1, .memory = memory, .forks = forks, .count = count};
	struct sandbox_save_timings timings = {0};
	uint64_t t0 = clock_now_ns();
	struct sandbox *sb;
	_cleanup_work_ struct host *work = work_begin(host, problem);
	char point[64], fork_id[ID_LEN + 1];
	int r = work ? check_count(count, problem) : -EAGAIN;

	if (r == 0)
		r = quota_check(host, owner, problem);
	if (r < 0)
		return r;
	sb = sandbox_op_begin(host, id, problem);
	if (!sb)
		return -ENOENT;
	op_begin(sb, OP_FORK);
	/* The fork point lives in tmp/: gone after a crash, and every fork has links of its own. */
	id_new(SANDBOX_MEMORY_PREFIX, fork_id);
	(void)snprintf(point, sizeof(point), "tmp/fork-%s", fork_id); /* fixed length */
	trace_add("queue", t0, clock_now_ns());
	t0 = clock_now_ns();
	r = copy_out(sb, "forked", point, fork_id, NULL, problem, &timings);
	metrics_op(METRICS_FORK_POINT, r, t0);
	trace_add("fork point", t0, clock_now_ns());
	memcpy(job.like.template_id, sb->record.template_id, sizeof(job.like.template_id));
	memcpy(job.like.token, sb->record.token, sizeof(job.like.token));
	job.like.metadata = json_incref(sb->record.metadata);
	job.like.envs = json_incref(sb->record.envs);
	if (!json_is_null(network))
		job.like.network = json_incref(network ? network : sb->record.network);
	job.like.auto_pause = sb->record.auto_pause;
	job.like.auto_pause_disk = sb->record.auto_pause_disk;
	job.like.auto_resume = sb->record.auto_resume;
	str_copy(job.like.owner, sizeof(job.like.owner), owner);
	memcpy(job.like.traffic_token, sb->record.traffic_token, sizeof(job.like.traffic_token));
	memcpy(job.like.mask_host, sb->record.mask_host, sizeof(job.like.mask_host));
	job.like.end_ns = sandbox_end_after(timeout_s);
	if (r == 0)
		r = op_step(sb, STEP_COPIES);
	problem_errno(r < 0 ? problem : NULL, r, "forking sandbox %s", id);
	job.like.timeout_s = timeout_s;
	sandbox_op_endp(&sb);
	if (r == 0) {
		job.from = file_open_dir(host->store->root_fd, point);
		r = job.from < 0 ? job.from : 0;
	}
	if (r == 0) {
		fork_all_traced(&job);
		say_forked(host, id, job.like.owner, forks, count);
	}
	(void)snapshot_delete(host->store->root_fd, point, NULL); /* emptied at start anyway */
	fd_close(job.from);
	json_decref(job.like.metadata);
	json_decref(job.like.envs);
	json_decref(job.like.network);
	return error_trace(r);
}
