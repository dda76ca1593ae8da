/* SPDX-License-Identifier: Apache-2.0 */
/* With the cgroups of this host, whichever version it has; skipped where none can be written. */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/cgroup.h"

static struct cgroups groups;
static char parent[64], group[80];

static uint64_t value(enum cgroup_controller c, const char *v1, const char *v2)
{
	_cleanup_free_ char *path =
		str_printf("%s/%s/%s", groups.places[c], group, groups.version == 1 ? v1 : v2);
	_cleanup_free_ char *text = NULL;

	assert_int_equal(file_read(AT_FDCWD, path, 4096, &text, NULL), 0);
	return strtoull(text, NULL, 10);
}

static int count_process(void *userdata, pid_t pid)
{
	*(pid_t *)userdata = pid;
	return 0;
}

static int find_child(void *userdata, const char *name)
{
	return !strcmp(name, userdata) ? 7 : 0;
}

static void find(void)
{
	cgroups_find(&groups);
	if (!groups.version)
		skip();
	(void)snprintf(parent, sizeof(parent), "dormouse/test-%d", (int)getpid());
	(void)snprintf(group, sizeof(group), "%s/one", parent);
}

static void test_limits(void **state)
{
	const struct cgroup_limits limits = {.memory_bytes = 64u << 20, .cpu_pct = 50, .pids = 33};
	char text[80];

	find();
	cgroups_describe(&groups, text, sizeof(text));
	print_message("%s\n", text);
	assert_int_equal(cgroup_make(&groups, group, &limits), 0);
	assert_int_equal(cgroup_make(&groups, group, &limits), 0); /* there already */
	if (groups.places[CGROUP_MEMORY][0])
		assert_int_equal(value(CGROUP_MEMORY, "memory.limit_in_bytes", "memory.max"),
				 64u << 20);
	if (groups.places[CGROUP_CPU][0])
		assert_int_equal(value(CGROUP_CPU, "cpu.cfs_quota_us", "cpu.max"), 50000);
	if (groups.places[CGROUP_PIDS][0])
		assert_int_equal(value(CGROUP_PIDS, "pids.max", "pids.max"), 33);
	assert_int_equal(cgroup_each_child(&groups, parent, find_child, (char[]){"one"}), 7);
	assert_int_equal(cgroup_each_child(&groups, parent, find_child, (char[]){"two"}), 0);
	assert_int_equal(cgroup_remove(&groups, group), 0);
	assert_int_equal(cgroup_remove(&groups, group), 0); /* gone already */
	assert_int_equal(cgroup_remove(&groups, parent), 0);
}

static void test_process(void **state)
{
	const struct cgroup_limits none = {0};
	uint64_t deadline = deadline_after_ms(5000);
	pid_t pid, seen = 0;
	int r;

	find();
	assert_int_equal(cgroup_make(&groups, group, &none), 0);
	pid = fork();
	if (pid == 0)
		for (;;)
			pause();
	assert_int_equal(cgroup_add(&groups, group, pid), 0);
	assert_int_equal(cgroup_each_process(&groups, group, count_process, &seen), 0);
	assert_int_equal(seen, pid);
	assert_int_equal(cgroup_remove(&groups, group), -EBUSY);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(cgroup_add(&groups, group, pid), -ESRCH);
	do
		r = cgroup_remove(&groups, group);
	while (r == -EBUSY && !deadline_passed(deadline));
	assert_int_equal(r, 0);
	assert_int_equal(cgroup_remove(&groups, parent), 0);
	assert_int_equal(cgroup_each_process(&groups, group, count_process, &seen), 0);
}

TEST_MAIN(cmocka_unit_test(test_limits), cmocka_unit_test(test_process))
