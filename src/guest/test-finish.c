/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-finish.c - trees that lack everything, trees that lead elsewhere, and equal bytes from equal
 * trees
 *
 * Changing owners needs root; without it these are skipped (77).
 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "guest/erofs.h"
#include "guest/finish.h"
#include "guest/tree.h"

static char dir[64], tree[128];
static int dir_fd, tree_fd;
static char said[4096];
static struct problem problem;

static void hear(void *userdata, const char *text)
{
	size_t n = strlen(said);

	(void)snprintf(said + n, sizeof(said) - n, "%s\n", text);
}

static const struct runner runner = {.progress = hear, .problem = &problem};

static void put(const char *path, const char *text)
{
	assert_int_equal(tree_write(tree_fd, path, 0755, NULL, text, strlen(text)), 0);
}

static int setup(void **state)
{
	said[0] = 0;
	problem = PROBLEM_INIT;
	strcpy(dir, "/tmp/dorm-test-finish.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	(void)snprintf(tree, sizeof(tree), "%s/tree", dir);
	if (mkdir(tree, 0755) < 0)
		return -1;
	dir_fd = file_open_dir(AT_FDCWD, dir);
	tree_fd = file_open_dir(AT_FDCWD, tree);
	return dir_fd < 0 || tree_fd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	tree_fd = fd_close(tree_fd);
	dir_fd = fd_close(dir_fd);
	return file_remove_tree(AT_FDCWD, dir);
}

static void expect(const char *path, const char *text)
{
	_cleanup_free_ char *got = NULL;

	assert_int_equal(tree_read(tree_fd, path, 1 << 20, &got, NULL), 0);
	assert_string_equal(got, text);
}

static void finish(void)
{
	if (finish_add(&runner, tree_fd) < 0)
		fail_msg("%s", problem.message);
}

static void test_bare(void **state)
{
	struct stat st;

	put("/bin/sh", "");
	finish();
	expect("/etc/passwd",
	       "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n");
	expect("/etc/group", "root:x:0:\nuser:x:1000:\n");
	expect("/etc/machine-id", "");
	assert_false(tree_exists(tree_fd, "/etc/shadow"));
	assert_false(tree_exists(tree_fd, "/etc/sudoers.d"));
	assert_int_equal(fstatat(tree_fd, "tmp", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 01777);
	assert_int_equal(fstatat(tree_fd, "home/user", &st, 0), 0);
	assert_int_equal(st.st_uid, 1000);
	assert_non_null(strstr(said, "adding the user root\n"));
	assert_non_null(strstr(said, "no /bin/bash"));
	/* once more: nothing is added twice */
	said[0] = 0;
	finish();
	expect("/etc/group", "root:x:0:\nuser:x:1000:\n");
	assert_null(strstr(said, "adding"));
}

static void test_kept(void **state)
{
	put("/bin/sh", "");
	put("/bin/bash", "");
	put("/etc/passwd", "root:x:0:0::/root:/bin/bash\nnode:x:1000:1000::/home/node:/bin/sh");
	put("/etc/group", "root:x:0:\nnode:x:1000:\nother:x:1001:\n");
	put("/etc/shadow", "root:*:1::::::\n");
	put("/etc/sudoers", "");
	put("/etc/hosts", "127.0.0.1 here\n");
	put("/etc/resolv.conf", "nameserver 192.0.2.1\n");
	finish();
	expect("/etc/passwd", "root:x:0:0::/root:/bin/bash\nnode:x:1000:1000::/home/node:/bin/sh\n"
			      "user:x:1002:1002::/home/user:/bin/bash\n");
	expect("/etc/shadow", "root:*:1::::::\nuser:!:19723:0:99999:7:::\n");
	expect("/etc/hosts", "127.0.0.1 here\n");
	expect("/etc/resolv.conf", "");
	expect("/etc/sudoers.d/dorm-user", "user ALL=(ALL:ALL) NOPASSWD: ALL\n");
}

static void test_no_shell(void **state)
{
	assert_int_equal(finish_add(&runner, tree_fd), -EINVAL);
	assert_non_null(strstr(problem.message, "no /bin/sh"));
}

static void test_mount_points_that_are_links(void **state)
{
	static const char *const names[] = {"proc", "dev", "tmp", "run", "etc", "sys"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		(void)teardown(NULL);
		assert_int_equal(setup(NULL), 0);
		put("/bin/sh", "");
		assert_int_equal(symlinkat(dir, tree_fd, names[i]), 0);
		assert_int_equal(finish_add(&runner, tree_fd), -EINVAL);
		assert_non_null(strstr(problem.message, names[i]));
	}
}

/* Files of the host, reached by links in the tree: neither read nor written. */
static void test_links_to_the_host(void **state)
{
	char victim[256];
	_cleanup_free_ char *text = NULL;

	(void)snprintf(victim, sizeof(victim), "%s/victim", dir);
	assert_int_equal(file_replace(AT_FDCWD, victim, "untouched", 9, 0644), 0);
	put("/bin/sh", "");
	assert_int_equal(mkdirat(tree_fd, "etc", 0755), 0);
	assert_int_equal(symlinkat(victim, tree_fd, "etc/resolv.conf"), 0);
	assert_int_equal(symlinkat("../../victim", tree_fd, "etc/hostname"), 0);
	assert_int_equal(symlinkat(victim, tree_fd, "etc/passwd"), 0);
	assert_int_equal(symlinkat(dir, tree_fd, "home"), 0);
	(void)finish_add(&runner, tree_fd); /* it may give up; it may not write out there */
	assert_int_equal(file_read(AT_FDCWD, victim, 100, &text, NULL), 0);
	assert_string_equal(text, "untouched");
	assert_int_equal(faccessat(dir_fd, "user", F_OK, 0), -1);
}

static void test_tidy(void **state)
{
	put("/var/log/dpkg.log", "x");
	put("/var/log/mine.log", "x");
	put("/var/lib/apt/lists/a", "x");
	put("/tmp/.x/y", "x");
	put("/etc/passwd-", "x");
	assert_int_equal(symlinkat("/etc", tree_fd, "run"), 0); /* a link is not followed */
	put("/etc/kept", "x");
	finish_tidy(tree_fd);
	assert_false(tree_exists(tree_fd, "/var/log/dpkg.log"));
	assert_true(tree_exists(tree_fd, "/var/log/mine.log"));
	assert_false(tree_exists(tree_fd, "/var/lib/apt/lists/a"));
	assert_true(tree_exists(tree_fd, "/var/lib/apt/lists"));
	assert_false(tree_exists(tree_fd, "/tmp/.x"));
	assert_false(tree_exists(tree_fd, "/etc/passwd-"));
	assert_true(tree_exists(tree_fd, "/etc/kept"));
}

static void make_image(const char *name, char **ret, size_t *ret_len)
{
	char path[256];

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (erofs_make(&runner, tree, path) < 0)
		fail_msg("%s", problem.message);
	assert_int_equal(file_read(AT_FDCWD, path, 64 << 20, ret, ret_len), 0);
}

/* The same tree, made a second later and in another order. */
static void test_same_bytes(void **state)
{
	static const char *const files[] = {"/bin/sh", "/srv/a", "/srv/b/c", "/z"};
	_cleanup_free_ char *a = NULL, *b = NULL;
	char out[256];
	size_t a_len, b_len;

	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		put(files[i], files[i]);
	finish();
	make_image("a", &a, &a_len);
	tree_fd = fd_close(tree_fd);
	assert_int_equal(file_remove_tree(dir_fd, "tree"), 0);
	clock_sleep_ms(1100);
	assert_int_equal(mkdir(tree, 0755), 0);
	tree_fd = file_open_dir(AT_FDCWD, tree);
	for (size_t i = ARRAY_SIZE(files); i-- > 0;)
		put(files[i], files[i]);
	finish();
	make_image("b", &b, &b_len);
	assert_int_equal(a_len, b_len);
	assert_memory_equal(a, b, a_len);
	/* and back: what is in it */
	(void)snprintf(out, sizeof(out), "%s/a", dir);
	tree_fd = fd_close(tree_fd);
	assert_int_equal(file_remove_tree(dir_fd, "tree"), 0);
	if (erofs_extract(&runner, out, tree) < 0)
		fail_msg("%s", problem.message);
	tree_fd = file_open_dir(AT_FDCWD, tree);
	expect("/srv/b/c", "/srv/b/c");
}

#define TEST(_f) cmocka_unit_test_setup_teardown(_f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_bare),
		TEST(test_kept),
		TEST(test_no_shell),
		TEST(test_mount_points_that_are_links),
		TEST(test_links_to_the_host),
		TEST(test_tidy),
		TEST(test_same_bytes),
	};

	if (geteuid() != 0) {
		print_message("skipped: giving files to others needs root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
