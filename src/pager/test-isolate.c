/* SPDX-License-Identifier: Apache-2.0 */
/* Every case is a process of its own: what was given up cannot be had back. */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pager/isolate.h"

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

typedef int body_fn(void);

/* Return: exit status, or minus the signal; what it said is in @output */
static int in_child(const struct isolate_options *options, body_fn *body, char output[512])
{
	int p[2], status;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		struct problem problem = PROBLEM_INIT;

		dup2(p[1], STDERR_FILENO);
		if (isolate_begin(&problem) < 0 || isolate_opened(options, &problem) < 0 ||
		    isolate_serve(options, &problem) < 0) {
			fprintf(stderr, "%s\n", problem.message);
			_exit(120);
		}
		_exit(body());
	}
	close(p[1]);
	n = read(p[0], output, 511);
	output[n > 0 ? n : 0] = 0;
	close(p[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int forbidden_execve(void)
{
	char *const argv[] = {(char *)"true", NULL};

	return execve("/bin/true", argv, argv) < 0 ? 1 : 2;
}

static int forbidden_inet(void)
{
	return socket(AF_INET, SOCK_STREAM, 0) < 0 ? 1 : 2;
}

static int forbidden_fork(void)
{
	return (int)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) < 0 ? 1 : 2;
}

static int forbidden_vfork(void)
{
	return syscall(SYS_fork) < 0 ? 1 : 2;
}

static int forbidden_ptrace(void)
{
	return ptrace(PTRACE_TRACEME, 0, 0, 0) < 0 ? 1 : 2;
}

static int forbidden_exec_memory(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return mprotect(p, 4096, PROT_READ | PROT_EXEC) < 0 ? 1 : 2;
}

static int forbidden_ioctl(void)
{
	int size = 0;

	return ioctl(0, FIONREAD, &size) < 0 ? 1 : 2;
}

static int forbidden_prctl(void)
{
	return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) < 0 ? 1 : 2;
}

static int forbidden_setuid(void)
{
	return (int)syscall(SYS_setuid, 0) < 0 ? 1 : 2;
}

static const struct {
	body_fn *body;
	const char *named; /* in the log */
	bool sanitizer_needs_it;
} forbidden[] = {
	{forbidden_execve, "#0059", false},	 {forbidden_inet, "socket #0041", false},
	{forbidden_fork, "clone #0056", true},	 {forbidden_vfork, "#0057", false},
	{forbidden_ptrace, "#0101", true},	 {forbidden_exec_memory, "mprotect", true},
	{forbidden_ioctl, "ioctl #0016", false}, {forbidden_prctl, "prctl #0157", true},
	{forbidden_setuid, "#0105", false},
};

static void test_forbidden(void **state)
{
	struct isolate_options enforce = {.seccomp = ISOLATE_SECCOMP_ENFORCE};
	struct isolate_options log = {.seccomp = ISOLATE_SECCOMP_LOG};
	char output[512];

	for (size_t i = 0; i < sizeof(forbidden) / sizeof(*forbidden); i++) {
		int r;

		if (SANITIZED && forbidden[i].sanitizer_needs_it)
			continue;
		r = in_child(&enforce, forbidden[i].body, output);
		if (r != -SIGSYS)
			fail_msg("forbidden call %zu ended with %d: %s", i, r, output);
		assert_string_equal(output, "");
		r = in_child(&log, forbidden[i].body, output);
		if (r != 159 || !strstr(output, forbidden[i].named))
			fail_msg("forbidden call %zu ended with %d: %s", i, r, output);
	}
}

static void *thread_main(void *data)
{
	(void)prctl(PR_SET_NAME, "named");
	return data;
}

static int allowed(void)
{
	pthread_t t;
	void *result;
	int one = 1, fd = socket(AF_UNIX, SOCK_STREAM, 0);

	if (fd < 0 || pthread_create(&t, NULL, thread_main, &one) != 0 ||
	    pthread_join(t, &result) != 0 || result != &one)
		return 1;
	if (memfd_create("x", MFD_CLOEXEC) < 0 || !malloc(1u << 22))
		return 2;
	return 0;
}

static void test_allowed(void **state)
{
	struct isolate_options o = {.seccomp = ISOLATE_SECCOMP_ENFORCE};
	char output[512];

	assert_int_equal(in_child(&o, allowed, output), 0);
	o.seccomp = ISOLATE_SECCOMP_LOG;
	assert_int_equal(in_child(&o, allowed, output), 0);
	assert_string_equal(output, "");
	o.seccomp = ISOLATE_SECCOMP_OFF;
	assert_int_equal(in_child(&o, forbidden_inet, output), 2);
	assert_true(isolate_is_listed("io_uring_setup"));
	assert_true(isolate_is_listed("io_uring_enter"));
	assert_true(isolate_is_listed("io_uring_register"));
	assert_false(isolate_is_listed("execve"));
}

/* Says what is left: capabilities, and whether the process is marked as it should be. */
static int show(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2];
	struct rlimit core;

	if (syscall(SYS_capget, &header, d) < 0 || getrlimit(RLIMIT_CORE, &core) < 0)
		return 1;
	fprintf(stderr, "%08x%08x %08x%08x %d %d %d", d[1].effective, d[0].effective,
		d[1].inheritable, d[0].inheritable, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
		prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), (int)core.rlim_max);
	return 0;
}

static uint64_t permitted_now(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2];

	assert_int_equal(syscall(SYS_capget, &header, d), 0);
	return (uint64_t)d[1].permitted << 32 | d[0].permitted;
}

static void test_privileges(void **state)
{
	struct isolate_options o = {.seccomp = ISOLATE_SECCOMP_OFF};
	uint64_t mine = permitted_now();
	char output[512], want[512];

	for (int take_back = 0; take_back < 2; take_back++) {
		uint64_t keep = 1ull << CAP_KILL | (uint64_t)take_back << CAP_SYS_PTRACE |
				(uint64_t)take_back << CAP_CHECKPOINT_RESTORE |
				(uint64_t)take_back << CAP_DAC_READ_SEARCH;

		o.take_back = take_back;
		assert_int_equal(in_child(&o, show, output), 0);
		(void)snprintf(want, sizeof(want), "%016llx %016x 1 0 0",
			       (unsigned long long)(mine & keep), 0);
		assert_string_equal(output, want);
	}
}

static void test_parse(void **state)
{
	enum isolate_seccomp s = ISOLATE_SECCOMP_OFF;

	assert_int_equal(isolate_seccomp_parse("enforce", &s), 0);
	assert_int_equal(s, ISOLATE_SECCOMP_ENFORCE);
	assert_int_equal(isolate_seccomp_parse("log", &s), 0);
	assert_int_equal(s, ISOLATE_SECCOMP_LOG);
	assert_int_equal(isolate_seccomp_parse("off", &s), 0);
	assert_int_equal(s, ISOLATE_SECCOMP_OFF);
	assert_int_equal(isolate_seccomp_parse("of", &s), -EINVAL);
}

TEST_MAIN(cmocka_unit_test(test_parse), cmocka_unit_test(test_privileges),
	  cmocka_unit_test(test_forbidden), cmocka_unit_test(test_allowed))
