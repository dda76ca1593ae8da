/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * fault.h - things that go wrong on purpose, at named points
 *
 * Code that must survive a failure anywhere names the places ("sleep.commit") and asks here at each
 * of them. Nothing is ever asked for unless the environment has DORM_FAULT, looked at once:
 *
 *     DORM_FAULT=sleep.commit:kill            this process is killed there, as by kill -9
 *     DORM_FAULT=wake.load:error,wake.load:hang=5
 *     DORM_FAULT=@/path                       the same, read from that file each time; it is
 * emptied when one of its points is reached, so that happens once
 *
 * Any thread. For tests: a value that is not understood is ignored.
 */
#include <stdbool.h>

enum fault_kind {
	FAULT_NONE,
	FAULT_KILL,   /* never returned */
	FAULT_ERROR,  /* the step fails with EIO */
	FAULT_ENOSPC, /* the step fails with ENOSPC */
	FAULT_VMM,    /* the VM's process is killed */
	FAULT_PAGER,  /* the pager is killed */
	FAULT_HANG,   /* the step does not begin for so many seconds */
	FAULT_N_KINDS,
};

/** fault_kind_name() - "kill", as in DORM_FAULT */
const char *fault_kind_name(enum fault_kind kind);

/**
 * fault_at() - what is to happen at the point "@operation.@step"?
 * Kills this process if that was asked for; the rest is the caller's to do.
 * @ret_n: what stands behind '='; 10 when nothing does
 */
enum fault_kind fault_at(const char *operation, const char *step, unsigned *ret_n);

/** fault_parse() - the same for a given text instead of the environment's, and without the killing
 */
enum fault_kind fault_parse(const char *text, const char *operation, const char *step,
			    unsigned *ret_n);
