/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/memory-left.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/test.h"
#include "sys/proc.h"

static void put(const char *dir, const char *name, const char *text)
{
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(file_replace(AT_FDCWD, path, text, strlen(text), 0600), 0);
}

static void test_group(void **state)
{
	char dir[] = "/tmp/dorm-left.XXXXXX";
	uint64_t left = 7, limit = 7;

	assert_non_null(mkdtemp(dir));
	assert_int_equal(memory_left_of_group(dir, &left, &limit), -ENOENT);
	put(dir, "memory.max", "max\n");
	put(dir, "memory.current", "100000\n");
	assert_int_equal(memory_left_of_group(dir, &left, &limit), -ENOENT);
	assert_int_equal(left, 7);
	put(dir, "memory.max", "1000000\n");
	assert_int_equal(memory_left_of_group(dir, &left, &limit), 0);
	assert_int_equal(left, 900000);
	assert_int_equal(limit, 1000000);
	put(dir, "memory.stat", "anon 5\nfile 9\ninactive_file 60000\nactive_file 3\n");
	assert_int_equal(memory_left_of_group(dir, &left, &limit), 0);
	assert_int_equal(left, 960000);
	put(dir, "memory.current", "2000000\n"); /* lowered below what is used */
	assert_int_equal(memory_left_of_group(dir, &left, &limit), 0);
	assert_int_equal(left, 0);
	assert_int_equal(file_remove_tree(AT_FDCWD, dir), 0);
}

static void test_host(void **state)
{
	uint64_t left = 0, total = 0;

	assert_int_equal(memory_left(&left, &total), 0);
	assert_true(left > 0 && left <= total);
}

static void test_anonymous(void **state)
{
	const size_t len = 64 << 20;
	uint64_t before = 0, after = 0;
	char *p;

	assert_int_equal(proc_anonymous_bytes(getpid(), &before), 0);
	p = malloc(len);
	assert_non_null(p);
	memset(p, 1, len);
	assert_int_equal(proc_anonymous_bytes(getpid(), &after), 0);
	assert_true(p[len / 2] == 1);
	assert_true(after >= before + len / 2);
	free(p);
	assert_true(proc_anonymous_bytes(1 << 30, &after) < 0);
}

TEST_MAIN(cmocka_unit_test(test_group), cmocka_unit_test(test_host),
	  cmocka_unit_test(test_anonymous))
