/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * jail.h - what this host's VMMs are shut into: found once, used for each
 *
 *     jails_init()            tries what can be had: walls, users, cgroups
 *     sandbox_enter_jail()    before a VM starts: a user, a cgroup, its disk given to the user
 *     sandbox_leave_jail()    after it has ended
 *
 * Whoever adopts a VM after a restart calls sandbox_claim_jail() with what its record says.
 */
#include <jansson.h>
#include <stdbool.h>

#include "base/problem.h"
#include "sandbox/uids.h"
#include "sys/cgroup.h"
#include "vmm/jail.h"
#include "vmm/vmm.h"

struct host_config;
struct sandbox;

struct jails {
	bool off; /* as configured */
	char *program;
	unsigned walls; /* those that can be had */
	char why[JAIL_N_WALLS][160];
	char tag[48]; /* of this store: first part of every tag and the name of its cgroups */
	struct uids uids;
	bool has_uids;
	struct cgroups cgroups; /* those of the host; version 0: none */
	struct cgroups limited; /* those in which something is limited: VMs join these */
	unsigned cpu_pct;
	uint64_t io_bytes;
	dev_t device; /* of the store */
};

/** jails_init() - @program: dorm-jail. Says in the log what cannot be had. Return: 0; -EINVAL */
int jails_init(struct jails *j, const struct host_config *config, const char *program, int store_fd,
	       struct problem *problem);
void jails_deinit(struct jails *j);

/* Where what a vmm_jail points to is kept. */
struct sandbox_jail {
	struct vmm_jail vmm;
	char tag[96], cgroup[128];
};

/** sandbox_enter_jail() - op held, its disks are in @config. @place: lives until the VM has started
 */
int sandbox_enter_jail(struct sandbox *sb, struct sandbox_jail *place, struct vmm_config *config,
		       struct problem *problem);

/** sandbox_claim_jail() - op held, its VM was adopted */
void sandbox_claim_jail(struct sandbox *sb);

/** sandbox_leave_jail() - op held, its VM has ended; fine without any */
void sandbox_leave_jail(struct sandbox *sb);

/** jails_is_ours() - is this process the VM of a sandbox in this store? */
bool jails_is_ours(const struct jails *j, pid_t pid);

/** jails_forget_groups() - end what is in cgroups of this store that no sandbox has, and remove
 *  them. @is_known: is there such a sandbox, with a VM? */
void jails_forget_groups(struct jails *j, bool (*is_known)(void *userdata, const char *id),
			 void *userdata);

/** jails_describe() - add the doctor's items on isolation to @checks. @j: NULL: of a host that does
 *  not run; then @program is tried */
void jails_describe(const struct jails *j, const char *program, json_t *checks);
