/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * isolate.h - give up what the pager does not need, in the order in which that becomes possible
 *
 * Guests that broke out of their VMM talk to us: they choose the handshake's text and the events of
 * a userfaultfd. What they could gain is reduced in three stages, each named after when it is due:
 *
 *   isolate_begin()   first thing: no core dumps, not to be debugged by others of the same user.
 *                     Keys may be read from here on
 *   isolate_opened()  when everything is open that needs a privilege (/dev/userfaultfd, image,
 *                     sockets, the limit of open files): capabilities, no new privileges
 *   isolate_serve()   in the process that serves, before its threads start: the system call filter
 *
 * What stays: CAP_KILL (a session that fails has its VM killed, which may be another user's), and
 * with @take_back CAP_SYS_PTRACE (a successor takes userfaultfds out of VMs with pidfd_getfd(2),
 * which asks for the right to trace them) and CAP_CHECKPOINT_RESTORE (and opens the memory that
 * they map, by /proc/PID/map_files) and CAP_DAC_READ_SEARCH (those directories of /proc are the VM's
 * user's, which is another one than ours if it is jailed). Those that the process never had are not missed.
 *
 * The process is not dumpable, which keeps other processes of the same user from tracing it. It
 * does not hinder a successor: that takes descriptors from the VMs, never from a dead pager.
 */
#include <stdbool.h>

#include "base/problem.h"

/* What happens to a call that is not on the list. */
enum isolate_seccomp {
	ISOLATE_SECCOMP_ENFORCE, /* the kernel kills the process (SIGSYS) */
	ISOLATE_SECCOMP_LOG,	 /* the process names the call in its log, then ends (status 159) */
	ISOLATE_SECCOMP_OFF,	 /* no filter */
};

struct isolate_options {
	enum isolate_seccomp seccomp;
	bool take_back;
};

/** isolate_seccomp_parse() - "enforce", "log", "off". Return: 0; -EINVAL */
int isolate_seccomp_parse(const char *text, enum isolate_seccomp *ret);

int isolate_begin(struct problem *problem);
int isolate_opened(const struct isolate_options *options, struct problem *problem);
int isolate_serve(const struct isolate_options *options, struct problem *problem);

/** isolate_is_listed() - is the call of this name on the list? For tests */
bool isolate_is_listed(const char *call);
