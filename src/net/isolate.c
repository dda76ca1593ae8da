/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In this order: an empty network namespace and an unprivileged user while we still may, then no
 * new privileges, then the filter of system calls, a list of what is allowed; everything else
 * kills, and dormd starts another dorm-net.
 *
 * A user who is not root has no more to give up: the filter takes sockets away from it just as
 * well. With a sanitizer there is no filter: its run-time makes system calls of its own.
 */
#include "net/isolate.h"

#include <errno.h>
#include <grp.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mem.h"

#define NOBODY 65534

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static const int calls[] = {
	/* the loop */
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	SCMP_SYS(restart_syscall),
	SCMP_SYS(recvfrom),
	SCMP_SYS(recvmsg),
	SCMP_SYS(sendto),
	SCMP_SYS(sendmsg),
	SCMP_SYS(read),
	SCMP_SYS(write),
	SCMP_SYS(accept4),
	SCMP_SYS(close),
	/* memory, and the locks in it */
	SCMP_SYS(brk),
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	SCMP_SYS(futex),
	/* what the C library does besides */
	SCMP_SYS(clock_gettime),
	SCMP_SYS(gettimeofday),
	SCMP_SYS(getpid),
	SCMP_SYS(gettid),
	SCMP_SYS(newfstatat),
	SCMP_SYS(fstat),
	SCMP_SYS(getrandom),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(tgkill),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
};

static int leave_root(void)
{
	if (geteuid() != 0)
		return 0;
	if (unshare(CLONE_NEWNET) < 0 && errno != EPERM) /* root in a container without the right */
		return error_errno();
	if (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
	    setresuid(NOBODY, NOBODY, NOBODY) < 0)
		return error_errno();
	return 0;
}

static int no_privileges(void)
{
	const struct rlimit none = {0, 0};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
	    setrlimit(RLIMIT_CORE, &none) < 0)
		return error_errno();
	return 0;
}

static void filter_freep(scmp_filter_ctx *filter)
{
	if (*filter)
		seccomp_release(*filter);
}

static int load_filter(void)
{
	const struct scmp_arg_cmp no_exec = {2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0};
	_cleanup_(filter_freep) scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int r = 0;

	if (!filter)
		return -ENOMEM;
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(calls); i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0);
	if (r == 0)
		r = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, &no_exec);
	if (r == 0)
		r = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, &no_exec);
	return r < 0 ? r : seccomp_load(filter);
}

int net_tame_children(struct problem *problem)
{
	_cleanup_(filter_freep) scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	int r = filter ? 0 : -ENOMEM;

	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(0), SCMP_SYS(setsockopt), 2,
				     SCMP_A1(SCMP_CMP_EQ, SOL_SOCKET, 0),
				     SCMP_A2(SCMP_CMP_EQ, SO_REUSEADDR, 0));
	if (r == 0)
		r = seccomp_load(filter); /* with no_new_privs, as it does by default */
	if (r < 0)
		problem_errno(problem, r, "passt cannot be kept from sharing ports");
	return error_trace(r);
}

int net_isolate(struct problem *problem)
{
	int r = leave_root();

	if (r == 0)
		r = no_privileges();
	if (r == 0 && !SANITIZED)
		r = load_filter();
	if (r < 0)
		problem_errno(problem, r, "dorm-net cannot shut itself in");
	return error_trace(r);
}
