/* SPDX-License-Identifier: Apache-2.0 */
/* control-drain.c - the host as a whole: what it does, and having it take no new work */
#include "api/routes.h"

#include <errno.h>
#include <stdlib.h>

#include "api/fields.h"
#include "api/job.h"
#include "base/mem.h"
#include "sandbox/drain.h"

#define DEFAULT_TIMEOUT_S 300
#define MAX_TIMEOUT_S	  86400

int control_host(struct request *q, struct reply *y)
{
	return reply_json(y, 200, host_status(q->host));
}

static void on_failed(void *userdata, const char *id, const struct problem *why)
{
	job_line(userdata,
		 json_pack("{s:{s:s, s:s}}", "finding", "sandboxID", id, "message", why->message));
}

static int drain_task(struct job *job, struct host *host, void *arg, struct problem *problem,
		      json_t **ret)
{
	struct drain_options o = *(struct drain_options *)arg;
	struct drain_result result = {0};
	int r;

	o.failed = on_failed;
	o.task = job_host_task(job);
	r = host_drain(host, &o, problem, &result);
	if (r < 0)
		return r;
	*ret = json_pack("{s:i, s:i}", "slept", (int)result.n_slept, "failed",
			 (int)result.n_failed);
	return *ret ? 0 : -ENOMEM;
}

static int parse(struct request *q, struct problem *problem, struct drain_options *ret)
{
	const char *mode = NULL;
	uint64_t timeout_s = DEFAULT_TIMEOUT_S;
	int r = fields_text(q->json, "mode", 16, problem, &mode);

	if (r == 0 && mode && drain_mode_parse(mode, &ret->mode) < 0) {
		problem_set(problem, 400, "mode: '%.64s' is not wait or sleep", mode);
		return -EINVAL;
	}
	if (r == 0)
		r = fields_uint(q->json, "timeout", 1, MAX_TIMEOUT_S, problem, &timeout_s);
	ret->timeout_s = (unsigned)timeout_s;
	return r;
}

int control_host_drain(struct request *q, struct reply *y)
{
	struct drain_options o = {.mode = DRAIN_WAIT}, *copy;
	int r = parse(q, &y->problem, &o);

	if (r < 0)
		return r;
	copy = malloc(sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	*copy = o;
	return job_start(q->host, drain_task, copy, y);
}

int control_host_undrain(struct request *q, struct reply *y)
{
	host_undrain(q->host);
	return reply_json(y, 200, host_status(q->host));
}
