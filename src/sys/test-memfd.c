/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "sys/memfd.h"

static void test_sealed_and_sparse(void **state)
{
	_cleanup_fd_ int fd = memfd_new("test", 64 * DORM_PAGE_SIZE);
	uint64_t pages = 99;
	char c = 1;

	assert_true(fd >= 0);
	assert_int_equal(memfd_allocated_pages(fd, &pages), 0);
	assert_int_equal(pages, 0);
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(ftruncate(fd, 128 * DORM_PAGE_SIZE), -1);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	assert_int_equal(pread(fd, &c, 1, 5), 1);
	assert_int_equal(c, 0);
	assert_int_equal(memfd_allocated_pages(fd, &pages), 0);
	assert_int_equal(pages, 0);
	assert_int_equal(pwrite(fd, "x", 1, 7 * DORM_PAGE_SIZE), 1);
	assert_int_equal(memfd_allocated_pages(fd, &pages), 0);
	assert_int_equal(pages, 1);
}

static void test_readonly(void **state)
{
	_cleanup_fd_ int fd = memfd_new("test", 4 * DORM_PAGE_SIZE);
	_cleanup_fd_ int ro = memfd_reopen_readonly(fd);
	char *p;

	assert_true(ro >= 0);
	assert_true(fcntl(ro, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(write(ro, "x", 1), -1);
	assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ro, 0), MAP_FAILED);
	assert_int_equal(fallocate(ro, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, ro, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	munmap(p, 4096);
}

static void test_bytes(void **state)
{
	_cleanup_fd_ int fd = memfd_from_bytes("test", "hello", 5);
	char b[8];

	assert_true(fd >= 0);
	assert_int_equal(read(fd, b, sizeof(b)), 5);
	assert_memory_equal(b, "hello", 5);
	assert_int_equal(write(fd, "x", 1), -1);
}

TEST_MAIN(cmocka_unit_test(test_sealed_and_sparse), cmocka_unit_test(test_readonly),
	  cmocka_unit_test(test_bytes))
