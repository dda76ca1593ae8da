/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "guest/cache.h"

static char dir[64];

static int setup(void **state)
{
	strcpy(dir, "/tmp/dorm-test-cache.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	return file_remove_tree(AT_FDCWD, dir);
}

static void put(struct cache *c, const char *digest, const char *text, char ret[4096])
{
	char path[4096], file[4200];
	int fd;

	assert_int_equal(cache_begin(c, "thing", path), 0);
	(void)snprintf(file, sizeof(file), "%s/data", path);
	fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	assert_int_equal(fd_write_full(fd, text, strlen(text)), 0);
	close(fd);
	assert_int_equal(cache_commit(c, "thing", digest, ret), 0);
}

static void test_find_and_damage(void **state)
{
	_cleanup_cache_ struct cache c = CACHE_INIT;
	char path[4096], again[4096], file[4200];

	assert_int_equal(cache_open(&c, dir, deadline_after_ms(1000)), 0);
	assert_int_equal(cache_find(&c, "thing", "d1", path), CACHE_E_ABSENT);
	put(&c, "d1", "content", path);
	assert_int_equal(cache_find(&c, "thing", "d1", again), 0);
	assert_string_equal(path, again);
	/* the same inputs once more */
	put(&c, "d1", "content", path);
	assert_int_equal(cache_find(&c, "thing", "d1", again), 0);
	/* shorter */
	(void)snprintf(file, sizeof(file), "%s/data", path);
	assert_int_equal(truncate(file, 3), 0);
	assert_int_equal(cache_find(&c, "thing", "d1", again), CACHE_E_ABSENT);
	assert_int_equal(access(path, F_OK), -1);
	/* a file is gone */
	put(&c, "d1", "content", path);
	assert_int_equal(unlink(file), 0);
	assert_int_equal(cache_find(&c, "thing", "d1", again), CACHE_E_ABSENT);
	/* the seal is gone */
	put(&c, "d1", "content", path);
	(void)snprintf(file, sizeof(file), "%s/seal", path);
	assert_int_equal(unlink(file), 0);
	assert_int_equal(cache_find(&c, "thing", "d1", again), CACHE_E_ABSENT);
}

static void test_two_stay(void **state)
{
	_cleanup_cache_ struct cache c = CACHE_INIT;
	char path[4096];

	assert_int_equal(cache_open(&c, dir, deadline_after_ms(1000)), 0);
	put(&c, "a", "1", path);
	clock_sleep_ms(20);
	put(&c, "b", "2", path);
	clock_sleep_ms(20);
	assert_int_equal(cache_find(&c, "thing", "a", path), 0); /* used again: now b is older */
	clock_sleep_ms(20);
	put(&c, "c", "3", path);
	assert_int_equal(cache_find(&c, "thing", "a", path), 0);
	assert_int_equal(cache_find(&c, "thing", "b", path), CACHE_E_ABSENT);
	assert_int_equal(cache_find(&c, "thing", "c", path), 0);
}

static void test_lock_and_leftovers(void **state)
{
	_cleanup_cache_ struct cache a = CACHE_INIT, b = CACHE_INIT;
	struct problem problem = PROBLEM_INIT;
	char path[4096];

	b.problem = &problem;
	assert_int_equal(cache_open(&a, dir, deadline_after_ms(1000)), 0);
	assert_int_equal(cache_begin(&a, "thing", path), 0);
	assert_int_equal(cache_open(&b, dir, deadline_after_ms(100)), -ETIMEDOUT);
	assert_non_null(strstr(problem.message, dir));
	cache_close(&b);
	assert_int_equal(access(path, F_OK), 0);
	cache_close(&a); /* as a crash would */
	assert_int_equal(cache_open(&b, dir, deadline_after_ms(1000)), 0);
	assert_int_equal(access(path, F_OK), -1);
}

static void test_failing_program(void **state)
{
	_cleanup_cache_ struct cache c = CACHE_INIT;
	struct problem problem = PROBLEM_INIT;

	c.problem = &problem;
	assert_int_equal(cache_run(&c, "step", NULL,
				   (const char *const[]){"sh", "-c", "echo why; exit 7", NULL},
				   NULL),
			 -EIO);
	assert_string_equal(problem.message, "step: sh failed (7): why");
	problem = PROBLEM_INIT;
	assert_int_equal(cache_run(&c, "step", NULL,
				   (const char *const[]){"dorm-no-such-program", NULL}, NULL),
			 -ENOENT);
	assert_non_null(strstr(problem.hint, "install-deps"));
}

/* The boundary between two inputs counts. */
static void test_digest(void **state)
{
	char x[CACHE_DIGEST_LEN + 1], y[CACHE_DIGEST_LEN + 1];
	struct cache_digest *d = cache_digest_new("v");

	cache_digest_add(d, "ab", 2);
	cache_digest_add(d, "c", 1);
	cache_digest_get(d, x);
	cache_digest_free(d);
	d = cache_digest_new("v");
	cache_digest_add(d, "a", 1);
	cache_digest_add(d, "bc", 2);
	cache_digest_get(d, y);
	cache_digest_free(d);
	assert_int_equal(strlen(x), CACHE_DIGEST_LEN);
	assert_string_not_equal(x, y);
}

TEST_MAIN(cmocka_unit_test_setup_teardown(test_find_and_damage, setup, teardown),
	  cmocka_unit_test_setup_teardown(test_two_stay, setup, teardown),
	  cmocka_unit_test_setup_teardown(test_lock_and_leftovers, setup, teardown),
	  cmocka_unit_test(test_failing_program), cmocka_unit_test(test_digest))
