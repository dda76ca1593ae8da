/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

static void test_passing(void **state)
{
	int s[2], p[2], got[2], more[1];
	size_t n;
	char c[8];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(fd_send(s[0], "hi", 2, p, 2), 0);
	assert_int_equal(fd_recv(s[1], c, sizeof(c), got, 2, &n), 2);
	assert_int_equal(n, 2);
	assert_true(fcntl(got[0], F_GETFD) & FD_CLOEXEC);
	assert_int_equal(fd_write_full(got[1], "abc", 3), 0);
	assert_int_equal(fd_read_full(p[0], c, 3), 0);
	assert_memory_equal(c, "abc", 3);
	/* more descriptors than wanted are closed, not leaked */
	assert_int_equal(fd_send(s[0], "x", 1, p, 2), 0);
	assert_int_equal(fd_recv(s[1], c, sizeof(c), more, 1, &n), 1);
	assert_int_equal(n, 1);
	assert_int_equal(fcntl(more[0] + 1, F_GETFD), -1);
	close(more[0]);
	for (int i = 0; i < 2; i++) {
		close(s[i]);
		close(p[i]);
		close(got[i]);
	}
}

static void test_deadlines(void **state)
{
	int s[2];
	static char big[1 << 20];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	assert_int_equal(fd_poll(s[0], POLLIN, deadline_after_ms(5)), 0);
	assert_int_equal(fd_write_deadline(s[0], big, sizeof(big), deadline_after_ms(20)), -ETIMEDOUT);
	close(s[1]);
	assert_int_equal(fd_write_deadline(s[0], big, 1, deadline_after_ms(20)), -EPIPE);
	close(s[0]);
}

static void test_unix_paths(void **state)
{
	char path[200];

	memset(path, 'a', sizeof(path) - 1);
	path[sizeof(path) - 1] = 0;
	assert_int_equal(fd_unix_listen(path, SOCK_STREAM, 0600), -ENAMETOOLONG);
	assert_int_equal(fd_unix_connect("/nonexistent/x", SOCK_STREAM), -ENOENT);
}

static void test_tcp(void **state)
{
	static const char *const bad[] = {"",	       "3000",	     ":3000",	"localhost:3000",
					  "127.0.0.1:", "127.0.0.1:x", "::1:3000", "[::1]",
					  "[]:3000",	"127.0.0.1:65536", "[127.0.0.1]:3000"};
	int fd;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(fd_tcp_listen(bad[i]), -EINVAL);
	fd = fd_tcp_listen("127.0.0.1:0");
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
	assert_int_equal(fd_tcp_listen("192.0.2.1:0"), -EADDRNOTAVAIL);
}

TEST_MAIN(cmocka_unit_test(test_passing), cmocka_unit_test(test_deadlines),
	  cmocka_unit_test(test_unix_paths), cmocka_unit_test(test_tcp))
