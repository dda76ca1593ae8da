/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>

#include "base/mem.h"
#include "sandbox/uids.h"

static void test_each_once(void **state)
{
	struct uids u;
	uint32_t seen[100] = {0}, uid;

	assert_int_equal(uids_init(&u, 200000, 100), 0);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(uids_take(&u, &uid), 0);
		assert_in_range(uid, 200000, 200099);
		seen[uid - 200000]++;
	}
	for (int i = 0; i < 100; i++)
		assert_int_equal(seen[i], 1);
	assert_int_equal(uids_take(&u, &uid), -EAGAIN);
	uids_give_back(&u, 200042);
	assert_int_equal(uids_take(&u, &uid), 0);
	assert_int_equal(uid, 200042);
	uids_deinit(&u);
}

/* What another daemon left running is not given to anybody else. */
static void test_claimed(void **state)
{
	struct uids u;
	uint32_t uid;

	assert_int_equal(uids_init(&u, 200000, 3), 0);
	uids_claim(&u, 200001);
	uids_claim(&u, 0);
	uids_claim(&u, 200003);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(uids_take(&u, &uid), 0);
		assert_int_not_equal(uid, 200001);
	}
	assert_int_equal(uids_take(&u, &uid), -EAGAIN);
	uids_deinit(&u);
}

/* One that was given back rests until the others have been used. */
static void test_not_again_soon(void **state)
{
	uint32_t first, second;
	struct uids u;

	assert_int_equal(uids_init(&u, 200000, 10), 0);
	assert_int_equal(uids_take(&u, &first), 0);
	uids_give_back(&u, first);
	for (int i = 0; i < 9; i++) {
		assert_int_equal(uids_take(&u, &second), 0);
		assert_int_not_equal(second, first);
	}
	uids_deinit(&u);
}

static void test_ranges(void **state)
{
	static const struct {
		uint32_t first, n;
	} wrong[] = {{0, 10}, {99999, 10}, {200000, 0}, {200000, UIDS_MAX + 1}, {4294967290u, 10}};
	struct uids u;

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		assert_int_equal(uids_init(&u, wrong[i].first, wrong[i].n), -EINVAL);
		uids_deinit(&u);
	}
}

TEST_MAIN(cmocka_unit_test(test_each_once), cmocka_unit_test(test_claimed),
	  cmocka_unit_test(test_not_again_soon), cmocka_unit_test(test_ranges))
