/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bounding set goes first, while CAP_SETPCAP is still there, then groups and user, then what
 * is left of capabilities. no_new_privs makes it last over exec.
 *
 * RLIMIT_NPROC counts the processes and threads of a user, and the user is this VMM's alone: so it
 * bounds the VMM also on a host without a pids controller. QEMU has one thread for each processor,
 * up to 64 that wait for disks, and a few.
 */
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/jail/walls.h"

#define MAX_FILES   1024
#define MAX_THREADS 1024

static int limit(__rlimit_resource_t resource, uint64_t value, const char *name)
{
	struct rlimit now, l = {value, value};

	if (getrlimit(resource, &now) == 0 && now.rlim_max < value)
		l.rlim_cur = l.rlim_max = now.rlim_max;
	return setrlimit(resource, &l) < 0 ? wall_fail("setrlimit", name) : 0;
}

int wall_limits(const struct walls *w)
{
	int r = limit(RLIMIT_CORE, 0, "core");

	if (r == 0)
		r = limit(RLIMIT_NOFILE, MAX_FILES, "nofile");
	if (r == 0 && w->user)
		r = limit(RLIMIT_NPROC, MAX_THREADS, "nproc");
	if (r == 0 && w->max_file)
		r = limit(RLIMIT_FSIZE, w->max_file, "fsize");
	return r;
}

static int become(uint32_t uid)
{
	if (setgroups(0, NULL) < 0)
		return wall_fail("setgroups", "");
	if (setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
		return wall_fail("change user", "");
	return 0;
}

static void drop_bounding_set(void)
{
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		(void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* EPERM: then it never was root's */
}

static int drop_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};

	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); /* EINVAL: not known */
	return syscall(SYS_capset, &header, none) < 0 ? wall_fail("capset", "") : 0;
}

int wall_privileges(const struct walls *w)
{
	int r = 0;

	/* root that stays root needs what it has: its exec would give it all back anyway, and
	 * without a user of its own a VMM must be able to open what dormd made */
	if (w->user) {
		drop_bounding_set();
		r = become(w->uid);
	}
	if (r == 0 && w->user)
		r = drop_capabilities();
	if (r == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		r = wall_fail("no_new_privs", "");
	return r;
}
