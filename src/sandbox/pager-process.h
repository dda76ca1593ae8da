/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * pager-process.h - the pager's process, which outlives the daemon
 *
 * pager_process_ensure() finds a running pager on its socket or starts one; it does not matter who
 * started it. The host watches its pidfd: when the pager dies, the sandboxes that it served cannot
 * go on (they wait for pages that nobody will bring, and never get zeros), so they are ended.
 * One thread at a time (the host's pager lock).
 */
#include <sys/types.h>

#include "base/problem.h"
#include "pager/client.h"

struct pager_process {
	pid_t pid; /* 0: none known */
	int pidfd; /* -1: none */
};

#define PAGER_PROCESS_INIT ((struct pager_process){.pidfd = -1})

/** pager_process_find() - is one running? -ETIMEDOUT: yes, but it does not answer */
int pager_process_find(struct pager_process *p, struct pager_client *client);

/**
 * pager_process_ensure() - make sure that a pager answers
 * @program: path of dorm-pager
 * @run_dir: its sockets; the control socket is <run_dir>/pager.sock
 */
int pager_process_ensure(struct pager_process *p, struct pager_client *client, const char *program,
			 const char *run_dir, struct problem *problem);

/** pager_process_stop() - end it and wait; for a host without sandboxes */
void pager_process_stop(struct pager_process *p);

void pager_process_deinit(struct pager_process *p);
