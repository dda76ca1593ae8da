/* SPDX-License-Identifier: Apache-2.0 */
/* control-store.c - the store as a whole: check, repair, usage, key rotation */
#include "api/routes.h"

#include <errno.h>

#include "api/fields.h"
#include "api/job.h"
#include "base/mem.h"
#include "sandbox/store-task.h"

int control_store_usage(struct request *q, struct reply *y)
{
	json_t *o = NULL;
	int r = host_usage(q->host, &y->problem, &o);

	return r < 0 ? r : reply_json(y, 200, o);
}

/* ---- check and repair -------------------------------------------------------------------------
 */

struct check {
	bool data, repair;
};

static void on_finding(void *userdata, const struct finding *f)
{
	job_line(userdata, json_pack("{s:{s:s, s:o, s:o, s:s?, s:b}}", "finding", "kind",
				     finding_kind_name(f->kind), "path", reply_text(f->path), "why",
				     reply_text(f->why), "done", f->done, "lost", f->lost));
}

static int check_task(struct job *job, struct host *host, void *arg, struct problem *problem,
		      json_t **ret)
{
	const struct check *c = arg;
	const struct check_options options = {.data = c->data,
					      .found = on_finding,
					      .progress = job_progress,
					      .cancelled = job_cancelled,
					      .userdata = job};
	struct check_stats s = {0};
	int r = host_check(host, c->repair, &options, problem, &s);

	if (r < 0)
		return r;
	*ret = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "snapshots", (json_int_t)s.n_snapshots,
			 "memories", (json_int_t)s.n_memories, "layers", (json_int_t)s.n_layers,
			 "bytesRead", (json_int_t)s.bytes_read, "findings",
			 (json_int_t)s.n_findings, "lost", (json_int_t)s.n_lost);
	return *ret ? 0 : -ENOMEM;
}

static int start_check(struct request *q, struct reply *y, bool repair)
{
	struct check *c;
	bool data = false;
	int r = fields_bool(q->json, "data", &y->problem, &data);

	if (r < 0)
		return r;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	*c = (struct check){.data = data, .repair = repair};
	return job_start(q->host, check_task, c, y);
}

int control_store_check(struct request *q, struct reply *y)
{
	return start_check(q, y, false);
}

int control_store_repair(struct request *q, struct reply *y)
{
	return start_check(q, y, true);
}

/* ---- rewrap -----------------------------------------------------------------------------------
 */

static void on_failure(void *userdata, const char *path, const char *why)
{
	job_line(userdata, json_pack("{s:{s:o, s:o}}", "finding", "path", reply_text(path), "why",
				     reply_text(why)));
}

static int rewrap_task(struct job *job, struct host *host, void *arg, struct problem *problem,
		       json_t **ret)
{
	const struct host_task task = job_host_task(job);
	struct rewrap_stats s;
	int r = host_rewrap(host, &task, on_failure, problem, &s);

	if (r < 0)
		return r;
	*ret = json_pack("{s:i, s:i, s:i}", "rewrapped", (int)s.rewrapped, "current",
			 (int)s.current, "failed", (int)s.failed);
	return *ret ? 0 : -ENOMEM;
}

int control_store_rewrap(struct request *q, struct reply *y)
{
	return job_start(q->host, rewrap_task, NULL, y);
}
