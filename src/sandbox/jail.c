/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory limit covers what the VMM's own processes touch first: pages that the guest has
 * written, QEMU's heap and translation cache, page cache of its disk. The template's memory belongs
 * to the pager's memfd, was brought there by the pager and is charged to it; so a limit of the
 * guest's size and some more is never reached by an honest guest, and reclaimable page cache is
 * what gives way first.
 */
#include "sandbox/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/str.h"
#include "sandbox/private.h"
#include "sys/proc.h"

#define GROUP	     "dormouse"
#define MIB	     (1ull << 20)
#define OVERHEAD     (256 * MIB) /* QEMU and its translation cache take 100 MiB; page cache */
#define MAX_THREADS  1024
#define FILE_MIN     (256 * MIB) /* its log, and what its disk takes beside its content */
#define REMOVE_TRIES 50
#define REMOVE_MS    2

/* ---- of the host ------------------------------------------------------------------------------
 */

static void warn_missing(const struct jails *j)
{
	for (unsigned i = 0; i < JAIL_N_WALLS; i++)
		if (!(j->walls & 1u << i))
			log_warn("jails of VMs lack the wall \"%s\": %s",
				 jail_wall_name((enum jail_wall)(1u << i)), j->why[i]);
	if (!j->cgroups.version)
		log_warn("VMs have no limits: no cgroups that can be written");
}

/* In the cpu controller a group of a hundred VMs weighs as much as one process beside it: what is
 * not limited stays where it competes by itself. */
static void find_groups(struct jails *j)
{
	cgroups_find(&j->cgroups);
	j->limited = j->cgroups;
	if (!j->cpu_pct)
		j->limited.places[CGROUP_CPU][0] = 0;
	if (!j->io_bytes)
		j->limited.places[CGROUP_IO][0] = 0;
}

static int refuse(const struct jails *j, struct problem *problem)
{
	for (unsigned i = 0; i < JAIL_N_WALLS; i++)
		if (!(j->walls & 1u << i))
			problem_set(problem, 500, "jails of VMs would lack the wall \"%s\": %s",
				    jail_wall_name((enum jail_wall)(1u << i)), j->why[i]);
	problem_hint(problem, "run dormd as root, or with --jail auto");
	return error_trace(-EPERM);
}

int jails_init(struct jails *j, const struct host_config *config, const char *program, int store_fd,
	       struct problem *problem)
{
	char groups[80];
	struct stat st;
	int r;

	if (fstat(store_fd, &st) < 0)
		return error_errno();
	j->device = st.st_dev;
	j->cpu_pct = config->cpu_limit_pct;
	j->io_bytes = config->io_limit;
	(void)snprintf(j->tag, sizeof(j->tag), GROUP "/%llx-%llx", (unsigned long long)st.st_dev,
		       (unsigned long long)st.st_ino); /* fits */
	r = uids_init(&j->uids, config->jail_first_uid, config->jail_n_uids);
	j->has_uids = true;
	if (r < 0) {
		problem_set(problem, 400,
			    "the users of VMs, %u from %u on: not a range between %u and %u, of at "
			    "most %u",
			    config->jail_n_uids, config->jail_first_uid, UIDS_MIN, UINT32_MAX - 1,
			    UIDS_MAX);
		return r;
	}
	j->off = config->no_jail;
	find_groups(j);
	if (j->off) {
		log_warn("VMs are not jailed: a QEMU that its guest took over is %s on this host",
			 geteuid() ? "this user" : "root");
		return 0;
	}
	j->program = strdup(program);
	if (!j->program)
		return -ENOMEM;
	j->walls = jail_probe(program, j->why);
	if (config->need_jail && j->walls != JAIL_ALL)
		return refuse(j, problem);
	warn_missing(j);
	cgroups_describe(&j->cgroups, groups, sizeof(groups));
	log_info("jails walls=%u of %u cgroups=%s", (unsigned)__builtin_popcount(j->walls),
		 JAIL_N_WALLS, groups);
	return 0;
}

