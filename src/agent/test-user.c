/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/user.h"
#include "base/file.h"

static int etc;
static char dir[] = "/tmp/test-user-XXXXXX";

static int setup(void **state)
{
	assert_non_null(mkdtemp(dir));
	etc = file_open_dir(AT_FDCWD, dir);
	return etc < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	close(etc);
	return file_remove_tree(AT_FDCWD, dir);
}

static void put(const char *name, const char *text)
{
	assert_int_equal(file_write_atomic(etc, name, text, strlen(text), 0644), 0);
}

static void test_lookup(void **state)
{
	struct user u;

	put("passwd", "root:x:0:0:root:/root:/bin/bash\n"
		      "short:x:5\nbad:x:five:5::/:/bin/sh\n"
		      "user:x:1000:1001:A, B:/home/user:\nlast:x:7:8:::");
	put("group", "wheel:x:10:root,user\nother:x:11:use,userx\ntail:x:12:user");
	assert_int_equal(user_lookup(dir, "user", &u), 0);
	assert_int_equal(u.uid, 1000);
	assert_int_equal(u.gid, 1001);
	assert_string_equal(u.home, "/home/user");
	assert_string_equal(u.shell, "/bin/sh");
	assert_int_equal(u.n_groups, 2);
	assert_int_equal(u.groups[0], 10);
	assert_int_equal(u.groups[1], 12);
	assert_int_equal(user_lookup(dir, "1000", &u), 0);
	assert_string_equal(u.name, "user");
	assert_int_equal(user_lookup(dir, "last", &u), 0); /* no newline at the end */
	assert_string_equal(u.home, "/");
	assert_int_equal(user_lookup(dir, "short", &u), -ENOENT);
	assert_int_equal(user_lookup(dir, "bad", &u), -ENOENT);
	assert_int_equal(user_lookup(dir, "", &u), -ENOENT);
}

/* What a sandbox's root may put there must not stop PID 1. */
static void test_hostile_files(void **state)
{
	struct user u;

	(void)unlinkat(etc, "passwd", 0);
	assert_int_equal(mkfifoat(etc, "passwd", 0644), 0);
	assert_int_equal(user_lookup(dir, "user", &u), -ENOENT);
	assert_int_equal(user_lookup(dir, "root", &u), 0);
	assert_int_equal(u.uid, 0);
	assert_string_equal(u.home, "/root");
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_lookup),
					   cmocka_unit_test(test_hostile_files)};

	return cmocka_run_group_tests(tests, setup, teardown);
}
