/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>

#include "sandbox/state.h"

static void test_names(void **state)
{
	enum sandbox_state s;

	for (unsigned i = 0; i < SANDBOX_N_STATES; i++) {
		assert_int_equal(sandbox_state_parse(sandbox_state_name((enum sandbox_state)i), &s),
				 0);
		assert_int_equal(s, i);
	}
	assert_int_equal(sandbox_state_parse("paused", &s), -EINVAL);
}

static void test_always_deletable(void **state)
{
	for (unsigned i = 0; i < SANDBOX_N_STATES; i++)
		if (i != SANDBOX_DELETING)
			assert_true(sandbox_state_may((enum sandbox_state)i, SANDBOX_DELETING));
	assert_false(sandbox_state_may(SANDBOX_DELETING, SANDBOX_RUNNING));
	assert_false(sandbox_state_may(SANDBOX_FAILED, SANDBOX_RUNNING));
	assert_false(sandbox_state_may(SANDBOX_ASLEEP, SANDBOX_RUNNING));
	assert_true(sandbox_state_may(SANDBOX_PAUSING, SANDBOX_RUNNING));
}

TEST_MAIN(cmocka_unit_test(test_names), cmocka_unit_test(test_always_deletable))