void jails_deinit(struct jails *j)
{
	if (j->cgroups.version && j->tag[0])
		(void)cgroup_remove(&j->cgroups, j->tag); /* it stays while sandboxes run */
	if (j->has_uids)
		uids_deinit(&j->uids);
	free(j->program);
	j->program = NULL;
}

/* ---- of one sandbox ---------------------------------------------------------------------------
 */

static void group_of(const struct sandbox *sb, char buf[128])
{
	(void)snprintf(buf, 128, "%s/%s", sb->host->jails.tag, sb->record.id); /* fits */
}

/* A limit that cannot be set is no reason to run nothing: `dorm doctor` says what there is. */
static void make_group(struct sandbox *sb, const struct vmm_config *config,
		       struct sandbox_jail *place)
{
	struct jails *j = &sb->host->jails;
	const struct cgroup_limits limits = {.memory_bytes = config->memory_bytes + OVERHEAD,
					     .cpu_pct = j->cpu_pct,
					     .pids = MAX_THREADS,
					     .io_bytes = j->io_bytes,
					     .device = j->device};
	int r;

	if (!j->cgroups.version)
		return;
	group_of(sb, place->cgroup);
	r = cgroup_make(&j->limited, place->cgroup, &limits);
	if (r < 0) {
		log_warn("sandbox=%s has no limits: cgroup %s: %s", sb->record.id, place->cgroup,
			 strerrordesc_np(-r));
		return;
	}
	place->vmm.cgroups = &j->limited;
	place->vmm.cgroup = place->cgroup;
}

static void set_uid(struct sandbox *sb, uint32_t uid)
{
	LOCK_SCOPE(&sb->info);
	sb->uid = uid;
	sb->record.uid = uid;
}

static int take_user(struct sandbox *sb, struct vmm_jail *jail, struct problem *problem)
{
	uint32_t uid = 0;
	int r;

	if (!(jail->walls & JAIL_USER))
		return 0;
	r = uids_take(&sb->host->jails.uids, &uid);
	if (r < 0) {
		problem_set(problem, 503, "all %u users for VMs are taken", sb->host->jails.uids.n);
		problem_retry(problem, 5);
		return r;
	}
	set_uid(sb, uid);
	jail->uid = uid;
	return sandbox_own_disks(sb, problem);
}

/* qcow2 adds its tables. */
static uint64_t largest_file(struct sandbox *sb)
{
	uint64_t bytes = sandbox_disk_bytes(sb);

	return bytes + bytes / 8 + FILE_MIN;
}

int sandbox_enter_jail(struct sandbox *sb, struct sandbox_jail *place, struct vmm_config *config,
		       struct problem *problem)
{
	struct jails *j = &sb->host->jails;

	if (j->off)
		return 0;
	*place = (struct sandbox_jail){
		.vmm = {.program = j->program, .walls = j->walls, .tag = place->tag}};
	(void)snprintf(place->tag, sizeof(place->tag), "%s/%s", j->tag, sb->record.id); /* fits */
	place->vmm.max_file = largest_file(sb);
	make_group(sb, config, place);
	config->jail = &place->vmm;
	return take_user(sb, &place->vmm, problem);
}

void sandbox_claim_jail(struct sandbox *sb)
{
	uids_claim(&sb->host->jails.uids, sb->record.uid);
	sb->uid = sb->record.uid;
}

/* The kernel takes a moment to see that a group's processes have gone. */
static void remove_group(struct jails *j, const char *group)
{
	int r = -EBUSY;

	for (int i = 0; i < REMOVE_TRIES && r == -EBUSY; i++) {
		if (i)
			clock_sleep_ms(REMOVE_MS);
		r = cgroup_remove(&j->cgroups, group);
	}
	if (r < 0)
		log_warn("cgroup %s could not be removed: %s", group, strerrordesc_np(-r));
}

void sandbox_leave_jail(struct sandbox *sb)
{
	char group[128];

	uids_give_back(&sb->host->jails.uids, sb->uid);
	set_uid(sb, 0);
	if (!sb->host->jails.cgroups.version)
		return;
	group_of(sb, group);
	remove_group(&sb->host->jails, group);
}

