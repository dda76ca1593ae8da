/* SPDX-License-Identifier: Apache-2.0 */
#include "api/job.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"

#define PROGRESS_EVERY_MS 200
#define ALIVE_EVERY_MS	  1000
#define MAX_WAITING	  (4u << 20) /* lines that a slow client has not read */
#define SLOW_MS		  10

struct job {
	struct host *host;
	job_task task;
	void *arg;
	char request[LOG_REQUEST_MAX + 1];
	pthread_t thread;
	atomic_bool cancelled;
	uint64_t last_ns; /* the task's: when it last said how far it is */

	pthread_mutex_t lock;
	pthread_cond_t more;
	/* lock */
	struct buf lines;
	uint64_t n_done, n_total;
	bool over;
};

/* ---- the task's side --------------------------------------------------------------------------
 */

static bool is_full(struct job *job)
{
	LOCK_SCOPE(&job->lock);
	return job->lines.len > MAX_WAITING;
}

void job_line(struct job *job, json_t *o)
{
	_cleanup_free_ char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;

	json_decref(o);
	while (is_full(job) && !job_cancelled(job))
		clock_sleep_ms(SLOW_MS);
	LOCK_SCOPE(&job->lock);
	if (text)
		(void)buf_printf(&job->lines, "%s\n", text); /* a line lost is bearable */
	pthread_cond_signal(&job->more);
}

void job_progress(void *userdata, uint64_t done, uint64_t total)
{
	struct job *job = userdata;
	uint64_t now = clock_now_ns();

	pthread_mutex_lock(&job->lock);
	job->n_done = done;
	job->n_total = total;
	pthread_mutex_unlock(&job->lock);
	if (now - job->last_ns < PROGRESS_EVERY_MS * NSEC_PER_MSEC)
		return;
	job->last_ns = now;
	job_line(job,
		 json_pack("{s:I, s:I}", "done", (json_int_t)done, "total", (json_int_t)total));
}

bool job_cancelled(void *userdata)
{
	struct job *job = userdata;

	return atomic_load(&job->cancelled);
}

struct host_task job_host_task(struct job *job)
{
	return (struct host_task){
		.cancelled = job_cancelled, .progress = job_progress, .userdata = job};
}

static json_t *failure(struct problem *p, int r)
{
	return json_pack("{s:b, s:o}", "ok", 0, "error", reply_problem(p, r));
}

static json_t *success(json_t *result)
{
	json_t *o = json_pack("{s:b}", "ok", 1);

	if (o && result)
		(void)json_object_update(o, result); /* without memory its numbers are missing */
	json_decref(result);
	return o;
}

static void *job_main(void *arg)
{
	struct job *job = arg;
	struct problem p = PROBLEM_INIT;
	json_t *result = NULL;
	int r;

	log_set_request(job->request);
	r = job->task(job, job->host, job->arg, &p, &result);
	job_line(job, r < 0 ? failure(&p, r) : success(result));
	LOCK_SCOPE(&job->lock);
	job->over = true;
	pthread_cond_signal(&job->more);
	return NULL;
}

/* ---- the connection's side --------------------------------------------------------------------
 */

/* Nothing for a second: a line all the same, which is how a client that has gone is noticed. */
static void wait_for_lines(struct job *job)
{
	struct timespec until;
	uint64_t ns = clock_now_ns() + ALIVE_EVERY_MS * NSEC_PER_MSEC;
	int r = 0;

	until = (struct timespec){.tv_sec = (time_t)(ns / NSEC_PER_SEC),
				  .tv_nsec = (long)(ns % NSEC_PER_SEC)};
	while (!job->lines.len && !job->over && r == 0)
		r = pthread_cond_timedwait(&job->more, &job->lock, &until);
	if (!job->lines.len && !job->over)
		(void)buf_printf(&job->lines, "{\"done\":%llu,\"total\":%llu}\n",
				 (unsigned long long)job->n_done, (unsigned long long)job->n_total);
}

static ssize_t job_read(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct job *job = cls;
	size_t n;

	LOCK_SCOPE(&job->lock);
	wait_for_lines(job);
	n = MIN(max, job->lines.len);
	if (!n)
		return job->over ? MHD_CONTENT_READER_END_OF_STREAM
				 : MHD_CONTENT_READER_END_WITH_ERROR;
	memcpy(buf, job->lines.data, n);
	buf_consume(&job->lines, n);
	return (ssize_t)n;
}

static void job_destroy(struct job *job)
{
	pthread_mutex_destroy(&job->lock);
	pthread_cond_destroy(&job->more);
	buf_deinit(&job->lines);
	free(job->arg);
	free(job);
}

static void job_free(void *cls)
{
	struct job *job = cls;

	atomic_store(&job->cancelled, true);
	pthread_join(job->thread, NULL);
	job_destroy(job);
}

static struct job *job_new(struct host *host, job_task task, void *arg)
{
	struct job *job = calloc(1, sizeof(*job));
	pthread_condattr_t attr;

	if (!job) {
		free(arg);
		return NULL;
	}
	job->host = host;
	str_copy(job->request, sizeof(job->request), log_request());
	job->task = task;
	job->arg = arg;
	pthread_mutex_init(&job->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* as clock_now_ns() */
	pthread_cond_init(&job->more, &attr);
	pthread_condattr_destroy(&attr);
	return job;
}

int job_start(struct host *host, job_task task, void *arg, struct reply *y)
{
	struct job *job = job_new(host, task, arg);
	int r;

	if (!job)
		return -ENOMEM;
	r = -pthread_create(&job->thread, NULL, job_main, job);
	if (r < 0) {
		job_destroy(job);
		return r;
	}
	return reply_stream(y, "application/x-ndjson", MHD_SIZE_UNKNOWN, job_read, job, job_free);
}
