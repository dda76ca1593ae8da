/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * pager-process.h - the pager's process, which outlives the daemon
 *
 * pager_process_ensure() finds a running pager on its socket or starts one; it does not matter who
 * started it. The host watches its pidfd: when the pager dies, the VMs that it served wait, and a
 * new one takes them back from what the old one left in the run directory. One that cannot do that
 * says so by leaving `takes_back` unset, and then those VMs are ended.
 * One thread at a time (the host's pager lock).
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/problem.h"
#include "pager/client.h"

struct pager_process {
	pid_t pid; /* 0: none known */
	int pidfd; /* -1: none */
	bool takes_back;
};

#define PAGER_PROCESS_INIT ((struct pager_process){.pidfd = -1})

/* How one is started. */
struct pager_process_options {
	const char *program; /* path of dorm-pager */
	const char *run_dir; /* its sockets; the control socket is <run_dir>/pager.sock */
	bool no_prefetch, no_userfaultfd;
	uint64_t memory_limit, image_limit; /* bytes of resident memory; 0: none */
};

/** pager_process_find() - is one running? -ETIMEDOUT: yes, but it does not answer */
int pager_process_find(struct pager_process *p, struct pager_client *client);

/** pager_process_ensure() - make sure that a pager answers */
int pager_process_ensure(struct pager_process *p, struct pager_client *client,
			 const struct pager_process_options *options, struct problem *problem);

/**
 * pager_process_upgrade() - start a new pager that takes the place of the one that runs
 * The program's file may have changed. Return: 0, also when none ran; -EOPNOTSUPP when the program
 * cannot take over; negative errno, and then the old one may serve on: ask pager_process_ensure()
 */
int pager_process_upgrade(struct pager_process *p, struct pager_client *client,
			  const struct pager_process_options *options, struct problem *problem);

/** pager_process_stop() - end it and wait; for a host without sandboxes */
void pager_process_stop(struct pager_process *p);

void pager_process_deinit(struct pager_process *p);
