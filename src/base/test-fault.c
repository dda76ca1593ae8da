/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/test.h"

static void test_parse(void **state)
{
	unsigned n = 0;

	assert_int_equal(fault_parse("sleep.commit:kill", "sleep", "commit", &n), FAULT_KILL);
	assert_int_equal(n, 10);
	assert_int_equal(fault_parse("wake.load:hang=5,sleep.end:vmm\n", "wake", "load", &n),
			 FAULT_HANG);
	assert_int_equal(n, 5);
	assert_int_equal(fault_parse("wake.load:hang=5,sleep.end:vmm\n", "sleep", "end", &n),
			 FAULT_VMM);
	assert_int_equal(fault_parse("a.b:none,a.b:errors,a.b:error", "a", "b", &n), FAULT_ERROR);
	assert_int_equal(fault_parse("wake.loads:kill,wake.load", "wake", "load", &n), FAULT_NONE);
	assert_int_equal(fault_parse("", "wake", "load", &n), FAULT_NONE);
	assert_int_equal(fault_parse(",,:,=", "wake", "load", &n), FAULT_NONE);
}

static void test_kinds_have_names(void **state)
{
	for (unsigned i = 0; i < FAULT_N_KINDS; i++)
		assert_non_null(fault_kind_name((enum fault_kind)i));
}

/* Last: from the first question on the environment is not looked at again. */
static void test_file(void **state)
{
	char path[] = "/tmp/dorm-fault.XXXXXX", text[64];
	int fd = mkstemp(path);
	unsigned n;

	assert_true(fd >= 0);
	(void)snprintf(text, sizeof(text), "@%s", path);
	assert_int_equal(setenv("DORM_FAULT", text, 1), 0);
	assert_int_equal(fault_at("wake", "load", &n), FAULT_NONE);
	assert_int_equal(write(fd, "wake.load:enospc", 16), 16);
	assert_int_equal(fault_at("wake", "load", &n), FAULT_ENOSPC);
	assert_int_equal(fault_at("wake", "load", &n), FAULT_NONE);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(fault_at("wake", "load", &n), FAULT_NONE);
	close(fd);
}

TEST_MAIN(cmocka_unit_test(test_parse), cmocka_unit_test(test_kinds_have_names),
	  cmocka_unit_test(test_file))
