/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "sys/proc.h"
#include "sys/uffd.h"

static void test_start_time(void **state)
{
	uint64_t mine = 0, again = 0, first = 0;
	pid_t pid;

	assert_int_equal(proc_start_time(getpid(), &mine), 0);
	assert_true(mine > 0);
	/* a name with parentheses and spaces must not shift the fields */
	assert_int_equal(prctl(PR_SET_NAME, "a) R 1 (b"), 0);
	assert_int_equal(proc_start_time(getpid(), &again), 0);
	assert_int_equal(mine, again);
	assert_int_equal(proc_start_time(1, &first), 0);
	assert_true(first < mine);
	pid = fork();
	if (pid == 0)
		_exit(0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(proc_start_time(pid, &mine), -ESRCH);
}

static void test_mappings(void **state)
{
	int fd = memfd_create("proc-test", MFD_CLOEXEC);
	size_t page = DORM_PAGE_SIZE;
	_cleanup_free_ struct proc_mapping *m = NULL;
	struct stat st;
	size_t n = 0;
	char *a;

	assert_int_equal(ftruncate(fd, (off_t)(16 * page)), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(proc_find_mappings(getpid(), st.st_dev, st.st_ino, &m, &n), -ENOENT);
	a = mmap(NULL, 16 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	assert_ptr_not_equal(a, MAP_FAILED);
	/* an advice splits the mapping in the kernel; for us it stays one */
	assert_int_equal(madvise(a + 4 * page, 4 * page, MADV_DONTFORK), 0);
	assert_int_equal(proc_find_mappings(getpid(), st.st_dev, st.st_ino, &m, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(m[0].start, (uintptr_t)a);
	assert_int_equal(m[0].end, (uintptr_t)a + 16 * page);
	assert_int_equal(m[0].offset, 0);
	free(take_ptr(m));
	/* a hole makes two; shared and read-only ones do not count */
	assert_int_equal(munmap(a + 8 * page, page), 0);
	assert_ptr_not_equal(mmap(NULL, page, PROT_READ, MAP_SHARED, fd, 0), MAP_FAILED);
	assert_int_equal(proc_find_mappings(getpid(), st.st_dev, st.st_ino, &m, &n), 0);
	assert_int_equal(n, 2);
	assert_int_equal(m[1].offset, 9 * page);
	fd_close(fd);
}

static void test_memory_use(void **state)
{
	size_t size = 16ul << 20;
	struct proc_memory before, after;
	char *p;

	assert_int_equal(proc_memory_use(getpid(), &before), 0);
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	memset(p, 1, size);
	assert_int_equal(proc_memory_use(getpid(), &after), 0);
	assert_true(after.private_bytes >= before.private_bytes + size * 9 / 10);
	assert_true(after.rss_bytes >= before.rss_bytes + size * 9 / 10);
	assert_true(after.pss_bytes >= before.pss_bytes + size * 9 / 10);
	assert_true(after.rss_bytes < 1ull << 40);
}

static void test_userfaultfd(void **state)
{
	int fd = memfd_create("proc-test", MFD_CLOEXEC), uffd = uffd_new(0);
	size_t page = DORM_PAGE_SIZE;
	struct stat st;
	char *p;

	if (uffd < 0)
		skip();
	assert_int_equal(ftruncate(fd, (off_t)(4 * page)), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(proc_has_userfaultfd(getpid(), st.st_dev, st.st_ino), -ENOENT);
	p = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	assert_true(p != MAP_FAILED);
	assert_int_equal(proc_has_userfaultfd(getpid(), st.st_dev, st.st_ino), 0);
	/* one page in the middle is enough */
	assert_int_equal(
		uffd_register(uffd, (uintptr_t)p + page, page, UFFDIO_REGISTER_MODE_MISSING), 0);
	assert_int_equal(proc_has_userfaultfd(getpid(), st.st_dev, st.st_ino), 1);
	assert_int_equal(uffd_unregister(uffd, (uintptr_t)p + page, page), 0);
	assert_int_equal(proc_has_userfaultfd(getpid(), st.st_dev, st.st_ino), 0);
	/* and minor faults alone count too */
	if (uffd_register(uffd, (uintptr_t)p, page, UFFDIO_REGISTER_MODE_MINOR) == 0)
		assert_int_equal(proc_has_userfaultfd(getpid(), st.st_dev, st.st_ino), 1);
	/* of this file, not of any other */
	assert_int_equal(proc_has_userfaultfd(getpid(), st.st_dev, st.st_ino + 1), -ENOENT);
	munmap(p, 4 * page);
	close(uffd);
	close(fd);
}

TEST_MAIN(cmocka_unit_test(test_start_time), cmocka_unit_test(test_mappings),
	  cmocka_unit_test(test_userfaultfd), cmocka_unit_test(test_memory_use))
