/* SPDX-License-Identifier: Apache-2.0 */
/*
 * isolate.c - capabilities, privileges, system calls
 *
 * The filter is a list of what is allowed, made by libseccomp; everything else kills. One call gets
 * an answer in place of that: clone3, whose flags are in memory that a filter cannot read. With
 * ENOSYS the C library falls back to clone, whose flags can be read: threads, and no processes.
 *
 * Installed before the threads start, so that all of them have it by inheritance, and a supervisor
 * that forked the worker does not.
 *
 * Capabilities are dropped with the system call itself. The bounding set goes first, while
 * CAP_SETPCAP is still there; where it never was, the set stays, and no_new_privs makes it idle.
 */
#include "pager/isolate.h"

#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mem.h"
#include "sys/pagecache.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ISOLATE_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
	__has_feature(memory_sanitizer)
#define ISOLATE_SANITIZED 1
#endif
#endif
#ifndef ISOLATE_SANITIZED
#define ISOLATE_SANITIZED 0
#endif

#define STATUS_SIGSYS 159 /* 128 + SIGSYS, as a shell would say it */

/* Which arguments of a call are allowed. */
enum arguments {
	ANY,
	UFFD_IOCTL,
	PAGEMAP_IOCTL,
	TTY_IOCTL,
	UNIX_SOCKET,
	THREAD,
	THREAD_NAME,
	NO_EXEC
};

struct call {
	const char *name;
	int number; /* libseccomp's, negative where the machine does not have it */
	enum arguments arguments;
	const char *who;
};

/* newer than some systems' headers */
#ifndef __SNR_cachestat
#define __SNR_cachestat __NR_cachestat
#endif

#define CALL(_name, _arguments, _who)                                                              \
	{                                                                                          \
#_name, SCMP_SYS(_name), _arguments, _who                                          \
	}
#include "pager/isolate-calls.h"

static const struct scmp_arg_cmp conditions[] = {
	/* type and number of an ioctl are its low 16 bits: any of userfaultfd's, one of pagemap's
	 */
	[UFFD_IOCTL] = {1, SCMP_CMP_MASKED_EQ, 0xff00, 0xaa00},
	[PAGEMAP_IOCTL] = {1, SCMP_CMP_MASKED_EQ, 0xffff, 0x6610},
	[TTY_IOCTL] = {1, SCMP_CMP_MASKED_EQ, 0xffffffff, 0x5401}, /* TCGETS */
	[UNIX_SOCKET] = {0, SCMP_CMP_EQ, AF_UNIX, 0},
	[THREAD] = {0, SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD},
	[THREAD_NAME] = {0, SCMP_CMP_EQ, PR_SET_NAME, 0},
	[NO_EXEC] = {2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0},
};

int isolate_seccomp_parse(const char *text, enum isolate_seccomp *ret)
{
	static const char *const names[] = {[ISOLATE_SECCOMP_ENFORCE] = "enforce",
					    [ISOLATE_SECCOMP_LOG] = "log",
					    [ISOLATE_SECCOMP_OFF] = "off"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(text, names[i]) != 0)
			continue;
		*ret = (enum isolate_seccomp)i;
		return 0;
	}
	return -EINVAL;
}

bool isolate_is_listed(const char *call)
{
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		if (!strcmp(calls[i].name, call))
			return true;
	return false;
}

/* ---- stages 1 and 2 ---------------------------------------------------------------------------
 */

int isolate_begin(struct problem *problem)
{
	struct rlimit none = {0, 0};

	if (setrlimit(RLIMIT_CORE, &none) == 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)
		return 0;
	problem_errno(problem, -errno, "isolation: core dumps cannot be turned off");
	return error_errno();
}

static void drop_bounding_set(uint64_t keep)
{
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(keep >> cap & 1))
			(void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* EPERM: see the theory */
}

static int drop_capabilities(uint64_t keep)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data) < 0)
		return error_errno();
	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); /* EINVAL: not known */
	drop_bounding_set(keep);
	for (int i = 0; i < 2; i++) {
		data[i].permitted &= (uint32_t)(keep >> (32 * i));
		data[i].effective = data[i].permitted;
		data[i].inheritable = 0;
	}
	return syscall(SYS_capset, &header, data) < 0 ? error_errno() : 0;
}

int isolate_opened(const struct isolate_options *options, struct problem *problem)
{
	uint64_t keep = 1ull << CAP_KILL;
	int r;

	if (options->take_back)
		keep |= 1ull << CAP_SYS_PTRACE | 1ull << CAP_CHECKPOINT_RESTORE |
			1ull << CAP_DAC_READ_SEARCH;
	r = drop_capabilities(keep);
	if (r == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		r = error_errno();
	if (r == 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		r = error_errno();
	if (r < 0)
		problem_errno(problem, r, "isolation: privileges cannot be dropped");
	return r;
}

/* ---- stage 3 ----------------------------------------------------------------------------------
 */

/* Writes one line, with nothing that could fail or lock, and ends. */
static void name_violation(int sig, siginfo_t *info, void *context)
{
	char line[128] = "dorm-pager error: seccomp: a system call that is not on the list: ";
	const char *name = "?";
	size_t len = strlen(line);

	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) /* listed, but with other arguments */
		if (calls[i].number == info->si_syscall)
			name = calls[i].name;
	for (size_t i = 0; name[i]; i++)
		line[len++] = name[i];
	line[len++] = ' ';
	line[len++] = '#';
	for (unsigned div = 1000, n = (unsigned)info->si_syscall; div; div /= 10)
		line[len++] = (char)('0' + n / div % 10);
	line[len++] = '\n';
	(void)!write(STDERR_FILENO, line, len); /* there is nobody else to tell */
	_exit(STATUS_SIGSYS);
}

static int catch_violations(void)
{
	struct sigaction sa = {.sa_sigaction = name_violation, .sa_flags = SA_SIGINFO};

	sigemptyset(&sa.sa_mask);
	return sigaction(SIGSYS, &sa, NULL) < 0 ? error_errno() : 0;
}

static void filter_freep(scmp_filter_ctx *filter)
{
	if (*filter)
		seccomp_release(*filter);
}

static int add_calls(scmp_filter_ctx filter)
{
	int r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(calls); i++) {
		const struct call *c = &calls[i];

		if (c->number == __NR_SCMP_ERROR)
			continue;
		r = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, c->number,
					   c->arguments == ANY ? 0 : 1, &conditions[c->arguments]);
	}
	return r;
}

static int load_filter(const struct isolate_options *options)
{
	bool log = options->seccomp == ISOLATE_SECCOMP_LOG;
	_cleanup_(filter_freep) scmp_filter_ctx filter =
		seccomp_init(log ? SCMP_ACT_TRAP : SCMP_ACT_KILL_PROCESS);
	int r;

	if (!filter)
		return -ENOMEM;
	r = add_calls(filter);
	/* The kernel remembers calls that are always allowed. ioctl() is looked at each time, once
	 * or twice for every fault: it comes first. */
	if (r == 0)
		r = seccomp_syscall_priority(filter, SCMP_SYS(ioctl), UINT8_MAX);
	if (r == 0 && log)
		r = catch_violations();
	return r < 0 ? r : seccomp_load(filter);
}

int isolate_serve(const struct isolate_options *options, struct problem *problem)
{
	int r;

	if (options->seccomp == ISOLATE_SECCOMP_OFF)
		return 0;
	r = load_filter(options);
	if (r < 0) {
		problem_errno(problem, r, "isolation: the filter of system calls cannot be loaded");
		problem_hint(problem, "--seccomp=off goes on without it");
	}
	return error_trace(r);
}
