/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * hooks.h - run the sandbox's own programs around sleep and wake
 *
 *     hooks_look()    what is there? (hook-list.h); remembered until hooks_forget()
 *     hooks_start()   one after the other, as root, in a cgroup of their own that is not frozen
 *     done()          exactly once, unless hooks_cancel() came first
 *
 * Before a sleep they run while the workload still does; after a wake before the workload is
 * thawed, so that an application is put right before any of it runs. Each has its time limit, all
 * together have one. What a hook leaves behind when it ends or its time is up is killed: nothing in
 * that cgroup is ever frozen, so nothing may be in it when the sandbox sleeps. The last OUTPUT
 * bytes of what it printed are in the report.
 *
 * Environment: PATH, HOME, DORM_EVENT (before-sleep, after-wake), DORM_SANDBOX_ID,
 * DORM_TEMPLATE_ID; after a wake also DORM_KIND (boot, wake, fork, resume) and DORM_OLD_SANDBOX_ID.
 */
#include "agent/agent.h"
#include "agent/hook-list.h"

#define HOOK_OUTPUT_MAX 1024

struct hooks;

struct hooks_env {
	const char *kind;	    /* NULL: it goes to sleep */
	const char *sandbox_id;	    /* what it is now */
	const char *old_sandbox_id; /* what it was before; "" after a boot */
	const char *template_id;
};

/**
 * hooks_new() - @base: the directory of hooks; NULL: there are none. Borrowed
 * @cgroup: directory to make for them; NULL: they stay in the agent's
 */
int hooks_new(struct agent *a, const char *base, const char *cgroup, struct hooks **ret);
struct hooks *hooks_free(struct hooks *h);
DEFINE_CLEANUP(struct hooks *, hooks_free)

/**
 * hooks_look() - read the list, unless it is known
 * @ret_ms: how long they may take all together; 0: none has to be run
 * Return: 0; negative errno
 */
int hooks_look(struct hooks *h, enum hook_event event, unsigned *ret_ms);

/** hooks_forget() - the workload runs: what was seen may change */
void hooks_forget(struct hooks *h);

/**
 * hooks_start() - run those that hooks_look() has found
 * @report: gets a step for each, also for those that are skipped; a reference is held
 * @done:   r is 0; -ETIMEDOUT, -EIO... when one failed; the others ran all the same
 * Return: 1: there is nothing to wait for, all are well; 0: @done will be called; negative errno
 */
int hooks_start(struct hooks *h, enum hook_event event, const struct hooks_env *env, json_t *report,
		void (*done)(void *userdata, int r), void *userdata);

/** hooks_cancel() - whatever runs is killed, @done is not called */
void hooks_cancel(struct hooks *h);

/** hooks_reaped() - waitpid() has returned @pid. Return: was it a hook? */
bool hooks_reaped(struct hooks *h, pid_t pid, int wait_status);
