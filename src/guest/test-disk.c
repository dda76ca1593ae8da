/* SPDX-License-Identifier: Apache-2.0 */
/* test-disk.c - the empty disk: small, whole, and the same bytes each time it is made */
#include "base/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "guest/disk.h"

#define MIB (1ull << 20)

static void prepare(const char *dir, uint64_t bytes, char ret[4096])
{
	struct problem problem = PROBLEM_INIT;

	if (guest_disk_prepare(dir, bytes, NULL, NULL, &problem, ret) < 0)
		fail_msg("%s (%s)", problem.message, problem.hint);
}

static void test_disk(void **state)
{
	static const uint64_t sizes[] = {64 * MIB, 4096 * MIB, 100ull << 30};
	char dirs[2][64] = {"/tmp/dorm-test-disk.XXXXXX", "/tmp/dorm-test-disk.XXXXXX"};
	char paths[3][4096], command[16384];

	assert_true(mkdtemp(dirs[0]) && mkdtemp(dirs[1]));
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct stat st, again;

		prepare(dirs[0], sizes[i], paths[0]);
		assert_int_equal(stat(paths[0], &st), 0);
		assert_true((uint64_t)st.st_blocks * 512 < (sizes[i] >> 9) + 4 * MIB);
		prepare(dirs[0], sizes[i], paths[1]);
		assert_string_equal(paths[0], paths[1]);
		assert_int_equal(stat(paths[1], &again), 0);
		assert_int_equal(st.st_ino, again.st_ino); /* found, not made */
		sleep(1);
		prepare(dirs[1], sizes[i], paths[2]);
		(void)snprintf(command, sizeof(command),
			       "cmp %s %s && qemu-img convert -O raw %s %s/raw && "
			       "e2fsck -fn %s/raw >/dev/null 2>&1 && rm %s/raw",
			       paths[0], paths[2], paths[0], dirs[1], dirs[1], dirs[1]);
		if (system(command)) /* NOLINT: paths of ours */
			fail_msg("%s", command);
	}
	(void)file_remove_tree(-1, dirs[0]);
	(void)file_remove_tree(-1, dirs[1]);
}

static void test_refused(void **state)
{
	static const uint64_t sizes[] = {0, MIB, 64 * MIB + 1, UINT64_MAX, (1ull << 40) + MIB};
	char path[4096];

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct problem problem = PROBLEM_INIT;

		assert_int_equal(
			guest_disk_prepare("/nonexistent", sizes[i], NULL, NULL, &problem, path),
			-EINVAL);
		assert_int_equal(problem.status, 400);
	}
}

TEST_MAIN(cmocka_unit_test(test_disk), cmocka_unit_test(test_refused))
