/* SPDX-License-Identifier: Apache-2.0 */
#include "image/write-behind.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/test.h"

#define MIB (1u << 20)

static uint8_t byte_at(size_t i)
{
	return (uint8_t)(i * 2654435761u >> 24);
}

/* Pieces of many sizes, across all buffers several times: the file has them in order. */
static void write_and_compare(size_t total)
{
	_cleanup_free_ uint8_t *want = malloc(total + 1), *have = malloc(total + 1);
	_cleanup_(write_behind_freep) struct write_behind *w = NULL;
	_cleanup_fd_ int fd = memfd_create("file", MFD_CLOEXEC);

	assert_true(want && have && fd >= 0);
	for (size_t i = 0; i < total; i++)
		want[i] = byte_at(i);
	assert_int_equal(write_behind_new(fd, &w), 0);
	for (size_t at = 0, n = 1; at < total; at += n, n = n * 7 % 300007) {
		if (n > total - at)
			n = total - at;
		if (n % 5 == 0)
			memset(want + at, 0, n);
		assert_int_equal(write_behind_put(w, n % 5 ? want + at : NULL, n), 0);
	}
	assert_int_equal(write_behind_finish(w), 0);
	assert_int_equal(write_behind_written(w), total);
	assert_int_equal(lseek(fd, 0, SEEK_END), total);
	assert_int_equal(fd_pread_full(fd, have, total, 0), 0);
	assert_memory_equal(have, want, total);
}

static void test_sizes(void **state)
{
	static const size_t sizes[] = {0, 1, MIB - 1, MIB, MIB + 1, 16 * MIB, 35 * MIB + 5};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		write_and_compare(sizes[i]);
}

/* An error of the thread reaches the caller, stays, and nothing hangs. */
static void test_error(void **state)
{
	_cleanup_free_ uint8_t *data = calloc(1, 64 * MIB);
	_cleanup_(write_behind_freep) struct write_behind *w = NULL;
	_cleanup_fd_ int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
	int r = 0;

	assert_true(data && fd >= 0);
	assert_int_equal(write_behind_new(fd, &w), 0);
	for (int i = 0; r == 0 && i < 64; i++)
		r = write_behind_put(w, data, MIB);
	assert_int_equal(r, -ENOSPC);
	assert_int_equal(write_behind_finish(w), -ENOSPC);
	assert_int_equal(write_behind_written(w), 0);
	write_behind_free(w);
	/* and where there is no thread */
	assert_int_equal(write_behind_new(fd, &w), 0);
	assert_int_equal(write_behind_put(w, data, 100), 0);
	assert_int_equal(write_behind_finish(w), -ENOSPC);
}

/* Freed in the middle: the thread ends. */
static void test_abandoned(void **state)
{
	_cleanup_free_ uint8_t *data = calloc(1, 9 * MIB);

	assert_non_null(data);
	for (int i = 0; i < 20; i++) {
		_cleanup_(write_behind_freep) struct write_behind *w = NULL;
		_cleanup_fd_ int fd = memfd_create("file", MFD_CLOEXEC);

		assert_int_equal(write_behind_new(fd, &w), 0);
		assert_int_equal(write_behind_put(w, data, (size_t)i * 100000 * 4), 0);
	}
}

TEST_MAIN(cmocka_unit_test(test_sizes), cmocka_unit_test(test_error),
	  cmocka_unit_test(test_abandoned))
