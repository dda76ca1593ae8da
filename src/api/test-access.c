/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/access.h"
#include "api/routes.h"

static int load(const char *source, struct access **ret)
{
	struct problem p = PROBLEM_INIT;
	int r = access_open("/tmp", source, &p, ret);

	assert_int_equal(r < 0, problem_is_set(&p));
	return r;
}

static bool allows(struct access *a, const char *key)
{
	struct caller c = {0};
	int r = access_check(a, key, NULL, NULL, &c);

	if (r == 0)
		assert_int_equal(c.scope, SCOPE_ADMIN);
	return r == 0;
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
	struct caller c;

	assert_int_equal(load_text("e2b_0123456789abcdef\n", 0600, &a), 0);
	assert_true(allows(a, "e2b_0123456789abcdef"));
	assert_false(allows(a, "e2b_0123456789abcdee"));
	assert_false(allows(a, "e2b_0123456789abcdef\n"));
	assert_false(allows(a, ""));
	assert_false(allows(a, NULL));
	assert_int_equal(access_check(a, NULL, "Bearer e2b_0123456789abcdef", NULL, &c), 0);
	assert_true(access_check(a, NULL, "Bearer e2b_0123456789abcdee", NULL, &c) < 0);
	assert_true(access_check(a, NULL, "Basic e2b_0123456789abcdef", NULL, &c) < 0);
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
	assert_true(allows(a, "0123456789abcdef"));
	access_free(a);
	assert_true(load("env:TEST_KEY", &a) < 0);
}

static int permits(enum scope scope, const struct route *route)
{
	const struct caller c = {.key_id = "kaaaaaaaaaaaaaaaaaaaa", .scope = scope};
	struct problem p = PROBLEM_INIT;
	int r = access_permits(&c, route, &p);

	if (r < 0)
		assert_int_equal(p.status, 403);
	return r;
}

static void test_scopes(void **state)
{
	const struct route read = {"GET", "/a", .scope = SCOPE_READ},
			   use = {"GET", "/a", .scope = SCOPE_USE}, forgotten = {"GET", "/a"},
			   all = {"GET", "/a", .scope = SCOPE_READ, .of_all = true};
	struct caller c = {.key_id = "kaaaaaaaaaaaaaaaaaaaa", .scope = SCOPE_USE};

	assert_int_equal(permits(SCOPE_NONE, &read), -EPERM);
	assert_int_equal(permits(SCOPE_READ, &read), 0);
	assert_int_equal(permits(SCOPE_READ, &use), -EPERM);
	assert_int_equal(permits(SCOPE_USE, &use), 0);
	assert_int_equal(permits(SCOPE_USE, &forgotten), -EPERM);
	assert_int_equal(permits(SCOPE_ADMIN, &forgotten), 0);
	assert_int_equal(permits(SCOPE_READ, &all), 0);
	assert_int_equal(permits(SCOPE_USE, &all), -EPERM);
	assert_int_equal(permits(SCOPE_ADMIN, &all), 0);
	assert_true(access_sees(&c, c.key_id));
	assert_false(access_sees(&c, "kbbbbbbbbbbbbbbbbbbbb"));
	assert_false(access_sees(&c, ""));
	c.scope = SCOPE_READ;
	assert_true(access_sees(&c, "kbbbbbbbbbbbbbbbbbbbb"));
}

TEST_MAIN(cmocka_unit_test(test_scopes), cmocka_unit_test(test_file),
	  cmocka_unit_test(test_environment))
