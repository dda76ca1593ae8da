/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * store-task.h - what is done with a host's store as a whole: check, repair, count, rewrap
 *
 * All of it while sandboxes run, sleep and wake. Any thread.
 */
#include "image/store-check.h"
#include "image/store-usage.h"
#include "sandbox/host.h"

/**
 * host_check() - store_check(), or with @repair store_repair(), with the host's keys
 * @options: its keys are not looked at
 * Return: 0 (findings or not); negative errno
 */
int host_check(struct host *host, bool repair, const struct check_options *options,
	       struct problem *problem, struct check_stats *ret);

/** host_usage() - GET /store/usage */
int host_usage(struct host *host, struct problem *problem, json_t **ret);

/** host_layers() - GET /layers */
int host_layers(struct host *host, struct problem *problem, json_t **ret);

struct rewrap_stats {
	unsigned rewrapped, current, failed;
};

/**
 * host_rewrap() - seal every snapshot and every sandbox's memory under the host's first key
 * @failed: called for each that could not be; may be NULL
 * @task: progress in directories; also the userdata of @failed
 */
int host_rewrap(struct host *host, const struct host_task *task,
		void (*failed)(void *userdata, const char *path, const char *why),
		struct problem *problem, struct rewrap_stats *ret);
