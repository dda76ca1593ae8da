/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "sys/memfd.h"
#include "sys/uffd.h"

#define PAGES 32
#define SIZE  (PAGES * DORM_PAGE_SIZE)

static void *toucher(void *p)
{
	volatile unsigned char *byte = p;

	return (void *)(uintptr_t)*byte;
}

/* A private mapping waits; a copy into another, shared mapping of the file and a wake end that. */
static void test_shared_fill(void **state)
{
	_cleanup_fd_ int mfd = memfd_new("t", SIZE);
	_cleanup_fd_ int ours = uffd_new(0), theirs = uffd_new(0);
	static char page[DORM_PAGE_SIZE] __attribute__((aligned(4096)));
	char *shared, *mine;
	struct uffd_msg m[4];
	uint64_t done;
	pthread_t t;
	void *got;

	assert_true(mfd >= 0 && ours >= 0 && theirs >= 0);
	assert_true(uffd_is(ours));
	assert_false(uffd_is(mfd));
	shared = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, mfd, 0);
	mine = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, mfd, 0);
	assert_int_equal(uffd_register(ours, (uintptr_t)shared, SIZE, UFFDIO_REGISTER_MODE_MISSING),
			 0);
	assert_int_equal(uffd_register(theirs, (uintptr_t)mine, SIZE, UFFDIO_REGISTER_MODE_MISSING),
			 0);
	assert_int_equal(uffd_read(theirs, m, 4), 0);

	assert_int_equal(pthread_create(&t, NULL, toucher, mine + 3 * DORM_PAGE_SIZE + 17), 0);
	assert_true(fd_poll(theirs, POLLIN, deadline_after_ms(5000)) & POLLIN);
	assert_int_equal(uffd_read(theirs, m, 4), 1);
	assert_int_equal(m[0].event, UFFD_EVENT_PAGEFAULT);
	assert_int_equal(m[0].arg.pagefault.address & ~4095ull,
			 (uintptr_t)mine + 3 * DORM_PAGE_SIZE);
	/* a wake without a page raises the event anew */
	assert_int_equal(uffd_wake(theirs, (uintptr_t)mine, SIZE), 0);
	assert_true(fd_poll(theirs, POLLIN, deadline_after_ms(5000)) & POLLIN);

	memset(page, 0xa5, sizeof(page));
	assert_int_equal(uffd_copy(ours, (uintptr_t)shared + 3 * DORM_PAGE_SIZE, page,
				   DORM_PAGE_SIZE, &done),
			 0);
	assert_int_equal(done, DORM_PAGE_SIZE);
	assert_int_equal(uffd_wake(theirs, (uintptr_t)mine + 3 * DORM_PAGE_SIZE, 4096), 0);
	pthread_join(t, &got);
	assert_int_equal((uintptr_t)got, 0xa5);

	assert_int_equal(uffd_copy(ours, (uintptr_t)shared + 3 * DORM_PAGE_SIZE, page,
				   DORM_PAGE_SIZE, &done),
			 -EEXIST);
	assert_int_equal(done, 0);
	assert_int_equal(uffd_copy(ours, 4096, page, DORM_PAGE_SIZE, &done), -ENOENT);
	munmap(shared, SIZE);
	munmap(mine, SIZE);
}

static void test_zeropage(void **state)
{
	_cleanup_fd_ int mfd = memfd_new("t", SIZE), u = uffd_new(0);
	uint64_t done, pages;
	char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, mfd, 0);

	assert_int_equal(uffd_register(u, (uintptr_t)p, SIZE, UFFDIO_REGISTER_MODE_MISSING), 0);
	assert_int_equal(uffd_zeropage(u, (uintptr_t)p + 4 * 4096, 4096, &done), 0);
	/* stops at the page that is there, and says how far it came */
	assert_int_equal(uffd_zeropage(u, (uintptr_t)p, SIZE, &done), -EAGAIN);
	assert_int_equal(done, 4 * 4096);
	assert_int_equal(uffd_zeropage(u, (uintptr_t)p + done, SIZE - done, &done), -EEXIST);
	assert_int_equal(done, 0);
	for (size_t i = 0; i < 5 * 4096; i++)
		assert_int_equal(p[i], 0);
	assert_int_equal(memfd_allocated_pages(mfd, &pages), 0);
	assert_int_equal(pages, 0);
	munmap(p, SIZE);
}

