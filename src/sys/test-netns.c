/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "sys/netns.h"
#include "sys/pidfd.h"
#include "sys/spawn.h"

/* A program in the new namespace sees one interface, and we are where we were. */
static void test_is_empty(void **state)
{
	_cleanup_fd_ int ns = -1, pidfd = -1, out_r = -1, out_w = -1;
	const char *const argv[] = {"cat", "/proc/net/dev", NULL};
	struct stat before, after, new;
	struct spawn_options o = {.argv = argv};
	struct pidfd_end end = {0};
	char text[4096] = "";
	int pipes[2], lines = 0;

	assert_int_equal(stat("/proc/self/ns/net", &before), 0);
	ns = netns_new();
	if (ns == -EPERM)
		skip();
	assert_true(ns >= 0);
	assert_int_equal(stat("/proc/self/ns/net", &after), 0);
	assert_int_equal(fstat(ns, &new), 0);
	assert_int_equal(before.st_ino, after.st_ino);
	assert_int_not_equal(before.st_ino, new.st_ino);

	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	out_r = pipes[0];
	out_w = o.output_fd = pipes[1];
	o.netns_fd = ns;
	assert_int_equal(spawn(&o, NULL, &pidfd), 0);
	out_w = fd_close(out_w);
	assert_true(read(out_r, text, sizeof(text) - 1) > 0);
	assert_int_equal(pidfd_wait(pidfd, deadline_after_ms(5000)), 0);
	(void)pidfd_reap(pidfd, &end);
	for (const char *p = text; *p; p++)
		lines += *p == '\n';
	assert_int_equal(lines, 3); /* two of heading, one of lo */
	assert_non_null(strstr(text, "lo:"));
}

TEST_MAIN(cmocka_unit_test(test_is_empty))
