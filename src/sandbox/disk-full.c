/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disk-full.c - what happens to guests when the host's disk is full
 *
 * QEMU stops a VM whose write does not fit (command-line.c says why), and tries the write again
 * when it is resumed. Its guest loses nothing but time. Here it is noticed, said, and ended:
 *
 *     running --a write fails with ENOSPC--> stalled --there is space again--> running
 *
 * The state of the sandbox stays "running"; it shows as diskFull. It can be deleted. A sleep, a
 * snapshot or a fork is refused, since it would need space too.
 *
 * Every two seconds, while some sandbox has a disk, the free space of the store is looked at: when
 * there is little, or somebody stands still, each VM is asked. One call of statvfs is all it costs
 * as long as there is space. Another error than ENOSPC is reported to the guest, as a real disk
 * would.
 */
#include "sandbox/private.h"

#include <errno.h>
#include <sys/statvfs.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

#define CHECK_EVERY_NS (2 * NSEC_PER_SEC)
#define LOW_BYTES      (256ull << 20) /* from here on VMs are asked */
#define ENOUGH_BYTES   (32ull << 20)  /* and from here on they may try again */
#define ASK_MS	       2000

static void set_stalled(struct sandbox *sb, bool stalled)
{
	LOCK_SCOPE(&sb->info);
	if (sb->stalled == stalled)
		return;
	sb->stalled = stalled;
	if (stalled) {
		atomic_fetch_add(&sb->host->n_stalled, 1);
		log_error("sandbox=%s its VM stands still: a write to its disk found the store %s "
			  "full. It goes on when there is space",
			  sb->record.id, sb->host->root);
		sandbox_event(sb, "sandbox.stalled", NULL);
	} else {
		atomic_fetch_sub(&sb->host->n_stalled, 1);
		sandbox_event(sb, "sandbox.resumed", NULL);
	}
}

bool sandbox_is_stalled(struct sandbox *sb)
{
	bool stalled = sb->vmm && sb->record.disk.n &&
		       vmm_is_stalled(sb->vmm, deadline_after_ms(ASK_MS)) == 1;

	set_stalled(sb, stalled);
	return stalled;
}

int sandbox_refuse_stalled(struct sandbox *sb, const char *verb, struct problem *problem)
{
	if (!sandbox_is_stalled(sb))
		return 0;
	problem_set(problem, 507,
		    "sandbox %s cannot be %s: it stands still, because the host's disk is full",
		    sb->record.id, verb);
	problem_hint(problem, "free some space in %s (`dorm df`); the sandbox goes on by itself",
		     sb->host->root);
	return -ENOSPC;
}

static uint64_t free_bytes(struct host *host)
{
	struct statvfs st;

	if (fstatvfs(host->store->root_fd, &st) < 0)
		return UINT64_MAX;
	return (uint64_t)st.f_bavail * st.f_frsize;
}

/* Whoever works on it now looks for himself. */
static void look_at(void *userdata, struct sandbox *sb)
{
	struct problem p = PROBLEM_INIT;

	if (!op_try(sb))
		return;
	if (sb->gone || sb->record.state != SANDBOX_RUNNING) {
		set_stalled(sb, false);
	} else if (sandbox_is_stalled(sb) && free_bytes(sb->host) >= ENOUGH_BYTES) {
		/* that it does not run a moment later may mean that it found the disk full again */
		(void)vmm_resume(sb->vmm, deadline_after_ms(ASK_MS), &p);
		if (!sandbox_is_stalled(sb)) {
			log_info("sandbox=%s there is space again: it goes on", sb->record.id);
			sandbox_reconnect(sb);
		}
	}
	op_unlock(sb);
}

static void look_at_all(struct host *host, void *arg)
{
	(void)host_each_sandbox(host, look_at, NULL); /* without memory: the next time */
	atomic_store(&host->space_checking, false);
}

uint64_t disk_full_check(struct host *host, uint64_t now_ns, bool any)
{
	if (!any)
		return 0;
	if (host->space_ns > now_ns && host->space_ns - now_ns <= CHECK_EVERY_NS)
		return host->space_ns;
	host->space_ns = now_ns + CHECK_EVERY_NS;
	if ((free_bytes(host) < LOW_BYTES || atomic_load(&host->n_stalled)) &&
	    !atomic_exchange(&host->space_checking, true) && host_run(host, look_at_all, NULL) < 0)
		atomic_store(&host->space_checking, false);
	return host->space_ns;
}