/* Without any privilege one can copy into a mapping of one's own, if nobody faults there. */
static void test_without_privilege(void **state)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		static uint8_t page[DORM_PAGE_SIZE] __attribute__((aligned(4096))) = {7};
		uint8_t *p = mmap(NULL, sizeof(page), PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		uint64_t done;
		int fd;

		if (getuid() == 0 && setuid(65534) < 0)
			_exit(1);
		fd = uffd_new_for_copy();
		if (fd < 0 ||
		    uffd_register(fd, (uintptr_t)p, sizeof(page), UFFDIO_REGISTER_MODE_MISSING) < 0)
			_exit(2);
		_exit(uffd_copy(fd, (uintptr_t)p, page, sizeof(page), &done) == 0 && p[0] == 7 ? 0
											       : 3);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static uint64_t vm_flags(const void *at)
{
	char line[256], want[32], flags[256] = "";
	FILE *f = fopen("/proc/self/smaps", "re");
	bool here = false;

	(void)snprintf(want, sizeof(want), "%lx-", (unsigned long)(uintptr_t)at);
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, want, strlen(want)))
			here = true;
		if (here && !strncmp(line, "VmFlags:", 8)) {
			strcpy(flags, line);
			break;
		}
	}
	fclose(f);
	return (strstr(flags, " um") ? UFFDIO_REGISTER_MODE_MISSING : 0) |
	       (strstr(flags, " uw") ? UFFDIO_REGISTER_MODE_WP : 0);
}

/* Whose is it? Asking changes nothing, whatever the answer. */
static void test_owns(void **state)
{
	_cleanup_fd_ int a = uffd_new(UFFD_FEATURE_PAGEFAULT_FLAG_WP), b = uffd_new(0);
	const uint64_t both = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP;
	char *p = mmap(NULL, 3 * SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uintptr_t of_a, of_b, of_none;

	assert_true(a >= 0 && b >= 0 && p != MAP_FAILED);
	of_a = (uintptr_t)p;
	of_b = of_a + SIZE;
	of_none = of_b + SIZE;
	assert_int_equal(uffd_register(a, of_a, SIZE, both), 0);
	assert_int_equal(uffd_register(b, of_b, SIZE, UFFDIO_REGISTER_MODE_MISSING), 0);
	for (int again = 0; again < 2; again++) {
		assert_int_equal(uffd_owns(a, of_a), 1);
		assert_int_equal(uffd_owns(b, of_a), 0);
		assert_int_equal(uffd_owns(a, of_b), 0);
		assert_int_equal(uffd_owns(b, of_b + SIZE - DORM_PAGE_SIZE), 1);
		assert_int_equal(uffd_owns(a, of_none), 0);
		assert_int_equal(uffd_owns(b, of_none), 0);
		assert_int_equal(vm_flags((void *)of_a), both);
		assert_int_equal(vm_flags((void *)of_b), UFFDIO_REGISTER_MODE_MISSING);
		assert_int_equal(vm_flags((void *)of_none), 0);
	}
	assert_int_equal(uffd_unregister(a, of_a, SIZE), 0);
	assert_int_equal(uffd_owns(a, of_a), 0);
	assert_int_equal(vm_flags((void *)of_a), 0);
	assert_int_equal(uffd_unregister(b, of_b, SIZE), 0);
	munmap(p, 3 * SIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shared_fill), cmocka_unit_test(test_zeropage),
		cmocka_unit_test(test_owns), cmocka_unit_test(test_without_privilege)};
	int fd = uffd_new(0);

	if (fd < 0) {
		printf("skipped: no userfaultfd here (%s)\n", strerror(-fd));
		return 77;
	}
	fd_close(fd);
	alarm(50);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
