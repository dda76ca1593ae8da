/* SPDX-License-Identifier: Apache-2.0 */
/*
 * filter.c - system calls that no VMM makes
 *
 * A list of what is refused, in addition to QEMU's own -sandbox, which comes later (once QEMU has
 * read its options) and stops programs and changes of user. This one is for what is reachable
 * without any privilege and has been the way out of containers before: new namespaces, io_uring,
 * bpf, keys, userfaultfds, foreign processes, odd kinds of sockets. Refused with EPERM, so that a
 * library that only tries goes on without.
 *
 * Flags that matter are in clone()'s first argument; clone3() has them in memory, so it answers
 * ENOSYS and the C library falls back to clone(). Sockets: only local ones. What the VMM has of the
 * network it was given as a descriptor; AF_VSOCK in particular is in no network namespace.
 */
#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/socket.h>

#include "vmm/jail/walls.h"

static const int refused[] = {
	/* file systems and names */
	SCMP_SYS(mount),
	SCMP_SYS(umount2),
	SCMP_SYS(pivot_root),
	SCMP_SYS(chroot),
	SCMP_SYS(open_tree),
	SCMP_SYS(move_mount),
	SCMP_SYS(fsopen),
	SCMP_SYS(fsconfig),
	SCMP_SYS(fsmount),
	SCMP_SYS(fspick),
	SCMP_SYS(mount_setattr),
	SCMP_SYS(mknod),
	SCMP_SYS(mknodat),
	SCMP_SYS(name_to_handle_at),
	SCMP_SYS(open_by_handle_at),
	SCMP_SYS(quotactl),
	SCMP_SYS(quotactl_fd),
	SCMP_SYS(swapon),
	SCMP_SYS(swapoff),
	SCMP_SYS(fanotify_init),
	/* namespaces */
	SCMP_SYS(unshare),
	SCMP_SYS(setns),
	SCMP_SYS(sethostname),
	SCMP_SYS(setdomainname),
	/* other processes */
	SCMP_SYS(ptrace),
	SCMP_SYS(process_vm_readv),
	SCMP_SYS(process_vm_writev),
	SCMP_SYS(process_madvise),
	SCMP_SYS(process_mrelease),
	SCMP_SYS(pidfd_getfd),
	SCMP_SYS(pidfd_open),
	SCMP_SYS(kcmp),
	/* the kernel itself */
	SCMP_SYS(bpf),
	SCMP_SYS(perf_event_open),
	SCMP_SYS(io_uring_setup),
	SCMP_SYS(io_uring_enter),
	SCMP_SYS(io_uring_register),
	SCMP_SYS(userfaultfd), /* it is handed /dev/userfaultfd, and closes it */
	SCMP_SYS(kexec_load),
	SCMP_SYS(kexec_file_load),
	SCMP_SYS(init_module),
	SCMP_SYS(finit_module),
	SCMP_SYS(delete_module),
	SCMP_SYS(reboot),
	SCMP_SYS(syslog),
	SCMP_SYS(acct),
	SCMP_SYS(iopl),
	SCMP_SYS(ioperm),
	SCMP_SYS(modify_ldt),
	SCMP_SYS(lookup_dcookie),
	SCMP_SYS(vhangup),
	/* keys: not in any namespace that we make */
	SCMP_SYS(add_key),
	SCMP_SYS(request_key),
	SCMP_SYS(keyctl),
	/* clocks */
	SCMP_SYS(settimeofday),
	SCMP_SYS(clock_settime),
	SCMP_SYS(adjtimex),
	SCMP_SYS(clock_adjtime),
	/* other people's memory policy */
	SCMP_SYS(migrate_pages),
	SCMP_SYS(move_pages),
};

#define NEW_NAMESPACES                                                                             \
	(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | \
	 CLONE_NEWCGROUP)

static int refuse_clone(scmp_filter_ctx f)
{
	int r = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);

	for (unsigned bit = 0; bit < 32 && r == 0; bit++) {
		uint64_t flag = 1ull << bit;

		if (flag & NEW_NAMESPACES)
			r = seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
					     SCMP_A0(SCMP_CMP_MASKED_EQ, flag, flag));
	}
	return r;
}

/* The low 32 bits are what the kernel looks at. */
static int refuse_arguments(scmp_filter_ctx f)
{
	const uint64_t low = 0xffffffff;
	int r = seccomp_rule_add(f, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
				 SCMP_A0(SCMP_CMP_NE, AF_UNIX, 0));

	if (r == 0) /* input for a terminal, and its second form */
		r = seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
				     SCMP_A1(SCMP_CMP_MASKED_EQ, low, TIOCSTI));
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
				     SCMP_A1(SCMP_CMP_MASKED_EQ, low, TIOCLINUX));
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(personality), 1,
				     SCMP_A0(SCMP_CMP_NE, 0xffffffff, 0));
	return r;
}

int wall_filter(void)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
	int r = f ? 0 : -ENOMEM;

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]) && r == 0; i++)
		r = seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), refused[i], 0);
	if (r == 0)
		r = refuse_clone(f);
	if (r == 0)
		r = refuse_arguments(f);
	if (r == 0) /* other ABIs have other numbers: no program of them runs here */
		r = seccomp_attr_set(f, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	if (r == 0)
		r = seccomp_load(f);
	seccomp_release(f);
	errno = -r;
	return r < 0 ? wall_fail("seccomp", "") : 0;
}
