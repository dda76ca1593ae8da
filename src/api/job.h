/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * job.h - a task of minutes as the answer to a request: a stream of JSON lines
 *
 *     {"done":17,"total":400}             progress, now and then, and once a second in any case
 *     ...                                 lines of its own
 *     {"ok":true, ...}                    the last one: its result, or
 *     {"ok":false,"error":{"code":..,"message":..,"hint"?:..}}
 *
 * The task runs on a thread of its own while the connection's thread sends. A client that goes away
 * cancels it: within a second, since a line is written at least that often.
 */
#include "api/request.h"

struct job;

/**
 * A task. @arg is what job_start() was given.
 * @ret: a JSON object, to which "ok" is added; new reference
 * Return: 0; negative errno, with the reason in @problem
 */
typedef int (*job_task)(struct job *job, struct host *host, void *arg, struct problem *problem,
			json_t **ret);

/**
 * job_start() - answer @y with what @task does
 * @arg: freed with free() when it is over, and when this fails
 */
int job_start(struct host *host, job_task task, void *arg, struct reply *y);

/* ---- for the task -----------------------------------------------------------------------------
 */

/** job_line() - a line of its own; steals @o. @job: struct job */
void job_line(struct job *job, json_t *o);

/** job_progress(), job_cancelled() - callbacks whose userdata is the struct job */
void job_progress(void *job, uint64_t done, uint64_t total);
bool job_cancelled(void *job);

/** job_host_task() - the two of them together */
struct host_task job_host_task(struct job *job);
