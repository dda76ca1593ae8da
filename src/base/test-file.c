/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

static void test_atomic_and_tree(void **state)
{
	char dir[] = "/tmp/dorm-test-file.XXXXXX", path[128], *data;
	struct stat st;
	size_t len;
	int fd;

	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/a/b/c", dir);
	assert_int_equal(file_mkdir_p(path, 0755), 0);
	assert_int_equal(file_mkdir_p(path, 0755), 0);
	fd = file_open_dir(AT_FDCWD, dir);
	assert_true(fd >= 0);
	assert_int_equal(file_write_atomic(fd, "a/b/f", "one", 3, 0644), 0);
	assert_int_equal(file_write_atomic(fd, "a/b/f", "two!", 4, 0644), 0);
	assert_int_equal(file_read(fd, "a/b/f", 100, &data, &len), 0);
	assert_string_equal(data, "two!");
	free(data);
	assert_int_equal(file_read(fd, "a/b/f", 3, &data, &len), -EFBIG);
	assert_int_equal(file_read(fd, "absent", 3, &data, &len), -ENOENT);
	/* a link to a directory is removed, not what it leads to */
	assert_int_equal(symlinkat("/usr", fd, "a/link"), 0);
	assert_int_equal(file_remove_tree(fd, "a"), 0);
	assert_int_equal(fstatat(fd, "a", &st, 0), -1);
	assert_int_equal(stat("/usr/bin", &st), 0);
	assert_int_equal(file_remove_tree(fd, "a"), 0);
	close(fd);
	assert_int_equal(file_remove_tree(AT_FDCWD, dir), 0);
}

TEST_MAIN(cmocka_unit_test(test_atomic_and_tree))
