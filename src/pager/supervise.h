/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * supervise.h - a program that looks after itself: one parent, and a worker that does the work
 *
 * supervise_run() forks. It returns in the worker, each time that there is a new one, and in the
 * parent only when all is over. The parent opens nothing, reads nothing that comes from a VM, and
 * has no threads, so that it does not die of what the worker dies of. It
 *
 *   - keeps whatever was open when it was called: listening sockets, whose backlog waits for the
 *     next worker, and the image;
 *   - keeps what the worker gives it (keeper.h);
 *   - starts a new worker when the last one was killed by a signal: at once, and after
 *     SUPERVISE_RAPID_FREE deaths in a row within @rapid_ms of their start, later and later;
 *   - passes SIGTERM, SIGINT and SIGHUP on; a worker that exits by itself ends it, with its status.
 *
 * Should the parent die, the worker goes on: its end of the keeper's socket hangs up (POLLHUP), and
 * nobody starts a successor any more.
 *
 * Call it before there is any thread. Logs, because it is the one that carries on.
 */
#include <stdint.h>

#include "base/problem.h"

#define SUPERVISE_RAPID_FREE 3u

/* outcomes */
enum { SUPERVISE_E_WORKER = 1 }; /* this is a worker: do the work, then exit */

struct supervise_options {
	uint32_t rapid_ms;     /* a worker that lived no longer than this died rapidly; 0: 1000 */
	uint32_t delay_ms;     /* the first delay; doubled each time; 0: 100 */
	uint32_t max_delay_ms; /* 0: 5000 */
};

struct supervise_worker {
	int keeper_sock;     /* the worker's; for keeper_put() and so on */
	uint32_t generation; /* 0 for the first worker, 1 for its successor, ... */
};

/**
 * supervise_run() - see above
 * @ret_worker: set in a worker
 * @ret_status: set in the parent: exit status that the worker ended with, 1 when it had to be
 * killed Return: SUPERVISE_E_WORKER in a worker; 0 in the parent at the end; negative errno when no
 * worker could be started
 */
int supervise_run(const struct supervise_options *options, struct supervise_worker *ret_worker,
		  int *ret_status);
