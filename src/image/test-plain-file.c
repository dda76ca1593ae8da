/* SPDX-License-Identifier: Apache-2.0 */
#include "image/test-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "image/plain-file.h"

static void test_copy(void **state)
{
	struct fixture *f = *state;
	size_t len = (1u << 20) + 12345, n;
	uint8_t *data = malloc(len);
	uint64_t seed = 1;
	struct stat st;
	char *copy;
	int fd;

	assert_non_null(data);
	for (size_t i = 0; i < len; i++)
		data[i] = (uint8_t)fixture_random(&seed);
	assert_int_equal(file_write_atomic(f->dirfd, "a", data, len, 0444), 0);
	fd = openat(f->dirfd, "a", O_RDONLY | O_CLOEXEC);
	assert_int_equal(plain_file_copy(fd, f->dirfd, "b"), 0);
	assert_int_equal(plain_file_copy(fd, f->dirfd, "b"), -EEXIST);
	assert_int_equal(file_read(f->dirfd, "b", 1u << 22, &copy, &n), 0);
	assert_int_equal(n, len);
	assert_memory_equal(copy, data, len);
	assert_int_equal(fstatat(f->dirfd, "b", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0444);
	free(copy);
	free(data);
	close(fd);
}

/* printf 'the quick brown fox' | xxhsum -H128 */
static void test_digest(void **state)
{
	char a[DIGEST_LEN + 1], b[DIGEST_LEN + 1];
	struct fixture *f = *state;
	int fd;

	assert_int_equal(file_write_atomic(f->dirfd, "a", "", 0, 0444), 0);
	fd = openat(f->dirfd, "a", O_RDONLY | O_CLOEXEC);
	assert_int_equal(plain_file_digest(fd, a), 0);
	assert_string_equal(a, "99aa06d3014798d86001c324468d497f"); /* of nothing, xxhash's own */
	close(fd);
	assert_int_equal(file_write_atomic(f->dirfd, "a", "x", 1, 0444), 0);
	fd = openat(f->dirfd, "a", O_RDONLY | O_CLOEXEC);
	assert_int_equal(plain_file_digest(fd, b), 0);
	assert_string_not_equal(a, b);
	close(fd);
}

/* When the file system allows no further link, the file is copied. */
static void test_too_many_links(void **state)
{
	struct fixture *f = *state;
	int many = fixture_dir(f, "many"), to = fixture_dir(f, "to");
	struct stat st, copy;
	char name[16];
	unsigned i;

	assert_int_equal(file_write_atomic(f->dirfd, "a", "content", 7, 0444), 0);
	for (i = 0; i < 70000; i++) {
		(void)snprintf(name, sizeof(name), "%u", i);
		if (linkat(f->dirfd, "a", many, name, 0) < 0)
			break;
	}
	if (i == 70000) {
		print_message("this file system has no limit near ext4's 65000\n");
	} else {
		assert_int_equal(errno, EMLINK);
		assert_int_equal(plain_file_link(f->dirfd, to, "a"), 0);
		assert_int_equal(fstatat(f->dirfd, "a", &st, 0), 0);
		assert_int_equal(fstatat(to, "a", &copy, 0), 0);
		assert_true(st.st_ino != copy.st_ino);
		assert_int_equal(copy.st_size, 7);
		assert_int_equal(copy.st_mode & 07777, 0444);
		assert_int_equal(plain_file_link(f->dirfd, to, "a"), -EEXIST);
	}
	assert_int_equal(plain_file_link(f->dirfd, to, "absent"), -ENOENT);
	close(many);
	close(to);
	if (i == 70000) {
		print_message("skipped: the file system allows 70000 links and more\n");
		skip();
	}
}

#define PLAIN_TEST(_f) cmocka_unit_test_setup_teardown(_f, fixture_setup, fixture_teardown)
TEST_MAIN(PLAIN_TEST(test_copy), PLAIN_TEST(test_digest), PLAIN_TEST(test_too_many_links))
