/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <string.h>

#include "sandbox/sandbox.h"

static void test_words(void **state)
{
	struct sandbox_memory_options o = {.no_prefetch = true};

	assert_int_equal(sandbox_memory_options_parse(NULL, NULL, NULL, &o), 0);
	assert_int_equal(o.mode, PAGER_MODE_AUTO);
	assert_int_equal(o.wait, SANDBOX_WAIT_READY);
	assert_int_equal(sandbox_memory_options_parse("eager", "full", NULL, &o), 0);
	assert_int_equal(o.mode, PAGER_MODE_EAGER);
	assert_int_equal(o.wait, SANDBOX_WAIT_FULL);
	assert_int_equal(sandbox_memory_options_parse("overlay", "working-set", NULL, &o), 0);
	assert_int_equal(o.mode, PAGER_MODE_OVERLAY);
	assert_int_equal(o.wait, SANDBOX_WAIT_WORKING_SET);
}

/* Refused with the name of the field, and nothing is changed. */
static void refuse(const char *mode, const char *wait, const char *says)
{
	struct sandbox_memory_options o = {.mode = PAGER_MODE_EAGER, .wait = SANDBOX_WAIT_FULL};
	struct problem p = PROBLEM_INIT;

	assert_int_equal(sandbox_memory_options_parse(mode, wait, &p, &o), -EINVAL);
	assert_int_equal(p.status, 400);
	assert_non_null(strstr(p.message, says));
	assert_int_equal(o.mode, PAGER_MODE_EAGER);
	assert_int_equal(o.wait, SANDBOX_WAIT_FULL);
}

static void test_refused(void **state)
{
	refuse("", NULL, "pagerMode");
	refuse("Shared", NULL, "pagerMode");
	refuse("copy", NULL, "own memory");
	refuse(NULL, "", "wait");
	refuse(NULL, "complete", "wait");
	refuse("shared", "working_set", "wait");
}

TEST_MAIN(cmocka_unit_test(test_words), cmocka_unit_test(test_refused))
