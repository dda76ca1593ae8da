/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "sys/procmem.h"

#define N_PAGES 5000

static char *make_pages(void)
{
	char *p = mmap(NULL, N_PAGES * DORM_PAGE_SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	for (size_t i = 0; i < N_PAGES; i++)
		memset(p + i * DORM_PAGE_SIZE, (int)(i % 251), DORM_PAGE_SIZE);
	return p;
}

/* Scattered pages, more than one batch of them, out of a real other process. */
static void test_scattered(void **state)
{
	static struct iovec ranges[N_PAGES];
	char *p = make_pages(), *out = malloc(N_PAGES / 2 * DORM_PAGE_SIZE);
	pid_t pid = fork();
	size_t n = 0;

	assert_true(pid >= 0);
	if (pid == 0) {
		pause();
		_exit(0);
	}
	memset(p, 0xff, N_PAGES * DORM_PAGE_SIZE); /* ours differs from the child's now */
	for (size_t i = 0; i < N_PAGES; i += 2)
		ranges[n++] = (struct iovec){p + i * DORM_PAGE_SIZE, DORM_PAGE_SIZE};
	assert_int_equal(procmem_read(pid, ranges, n, out), 0);
	for (size_t k = 0; k < n; k++)
		for (size_t b = 0; b < DORM_PAGE_SIZE; b += 512)
			assert_int_equal((uint8_t)out[k * DORM_PAGE_SIZE + b], 2 * k % 251);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(procmem_read(pid, ranges, 1, out), -ESRCH);
	free(out);
	munmap(p, N_PAGES * DORM_PAGE_SIZE);
}

static void test_unmapped(void **state)
{
	char *p = make_pages(), *out = malloc(4 * DORM_PAGE_SIZE);
	struct iovec ranges[] = {{p, DORM_PAGE_SIZE},
				 {p + DORM_PAGE_SIZE, 0},
				 {p + DORM_PAGE_SIZE, 2 * DORM_PAGE_SIZE}};

	assert_int_equal(procmem_read(getpid(), ranges, 3, out), 0);
	assert_int_equal(out[2 * DORM_PAGE_SIZE], 2);
	assert_int_equal(procmem_read(getpid(), NULL, 0, out), 0);
	assert_int_equal(munmap(p + 2 * DORM_PAGE_SIZE, DORM_PAGE_SIZE), 0);
	assert_int_equal(procmem_read(getpid(), ranges, 3, out), -EFAULT);
	free(out);
}

TEST_MAIN(cmocka_unit_test(test_scattered), cmocka_unit_test(test_unmapped))
