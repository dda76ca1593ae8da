/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * control.h - the control thread: who asks what, which VM comes and goes
 *
 * One poll loop over the control socket and its clients, the sessions' doors, the processes of the
 * VMs, signals and the fault threads' calls for attention. Requests are answered in turn; none
 * waits for anything but the local disk (opening an image reads its map). Protocol:
 * docs/format-pager.md.
 *
 *     control_new() -> control_run() -> control_free()
 */
#include "base/mem.h"
#include "base/problem.h"
#include "pager/alone.h"
#include "pager/pager.h"

#define CONTROL_MAX_CLIENTS 64u

struct control_options {
	const char *socket_path; /* borrowed, like run_dir, until control_free(); NULL: none */
	int listener;		 /* a control socket that listens already; borrowed; -1: none */
	const char *run_dir;	 /* NULL: nobody can open sessions */
	const char *alone_dir;	 /* with @alone: the journal is in it; borrowed; NULL: none */
	unsigned handshake_ms;	 /* how long a VM may take to say who it is */
	int keeper_sock;	 /* of the supervisor (keeper.h); borrowed; -1: none */
	const struct alone_options *alone; /* let in VMs that nobody announced; NULL: do not */
	unsigned adopt_ms; /* how long an orphan waits for its image; 0: takeover.c's */
	bool takeover;	   /* ask the pager that is running to make room */
};

struct control;

/**
 * control_new() - take back the sessions of an earlier pager; then listen on the control socket
 * From now on clients can connect. With @options->takeover the pager that serves the socket, if
 * there is one, is asked to hand over and end.
 * @p:         borrowed
 * @signal_fd: readable when the process should end; borrowed; -1: none
 * Return: 0; -EADDRINUSE when another pager serves this socket; negative errno; @problem says
 */
int control_new(struct pager *p, const struct control_options *options, int signal_fd,
		struct problem *problem, struct control **ret);

/** control_run() - serve until a signal or a client's "shutdown". Return: 0; negative errno */
int control_run(struct control *c);

struct control *control_free(struct control *c);
DEFINE_CLEANUP(struct control *, control_free)
