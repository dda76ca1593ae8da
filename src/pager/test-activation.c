/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "pager/activation.h"

static void set_env(const char *pid, const char *fds, const char *names)
{
	char own[16];

	if (pid && !strcmp(pid, "own")) {
		(void)snprintf(own, sizeof(own), "%d", getpid());
		pid = own;
	}
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	if (pid)
		setenv("LISTEN_PID", pid, 1);
	if (fds)
		setenv("LISTEN_FDS", fds, 1);
	if (names)
		setenv("LISTEN_FDNAMES", names, 1);
}

static int take(const char *pid, const char *fds, const char *names, struct activation *ret)
{
	struct problem problem = PROBLEM_INIT;
	int r;

	set_env(pid, fds, names);
	r = activation_take(ret, &problem);
	assert_int_equal(r < 0, problem_is_set(&problem));
	assert_null(getenv("LISTEN_PID"));
	assert_null(getenv("LISTEN_FDS"));
	assert_null(getenv("LISTEN_FDNAMES"));
	return r;
}

/* What this needs at descriptors 3 and 4 would disturb the test program: a child has it. */
static int in_child(int (*body)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		int s = socket(AF_UNIX, SOCK_STREAM, 0), t = socket(AF_UNIX, SOCK_SEQPACKET, 0);

		s = fcntl(s, F_DUPFD, 10);
		t = fcntl(t, F_DUPFD, 10);
		dup2(s, 3);
		dup2(t, 4);
		close(5);
		_exit(body());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int takes_two(void)
{
	struct activation a = {0};

	if (take("own", "2", "listen:control", &a) != 0 || a.n != 2)
		return 1;
	if (a.sockets[0].fd != 3 || strcmp(a.sockets[0].name, "listen") != 0)
		return 2;
	if (a.sockets[1].fd != 4 || strcmp(a.sockets[1].name, "control") != 0)
		return 3;
	return fcntl(3, F_GETFD) == FD_CLOEXEC && fcntl(4, F_GETFD) == FD_CLOEXEC ? 0 : 4;
}

static int takes_without_names(void)
{
	struct activation a = {0};

	if (take("own", "2", NULL, &a) != 0 || a.n != 2 || strcmp(a.sockets[1].name, "unknown"))
		return 1;
	if (take("own", "2", "x", &a) != 0 || strcmp(a.sockets[0].name, "x") ||
	    strcmp(a.sockets[1].name, "unknown"))
		return 2;
	return take("own", "2", ":y", &a) == 0 && !strcmp(a.sockets[1].name, "y") &&
			       !strcmp(a.sockets[0].name, "unknown")
		       ? 0
		       : 3;
}

static int misses_one(void)
{
	struct activation a = {.n = 77};

	return take("own", "3", NULL, &a) == -EINVAL && a.n == 77 ? 0 : 1;
}

static int checks_sockets(void)
{
	struct problem problem = PROBLEM_INIT;

	if (activation_check(3, SOCK_STREAM, "a", &problem) != -EPROTOTYPE)
		return 1; /* it does not listen */
	if (!strstr(problem.message, "\"a\"") || !strstr(problem.hint, "ListenStream="))
		return 2;
	if (activation_check(1, SOCK_STREAM, "b", NULL) != -ENOTSOCK)
		return 3;
	return 0;
}

static void test_take(void **state)
{
	assert_int_equal(in_child(takes_two), 0);
	assert_int_equal(in_child(takes_without_names), 0);
	assert_int_equal(in_child(misses_one), 0);
	assert_int_equal(in_child(checks_sockets), 0);
}

static void test_none(void **state)
{
	struct activation a = {.n = 77};

	assert_int_equal(take(NULL, NULL, NULL, &a), 0);
	assert_int_equal(a.n, 0);
	assert_int_equal(take("1", "2", NULL, &a), 0); /* somebody else's */
	assert_int_equal(a.n, 0);
	assert_int_equal(take("own", "0", NULL, &a), 0);
	assert_int_equal(a.n, 0);
}

static void test_nonsense(void **state)
{
	struct activation a = {0};

	assert_int_equal(take("own", NULL, NULL, &a), -EINVAL);
	assert_int_equal(take(NULL, "1", NULL, &a), -EINVAL);
	assert_int_equal(take("own", "-1", NULL, &a), -EINVAL);
	assert_int_equal(take("own", "1x", NULL, &a), -EINVAL);
	assert_int_equal(take("own", "99999999999999999999", NULL, &a), -EINVAL);
	assert_int_equal(take("own", "17", NULL, &a), -EINVAL);
	assert_int_equal(take("", "1", NULL, &a), -EINVAL);
}

static void test_check(void **state)
{
	char dir[] = "/tmp/test-activation-XXXXXX", path[64];
	_cleanup_fd_ int fd = -1;

	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/s", dir);
	fd = fd_unix_listen(path, SOCK_STREAM, 0600);
	assert_true(fd >= 0);
	assert_int_equal(activation_check(fd, SOCK_STREAM, "x", NULL), 0);
	assert_int_equal(activation_check(fd, SOCK_SEQPACKET, "x", NULL), -EPROTOTYPE);
	unlink(path);
	rmdir(dir);
}

TEST_MAIN(cmocka_unit_test(test_take), cmocka_unit_test(test_none), cmocka_unit_test(test_nonsense),
	  cmocka_unit_test(test_check))