/* ---- what an earlier daemon left --------------------------------------------------------------
 */

/* Its mounts are the kernel's word, which it cannot change: working directory, name and environment
 * are its own. */
bool jails_is_ours(const struct jails *j, pid_t pid)
{
	char source[128];
	const char *rest;

	if (proc_root_source(pid, source, sizeof(source)) < 0)
		return false;
	rest = str_has_prefix(source, j->tag);
	return rest && *rest == '/';
}

struct forgetting {
	struct jails *jails;
	bool (*is_known)(void *userdata, const char *id);
	void *userdata;
};

static int end_one(void *userdata, pid_t pid)
{
	log_warn("ending orphaned VM pid=%d in cgroup %s", (int)pid, (const char *)userdata);
	(void)kill(pid, SIGKILL); /* it may have gone by itself */
	return 0;
}

static int forget_one(void *userdata, const char *name)
{
	struct forgetting *f = userdata;
	char group[128];

	if (f->is_known(f->userdata, name) || strlen(name) > 64)
		return 0;
	(void)snprintf(group, sizeof(group), "%.48s/%.64s", f->jails->tag, name); /* fits */
	(void)cgroup_each_process(&f->jails->cgroups, group, end_one, group);
	remove_group(f->jails, group);
	return 0;
}

void jails_forget_groups(struct jails *j, bool (*is_known)(void *userdata, const char *id),
			 void *userdata)
{
	struct forgetting f = {j, is_known, userdata};

	if (j->cgroups.version)
		(void)cgroup_each_child(&j->cgroups, j->tag, forget_one, &f); /* next time */
}

/* ---- the doctor -------------------------------------------------------------------------------
 */

static void report(json_t *checks, const char *name, bool ok, const char *found, const char *cost,
		   const char *remedy)
{
	(void)json_array_append_new(/* out of memory: a shorter list */
				    checks,
				    json_pack("{s:s, s:s, s:s, s:s, s:s}", "name", name, "status",
					      ok ? "ok" : "warn", "found", found, "cost",
					      ok ? "" : cost, "remedy", ok ? "" : remedy));
}

void jails_describe(const struct jails *j, const char *program, json_t *checks)
{
	static const struct {
		const char *name, *there, *cost;
	} items[JAIL_N_WALLS] = {
		{"jail-root", "each VMM has a file system with nothing but its own files",
		 "a QEMU that its guest took over sees the host's files"},
		{"jail-user", "each VMM is a user of its own, without capabilities",
		 "a QEMU that its guest took over is the user that dormd runs as"},
		{"jail-pids", "each VMM sees no process but itself",
		 "a QEMU that its guest took over sees the host's processes"},
		{"jail-namespaces", "each VMM has its own ipc, uts and cgroup namespaces",
		 "a QEMU that its guest took over shares System V IPC with the host"},
		{"jail-filter", "system calls that no VMM makes are refused",
		 "a QEMU that its guest took over reaches more of the kernel"},
	};
	char why[JAIL_N_WALLS][160], groups[80];
	unsigned walls = j ? j->walls : jail_probe(program, why);
	struct cgroups found;
	bool off = j && j->off;

	for (unsigned i = 0; i < JAIL_N_WALLS; i++)
		report(checks, items[i].name, !off && walls >> i & 1,
		       off		? "turned off: dormd --jail off"
		       : walls >> i & 1 ? items[i].there
		       : j		? j->why[i]
					: why[i],
		       items[i].cost,
		       off ? "start dormd without --jail off"
			   : "run dormd as root, outside of a container that forbids namespaces");
	cgroups_find(&found);
	cgroups_describe(&found, groups, sizeof(groups));
	report(checks, "jail-limits", !off && found.version && found.places[CGROUP_MEMORY][0],
	       off ? "turned off: dormd --jail off" : groups,
	       "nothing but the guest's size bounds what a sandbox takes from others",
	       "run dormd as root, with cgroup version 2 at /sys/fs/cgroup or the controllers of "
	       "version 1 mounted");
}
