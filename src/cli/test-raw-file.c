/* SPDX-License-Identifier: Apache-2.0 */
/* memory files that change while they are read, and readers of any appetite */
#include "base/test.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "cli/raw-file.h"

#define PAGE DORM_PAGE_SIZE

/* A file of @pages pages, of which the first and the one in the middle are data. */
static int make_file(size_t pages)
{
	static char page[PAGE];
	int fd = memfd_create("memory", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)(pages * PAGE)), 0);
	memset(page, 'x', sizeof(page));
	assert_int_equal(pwrite(fd, page, PAGE, 0), PAGE);
	assert_int_equal(pwrite(fd, page, PAGE, (off_t)(pages / 2 * PAGE)), PAGE);
	return fd;
}

/* Reads all, @step bytes at a time. Return: as raw_reader_read() at its end */
static ssize_t read_all(struct raw_reader *x, size_t step, struct buf *ret, struct problem *problem)
{
	static char data[64 << 10];
	ssize_t n;

	while ((n = raw_reader_read(x, data, step, problem)) > 0)
		assert_int_equal(buf_append(ret, data, (size_t)n), 0);
	return n;
}

static void test_steps(void **state)
{
	static const size_t steps[] = {1, 15, 16, 17, 4095, 64 << 10};
	_cleanup_fd_ int fd = make_file(200);
	struct buf first = {0};

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		_cleanup_(raw_reader_freep) struct raw_reader *x = NULL;
		_cleanup_buf_ struct buf got = {0};

		assert_int_equal(raw_reader_new(fd, "f", i % 2, NULL, &x), 0);
		assert_int_equal(read_all(x, steps[i], i ? &got : &first, NULL), 0);
		assert_int_equal(first.len, 3 * EXTENTS_HEAD + 2 * PAGE);
		if (i)
			assert_memory_equal(got.data, first.data, first.len);
		assert_false(raw_reader_is_dense(x));
	}
	buf_deinit(&first);
}

/* What is cut off must not pass for a hole. */
static void test_shrinks(void **state)
{
	static const off_t sizes[] = {0, 1, PAGE, 50 * PAGE, 199 * PAGE};
	char byte;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		_cleanup_fd_ int fd = make_file(200);
		_cleanup_(raw_reader_freep) struct raw_reader *x = NULL;
		_cleanup_buf_ struct buf got = {0};
		struct problem problem = PROBLEM_INIT;

		assert_int_equal(raw_reader_new(fd, "f", true, &problem, &x), 0);
		assert_int_equal(raw_reader_read(x, &byte, 1, &problem), 1);
		assert_int_equal(ftruncate(fd, sizes[i]), 0);
		assert_int_equal(read_all(x, 4096, &got, &problem), -ENODATA);
		assert_string_equal(problem.message, "f became shorter while it was read");
	}
}

/* What comes later is not of the memory that was asked for. */
static void test_grows(void **state)
{
	_cleanup_fd_ int fd = make_file(200);
	_cleanup_(raw_reader_freep) struct raw_reader *x = NULL;
	_cleanup_buf_ struct buf got = {0};
	unsigned char end[EXTENTS_HEAD];

	assert_int_equal(raw_reader_new(fd, "f", false, NULL, &x), 0);
	assert_int_equal(pwrite(fd, "more", 4, 200 * PAGE), 4);
	assert_int_equal(pwrite(fd, "more", 4, 300 * PAGE), 4);
	assert_int_equal(read_all(x, 4096, &got, NULL), 0);
	extents_head(200 * PAGE, 0, end);
	assert_int_equal(got.len, 3 * EXTENTS_HEAD + 2 * PAGE);
	assert_memory_equal(got.data + got.len - EXTENTS_HEAD, end, EXTENTS_HEAD);
}

TEST_MAIN(cmocka_unit_test(test_steps), cmocka_unit_test(test_shrinks),
	  cmocka_unit_test(test_grows))
