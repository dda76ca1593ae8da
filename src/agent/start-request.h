/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * start-request.h - the message and headers of process.Process/Start, taken apart
 *
 * Also what Start and Connect have in common: how long a client listens.
 */
#include "agent/process.h"
#include "base/problem.h"

#define START_TAG_SYSTEM "_system" /* the program is not part of the workload: no freezer */

struct start_request {
	struct user user;
	struct spawn_config spawn; /* strings are the message's or below */
	struct process_options options;
	json_t *env;
	char *cwd;
};

/**
 * start_request_parse() - @message must outlive @ret
 * Return: 0; -EINVAL with @problem (400, 401); -ENOMEM. start_request_deinit() in every case
 */
int start_request_parse(struct request *rq, json_t *message, struct problem *problem,
			struct start_request *ret);
void start_request_deinit(struct start_request *st);

/** listening_parse() - Connect-Timeout-Ms, Keepalive-Ping-Interval. Return: 0; -EINVAL */
int listening_parse(struct request *rq, struct problem *problem, struct listening *ret);

/**
 * pty_size_parse() - {"size": {"cols", "rows"}}; without a size 80 columns, 24 rows
 * Return: 0; -EINVAL
 */
int pty_size_parse(const json_t *pty, struct problem *problem, struct pty_size *ret);
