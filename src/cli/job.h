/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * job.h - what dormd works on for a while, saying how far it is: verify, compact, check, ...
 *
 * The answer is a line of JSON at a time: {"done":N,"total":N} moves a bar, {"finding":{...}} is
 * collected, and the last line has "ok" with the result, or with an "error".
 *
 *     struct job job = {.path = path, .doing = "verifying s1", .what = "the verification"};
 *     r = job_run(cli, &job);
 *     if (r == 0) ... job.result, job.findings
 *     job_deinit(&job);
 */
#include <jansson.h>
#include <stdbool.h>

#include "base/problem.h"
#include "cli/cli.h"

struct job {
	const char *path;  /* of a POST; already escaped; NULL means out of memory */
	json_t *body;	   /* consumed; NULL: none */
	const char *doing; /* for the line on the terminal: "verifying s1" */
	const char *what;  /* what is missing when dormd does not say how it ended */
	bool in_bytes;	   /* the progress is in bytes */

	/* results */
	json_t *result;		/* the last line, also of a failure; NULL without one */
	json_t *findings;	/* array, in the order of arrival; never NULL after job_run() = 0 */
	struct problem problem; /* of a failure */
};

/** job_run() - do it. Return: 0 when it ended well; -1 with job.problem set */
int job_run(struct cli *cli, struct job *job);

void job_deinit(struct job *job);
#define _cleanup_job_ __attribute__((cleanup(job_deinit)))

/** job_json() - print the result as one document; its "found" has the findings when @findings */
void job_json(const struct job *job, bool findings);
