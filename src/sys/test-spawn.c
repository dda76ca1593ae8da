/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "sys/pidfd.h"
#include "sys/spawn.h"

static int run(const char *script, struct buf *out, uint64_t ms)
{
	const char *const argv[] = {"sh", "-c", script, NULL};
	int status = -1, r = spawn_run(argv, "/", deadline_after_ms(ms), out, &status);

	return r < 0 ? r : status;
}

static void test_run(void **state)
{
	_cleanup_buf_ struct buf out = {0};
	const char *const nothing[] = {"/nonexistent/program", NULL};
	const char *const bad_cwd[] = {"true", NULL};
	int status;

	assert_int_equal(run("pwd; echo two >&2; exit 3", &out, 5000), 3);
	assert_string_equal(out.data, "/\ntwo\n");
	assert_int_equal(run("kill -9 $$", NULL, 5000), 128 + SIGKILL);
	assert_int_equal(spawn_run(nothing, NULL, deadline_after_ms(5000), NULL, &status), -ENOENT);
	assert_int_equal(spawn_run(bad_cwd, "/nonexistent", deadline_after_ms(5000), NULL, &status),
			 -ENOENT);
}

static void test_run_deadline(void **state)
{
	_cleanup_buf_ struct buf out = {0};
	uint64_t t = clock_now_ns();

	assert_int_equal(run("echo a; sleep 61 & sleep 61", &out, 200), -ETIMEDOUT);
	assert_true(clock_now_ns() - t < 5 * NSEC_PER_SEC);
	assert_string_equal(out.data, "a\n");
	/* a background child that holds the pipe does not delay the result */
	t = clock_now_ns();
	assert_int_equal(run("sleep 3 & exit 4", &out, 20000), 4);
	assert_true(clock_now_ns() - t < 2 * NSEC_PER_SEC);
}

static void test_run_output_bounded(void **state)
{
	_cleanup_buf_ struct buf out = {0};

	assert_int_equal(buf_append(&out, "kept", 4), 0);
	assert_int_equal(run("head -c 2000000 /dev/zero | tr '\\0' x; echo end", &out, 20000), 0);
	assert_int_equal(out.len, 4 + SPAWN_OUTPUT_MAX);
	assert_memory_equal(out.data, "keptxx", 6);
	assert_string_equal(out.data + out.len - 5, "xend\n");
}

/* Start sh with everything that can be set and let it report what it sees. */
static void test_options(void **state)
{
	const char *script =
		"echo $FOO $LEAK; cat <&3; cat <&4; ls -l /proc/self/fd | wc -l; ulimit -c;"
		"grep -E 'Sig(Blk|Ign)' /proc/self/status; "
		"cut -d' ' -f6 /proc/self/stat; echo $$";
	const char *const argv[] = {"sh", "-c", script, NULL}, *const env[] = {"FOO=bar", NULL};
	const struct spawn_limit limits[] = {{RLIMIT_CORE, 0}};
	int out = memfd_create("out", MFD_CLOEXEC), a = memfd_create("a", 0),
	    b = memfd_create("b", 0);
	int leak = open("/dev/zero", O_RDONLY), fds[] = {b, a}, pidfd = -1;
	char text[1024] = "", expect[1024];
	struct pidfd_end end;
	sigset_t set;
	pid_t pid;
	struct spawn_options o = {.argv = argv,
				  .env = env,
				  .clear_env = true,
				  .fds = fds,
				  .n_fds = 2,
				  .output_fd = out,
				  .cwd = "/",
				  .new_session = true,
				  .limits = limits,
				  .n_limits = 1};

	assert_int_equal(fd_write_full(a, "A\n", 2) | fd_write_full(b, "B\n", 2), 0);
	lseek(a, 0, SEEK_SET);
	lseek(b, 0, SEEK_SET);
	setenv("LEAK", "leaked", 1);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	assert_int_equal(spawn(&o, &pid, &pidfd), 0);
	assert_int_equal(pidfd_wait(pidfd, deadline_after_ms(5000)), 0);
	assert_int_equal(pidfd_reap(pidfd, &end), 0);
	assert_int_equal(end.status, 0);
	/* ls sees 0 1 2 3 4, its own directory descriptor, and a line of total */
	snprintf(expect, sizeof(expect),
		 "bar\nB\nA\n7\n0\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n%d\n%d\n",
		 (int)pid, (int)pid);
	assert_true(pread(out, text, sizeof(text) - 1, 0) > 0);
	assert_string_equal(text, expect);
	assert_true(fcntl(leak, F_GETFD) >= 0);
	fd_close(pidfd);
}

static void test_no_leaks(void **state)
{
	int before = dup(0), after;

	for (int i = 0; i < 20; i++)
		assert_int_equal(run("exit 0", NULL, 5000), 0);
	after = dup(0);
	assert_int_equal(after, before + 1);
	close(before);
	close(after);
}

/* The first process of a namespace; for us it has another number, and is waited for like any. */
static void test_new_pids(void **state)
{
	const char *const argv[] = {"sh", "-c", "echo $$; kill -9 $$; exit 9", NULL};
	_cleanup_buf_ struct buf out = {0};
	int status = -1;
	int r = spawn_run_isolated(argv, true, deadline_after_ms(5000), &out, &status);

	if (r == -EPERM)
		skip();
	assert_int_equal(r, 0);
	assert_int_equal(status, 9); /* nobody inside can kill the first one */
	assert_string_equal(out.data, "1\n");
}

TEST_MAIN(cmocka_unit_test(test_run), cmocka_unit_test(test_run_deadline),
	  cmocka_unit_test(test_run_output_bounded), cmocka_unit_test(test_options),
	  cmocka_unit_test(test_no_leaks), cmocka_unit_test(test_new_pids))
