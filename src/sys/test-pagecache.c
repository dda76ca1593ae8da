/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "sys/memfd.h"
#include "sys/pagecache.h"

/* What a memfd has is in the page cache, and its holes are not. */
static void test_pages(void **state)
{
	_cleanup_fd_ int fd = memfd_new("test", 16 * DORM_PAGE_SIZE);

	assert_true(fd >= 0);
	if (syscall(__NR_cachestat, -1, NULL, NULL, 0) < 0 && errno == ENOSYS)
		skip();
	assert_false(pagecache_has(fd, 0, 1));
	for (int i = 2; i < 5; i++)
		assert_int_equal(pwrite(fd, "x", 1, (off_t)(i * DORM_PAGE_SIZE)), 1);
	assert_true(pagecache_has(fd, 2 * DORM_PAGE_SIZE, 3 * DORM_PAGE_SIZE));
	assert_true(pagecache_has(fd, 3 * DORM_PAGE_SIZE - 1, 2));
	assert_true(pagecache_has(fd, 5 * DORM_PAGE_SIZE - 1, 1));
	assert_false(pagecache_has(fd, 5 * DORM_PAGE_SIZE - 1, 2));
	assert_false(pagecache_has(fd, 2 * DORM_PAGE_SIZE - 1, 2));
}

static void test_no_answer(void **state)
{
	assert_false(pagecache_has(-1, 0, 1));
	assert_false(pagecache_has(0, 0, 0));
	assert_false(pagecache_has(0, UINT64_MAX, 2));
}

TEST_MAIN(cmocka_unit_test(test_pages), cmocka_unit_test(test_no_answer))
