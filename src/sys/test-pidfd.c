/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "sys/pidfd.h"

static pid_t start(int status, unsigned sleep_s)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		if (sleep_s)
			sleep(sleep_s);
		_exit(status);
	}
	return pid;
}

static void test_exit(void **state)
{
	int fd = pidfd_from_pid(start(7, 0));
	struct pidfd_end end = {0};
	char text[64];

	assert_true(fd >= 0);
	assert_int_equal(pidfd_wait(fd, deadline_after_ms(5000)), 0);
	assert_int_equal(pidfd_is_gone(fd), 1);
	assert_int_equal(pidfd_reap(fd, &end), 0);
	assert_int_equal(end.status, 7);
	assert_int_equal(end.signal, 0);
	pidfd_describe_end(&end, text, sizeof(text));
	assert_string_equal(text, "exited with status 7");
	assert_int_equal(pidfd_reap(fd, &end), -ECHILD);
	assert_int_equal(pidfd_signal(fd, SIGKILL), -ESRCH);
	fd_close(fd);
}

static void test_kill(void **state)
{
	int fd = pidfd_from_pid(start(0, 60));
	struct pidfd_end end = {0};
	char text[64];

	assert_true(fd >= 0);
	assert_int_equal(pidfd_is_gone(fd), 0);
	assert_int_equal(pidfd_reap(fd, &end), -EAGAIN);
	assert_int_equal(pidfd_wait(fd, deadline_after_ms(10)), -ETIMEDOUT);
	assert_int_equal(pidfd_signal(fd, SIGKILL), 0);
	assert_int_equal(pidfd_wait(fd, deadline_after_ms(5000)), 0);
	assert_int_equal(pidfd_reap(fd, &end), 0);
	assert_int_equal(end.signal, SIGKILL);
	pidfd_describe_end(&end, text, sizeof(text));
	assert_string_equal(text, "killed by signal 9 (Killed)");
	fd_close(fd);
}

static void test_no_such_process(void **state)
{
	pid_t pid = start(0, 0);

	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(pidfd_from_pid(pid), -ESRCH);
}

TEST_MAIN(cmocka_unit_test(test_exit), cmocka_unit_test(test_kill),
	  cmocka_unit_test(test_no_such_process))
