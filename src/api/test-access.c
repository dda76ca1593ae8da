/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/access.h"

static int load(const char *source, struct access **ret)
{
	struct problem p = PROBLEM_INIT;
	int r = access_load(source, &p, ret);

	assert_int_equal(r < 0, problem_is_set(&p));
	return r;
}

static int load_text(const char *text, mode_t mode, struct access **ret)
{
	char path[] = "/tmp/test-access-XXXXXX", source[64];
	int fd = mkstemp(path), r;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
	snprintf(source, sizeof(source), "file:%s", path);
	r = load(source, ret);
	unlink(path);
	return r;
}

static void test_file(void **state)
{
	struct access *a = NULL;

	assert_int_equal(load_text("e2b_0123456789abcdef\n", 0600, &a), 0);
	assert_true(access_allows(a, "e2b_0123456789abcdef"));
	assert_false(access_allows(a, "e2b_0123456789abcdee"));
	assert_false(access_allows(a, "e2b_0123456789abcdef\n"));
	assert_false(access_allows(a, ""));
	assert_false(access_allows(a, NULL));
	access_free(a);
	assert_true(load_text("e2b_0123456789abcdef\n", 0644, &a) < 0);
	assert_true(load_text("short\n", 0600, &a) < 0);
	assert_true(load_text("", 0600, &a) < 0);
	assert_true(load_text("two words, and long enough", 0600, &a) < 0);
	assert_true(load("file:/nonexistent/key", &a) < 0);
	assert_true(load("file:/tmp", &a) < 0);
	assert_true(load("e2b_0123456789abcdef", &a) < 0);
}

static void test_environment(void **state)
{
	struct access *a = NULL;

	setenv("TEST_KEY", "0123456789abcdef", 1);
	assert_int_equal(load("env:TEST_KEY", &a), 0);
	assert_null(getenv("TEST_KEY"));
	assert_true(access_allows(a, "0123456789abcdef"));
	access_free(a);
	assert_true(load("env:TEST_KEY", &a) < 0);
}

TEST_MAIN(cmocka_unit_test(test_file), cmocka_unit_test(test_environment))
