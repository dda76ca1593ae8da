/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <errno.h>
#include <unistd.h>

#include "base/mem.h"
#include "sys/probe.h"

static const struct probe_item *find(const struct probe_report *r, const char *name)
{
	for (unsigned i = 0; i < r->n; i++)
		if (!strcmp(r->items[i].name, name))
			return &r->items[i];
	fail_msg("no check is called %s", name);
	return NULL;
}

/* Any verdict is right somewhere; each must be explained, and nothing may stay behind. */
static void test_every_item_is_explained(void **state)
{
	_cleanup_free_ struct probe_report *r = calloc(1, sizeof(*r));

	probe_host("/tmp/not/there/yet", "qemu-system-x86_64", r);
	assert_true(r->n > 20);
	for (unsigned i = 0; i < r->n; i++) {
		const struct probe_item *p = &r->items[i];

		print_message("  %-4s %-15s %s\n", probe_status_name(p->status), p->name, p->found);
		assert_true(p->found[0]);
		assert_int_equal(p->status == PROBE_OK, p->cost[0] == 0);
		assert_int_equal(p->status == PROBE_OK, p->remedy[0] == 0);
	}
	assert_non_null(strstr(find(r, "disk")->found, " at /tmp"));
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

static void test_missing_qemu(void **state)
{
	_cleanup_free_ struct probe_report *r = calloc(1, sizeof(*r));

	probe_host("relative/absent", "/absent/qemu", r);
	assert_int_equal(find(r, "qemu")->status, PROBE_FAIL);
	assert_non_null(strstr(find(r, "qemu")->found, "/absent/qemu"));
	assert_non_null(strstr(find(r, "qemu")->remedy, "DORM_QEMU"));
	assert_int_equal(find(r, "microvm")->status, PROBE_FAIL);
	/* a program that is no QEMU */
	probe_host("/", "true", r);
	assert_int_equal(find(r, "qemu")->status, PROBE_FAIL);
}

/* As another user the kernel refuses what root may: then it must be reported, not overlooked. */
static void test_without_rights(void **state)
{
	_cleanup_free_ struct probe_report *r = calloc(1, sizeof(*r));
	int status;
	pid_t pid;

	if (geteuid() != 0) {
		print_message("needs root, to become somebody else\n");
		skip();
	}
	pid = fork();
	if (pid == 0) {
		if (setgid(65534) < 0 || setuid(65534) < 0 || access("/dev/userfaultfd", R_OK) == 0)
			_exit(2);
		probe_host("/root", "true", r);
		_exit(find(r, "userfaultfd")->status == PROBE_FAIL &&
				      find(r, "reflink")->status == PROBE_WARN
			      ? 0
			      : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WEXITSTATUS(status) == 2)
		print_message("everybody may use /dev/userfaultfd here\n");
	else
		assert_int_equal(status, 0);
}

TEST_MAIN(cmocka_unit_test(test_every_item_is_explained), cmocka_unit_test(test_missing_qemu),
	  cmocka_unit_test(test_without_rights))
