/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * psi.h - being told when the host, or this process's cgroup, is short of memory
 *
 *     psi_open() -> poll(@fds, POLLPRI) ... -> psi_close()
 *
 * A trigger is an open file that says what to watch for: threads were stalled for want of memory
 * for so long within a window. The kernel watches; nobody runs while there is no pressure. One is
 * set on the host and, where this process is in a cgroup (version 2) that has a memory limit, one
 * on the innermost of these, since pressure there need not be pressure on the host.
 *
 * Without privilege the kernel (6.4 and later) accepts windows that are multiples of 2 s, so that
 * is tried second. Where there is no PSI at all, psi_is_short() can be asked now and then. Source:
 * Linux Documentation/accounting/psi.rst. One thread.
 */
#include <stdbool.h>

#define PSI_MAX_FDS 2

struct psi {
	int fds[PSI_MAX_FDS]; /* poll for POLLPRI; POLLERR: it is gone for good */
	unsigned n;
	char text[160]; /* what is watched, for the log */
};

/** psi_open() - Return: 0; negative errno when nothing can be watched, and @p->text says why */
int psi_open(struct psi *p);
void psi_close(struct psi *p);

/** psi_drop() - one of the descriptors said POLLERR: its cgroup is gone */
void psi_drop(struct psi *p, unsigned i);

/** psi_is_short() - is less than a twentieth of the host's memory available? */
bool psi_is_short(void);

/** psi_some_avg10() - percent of the last 10 s in which a thread waited for memory; -1: unknown */
double psi_some_avg10(void);
