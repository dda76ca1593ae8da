/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/job.h"

#include <errno.h>

#include "base/mem.h"
#include "cli/http.h"
#include "cli/output.h"
#include "cli/progress.h"

#define MAX_FINDINGS 100000 /* nobody reads more, and memory is bounded */

struct run {
	struct job *job;
	struct progress progress;
};

static int on_line(void *userdata, json_t *line)
{
	struct run *run = userdata;
	struct job *job = run->job;
	json_t *finding = json_object_get(line, "finding");
	uint64_t done = output_field_number(line, "done"),
		 total = output_field_number(line, "total");

	if (json_object_get(line, "ok")) {
		json_decref(job->result);
		job->result = json_incref(line);
	} else if (finding) {
		if (json_array_size(job->findings) < MAX_FINDINGS &&
		    json_array_append(job->findings, finding))
			return -ENOMEM;
	} else if (job->in_bytes) {
		progress_bytes(&run->progress, done, total);
	} else {
		progress_bar(&run->progress, done, total);
	}
	return 0;
}

/* dormd answered in full: did it do what it should? Return: 0; -1 */
static int conclude(struct job *job)
{
	const json_t *error = json_object_get(job->result, "error");

	if (json_is_true(json_object_get(job->result, "ok")))
		return 0;
	if (!job->result)
		problem_set(&job->problem, 500, "dormd did not say how %s ended", job->what);
	problem_set(&job->problem, 500, "%s",
		    output_field(error, "message", "it failed; dormd did not say why"));
	problem_hint(&job->problem, "%s", output_field(error, "hint", ""));
	return -1;
}

int job_run(struct cli *cli, struct job *job)
{
	_cleanup_(http_freep) struct http *http = NULL;
	struct run run = {.job = job};
	int r = -ENOMEM;

	job->findings = json_array();
	progress_start(&run.progress, cli, "%s", job->doing);
	if (job->path && job->findings)
		r = http_new(cli->socket, &job->problem, &http);
	if (!r)
		r = http_lines(http, "POST", job->path, job->body, on_line, &run, &job->problem);
	progress_end(&run.progress);
	if (!r)
		return conclude(job);
	problem_set(&job->problem, 500, "out of memory");
	return -1;
}

void job_deinit(struct job *job)
{
	json_decref(job->body);
	json_decref(job->result);
	json_decref(job->findings);
	job->body = job->result = job->findings = NULL;
}

void job_json(const struct job *job, bool findings)
{
	if (job->result && findings)
		(void)json_object_set(job->result, "found", job->findings); /* left out: no harm */
	if (job->result)
		output_json(job->result);
}
