/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-unpack.c - archives that mean no good
 *
 * Each test makes an archive in memory, extracts it into DIR/tree, and looks at DIR: nothing may be
 * there but what was there before. Owners are those of the archive only for root; so these run as
 * whoever we are, with their owner.
 */
#include "base/test.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "guest/unpack.h"

static char dir[64];
static int dir_fd, tree_fd;
static struct archive *writer;
static int archive_fd;

static int setup(void **state)
{
	strcpy(dir, "/tmp/dorm-test-unpack.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	dir_fd = file_open_dir(AT_FDCWD, dir);
	if (mkdirat(dir_fd, "tree", 0755) < 0 || mkdirat(dir_fd, "outside", 0755) < 0)
		return -1;
	tree_fd = file_open_dir(dir_fd, "tree");
	archive_fd = memfd_create("archive", MFD_CLOEXEC);
	writer = archive_write_new();
	if (archive_write_set_format_pax_restricted(writer) != ARCHIVE_OK ||
	    archive_write_open_fd(writer, archive_fd) != ARCHIVE_OK)
		return -1;
	return tree_fd < 0 || archive_fd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	if (writer)
		(void)archive_write_free(writer);
	writer = NULL;
	archive_fd = fd_close(archive_fd);
	tree_fd = fd_close(tree_fd);
	dir_fd = fd_close(dir_fd);
	return file_remove_tree(AT_FDCWD, dir);
}

/* @link: target of a symbolic link, or of a hard link for type 0 */
static void add(const char *name, unsigned type, const char *link, const char *data, unsigned mode)
{
	struct archive_entry *e = archive_entry_new();
	size_t len = data ? strlen(data) : 0;

	archive_entry_set_pathname(e, name);
	archive_entry_set_filetype(e, type ? type : AE_IFREG);
	archive_entry_set_perm(e, (__LA_MODE_T)mode);
	archive_entry_set_uid(e, getuid());
	archive_entry_set_gid(e, getgid());
	archive_entry_set_size(e, (la_int64_t)len);
	if (type == AE_IFLNK)
		archive_entry_set_symlink(e, link);
	else if (link)
		archive_entry_set_hardlink(e, link);
	assert_int_equal(archive_write_header(writer, e), ARCHIVE_OK);
	if (len)
		assert_int_equal(archive_write_data(writer, data, len), len);
	archive_entry_free(e);
}

static int unpack_with(const struct unpack_limits *limits, struct problem *p,
		       struct unpack_stats *stats)
{
	if (writer) {
		assert_int_equal(archive_write_close(writer), ARCHIVE_OK);
		(void)archive_write_free(writer);
		writer = NULL;
	}
	assert_int_equal(lseek(archive_fd, 0, SEEK_SET), 0);
	return unpack_tar(archive_fd, "test.tar", tree_fd, "/", NULL, limits, p, stats);
}

static int unpack(struct problem *p, struct unpack_stats *stats)
{
	struct unpack_limits limits = UNPACK_LIMITS_DEFAULT;

	limits.free_bytes = 0;
	return unpack_with(&limits, p, stats);
}

static void expect(const char *path, const char *text)
{
	_cleanup_free_ char *got = NULL;

	assert_int_equal(file_read(dir_fd, path, 1 << 20, &got, NULL), 0);
	assert_string_equal(got, text);
}

static void expect_refused(const char *why)
{
	struct problem p = PROBLEM_INIT;
	struct unpack_stats stats;

	assert_true(unpack(&p, &stats) < 0);
	if (!strstr(p.message, why))
		fail_msg("\"%s\" is not in \"%s\"", why, p.message);
	assert_non_null(strstr(p.message, "test.tar"));
}

static void expect_untouched(void)
{
	DIR *d;
	unsigned n = 0;

	assert_int_equal(file_opendir(dir_fd, "outside", &d), 0);
	while (readdir(d))
		n++;
	closedir(d);
	assert_int_equal(n, 2); /* "." and ".." */
}

static void test_ordinary(void **state)
{
	struct problem p = PROBLEM_INIT;
	struct unpack_stats stats;
	struct stat st;

	add("./", AE_IFDIR, NULL, NULL, 0750);
	add("./a/b/c", AE_IFREG, NULL, "C", 0640);
	add("a", AE_IFDIR, NULL, NULL, 0700);
	add("/abs", AE_IFREG, NULL, "A", 0644);
	add("link", AE_IFLNK, "/etc/passwd", NULL, 0777);
	add("hard", 0, "a/b/c", NULL, 0644);
	add("suid", AE_IFREG, NULL, "", 04755);
	add("abs", AE_IFREG, NULL, "again", 0600);
	if (unpack(&p, &stats) < 0)
		fail_msg("%s", p.message);
	expect("tree/a/b/c", "C");
	expect("tree/hard", "C");
	expect("tree/abs", "again");
	assert_int_equal(fstatat(tree_fd, "a", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(fstatat(tree_fd, "hard", &st, 0), 0);
	assert_int_equal(st.st_nlink, 2);
	assert_int_equal(fstatat(tree_fd, "suid", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 04755);
	assert_int_equal(fstatat(tree_fd, "link", &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(stats.entries, 8);
	assert_int_equal(stats.bytes, 7);
	assert_int_equal(stats.left_out, 0);
}

static void test_upwards(void **state)
{
	static const char *const names[] = {"../outside/x", "a/../../outside/x", "/../outside/x",
					    "..", "a/.."};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		(void)teardown(NULL);
		assert_int_equal(setup(NULL), 0);
		add(names[i], AE_IFREG, NULL, "x", 0644);
		expect_refused("leads upwards");
		expect_untouched();
	}
}

/* A link that leads out, then a file through it: it stays inside, in either form of the link. */
static void test_through_links(void **state)
{
	struct problem p = PROBLEM_INIT;
	struct unpack_stats stats;
	char target[128];

	(void)snprintf(target, sizeof(target), "%s/outside", dir);
	add("absolute", AE_IFLNK, target, NULL, 0777);
	add("relative", AE_IFLNK, "../../../../../../../../tmp", NULL, 0777);
	add("tmp", AE_IFDIR, NULL, NULL, 0755);
	add("relative/x", AE_IFREG, NULL, "inside", 0644);
	if (unpack(&p, &stats) < 0)
		fail_msg("%s", p.message);
	expect("tree/tmp/x", "inside");
	expect_untouched();
}

static void test_through_a_link_to_nowhere(void **state)
{
	char target[128];

	(void)snprintf(target, sizeof(target), "%s/outside", dir);
	add("way", AE_IFLNK, target, NULL, 0777);
	add("way/x", AE_IFREG, NULL, "x", 0644);
	expect_refused("way/x");
	expect_untouched();
}

/* A file in place of a link: the link is replaced, not followed. */
static void test_over_a_link(void **state)
{
	struct problem p = PROBLEM_INIT;
	struct unpack_stats stats;
	char target[128];

	(void)snprintf(target, sizeof(target), "%s/outside/x", dir);
	add("x", AE_IFLNK, target, NULL, 0777);
	add("x", AE_IFREG, NULL, "file", 0644);
	if (unpack(&p, &stats) < 0)
		fail_msg("%s", p.message);
	expect("tree/x", "file");
	expect_untouched();
}

static void test_hard_links_out(void **state)
{
	add("x", 0, "/etc/passwd", NULL, 0644);
	expect_refused("hard link to what is not a file"); /* there is no etc in the tree */
}

static void test_hard_link_to_a_directory(void **state)
{
	add("d", AE_IFDIR, NULL, NULL, 0755);
	add("x", 0, "d", NULL, 0644);
	expect_refused("hard link to what is not a file");
}

static void test_hard_link_upwards(void **state)
{
	add("x", 0, "../outside/y", NULL, 0644);
	expect_refused("leads upwards");
}

static void test_devices(void **state)
{
	struct problem p = PROBLEM_INIT;
	struct unpack_stats stats;

	add("dev/sda", AE_IFBLK, NULL, NULL, 0666);
	add("dev/null", AE_IFCHR, NULL, NULL, 0666);
	add("fifo", AE_IFIFO, NULL, NULL, 0666);
	add("file", AE_IFREG, NULL, "f", 0666);
	if (unpack(&p, &stats) < 0)
		fail_msg("%s", p.message);
	assert_int_equal(stats.left_out, 3);
	assert_string_equal(stats.first_left_out, "/dev/sda");
	assert_int_equal(faccessat(tree_fd, "dev/sda", F_OK, 0), -1);
	expect("tree/file", "f");
}

static void test_limits(void **state)
{
	struct unpack_limits limits = {.bytes = 5, .entries = 100};
	struct unpack_stats stats;
	struct problem p = PROBLEM_INIT;

	add("a", AE_IFREG, NULL, "1234", 0644);
	add("b", AE_IFREG, NULL, "12", 0644);
	assert_int_equal(unpack_with(&limits, &p, &stats), -EINVAL);
	assert_non_null(strstr(p.message, "\"/b\""));
	assert_int_equal(faccessat(tree_fd, "b", F_OK, 0), -1); /* before a byte of it */

	p = PROBLEM_INIT;
	limits = (struct unpack_limits){.bytes = 100, .entries = 1};
	assert_int_equal(unpack_with(&limits, &p, &stats), -EINVAL);
	assert_non_null(strstr(p.message, "more entries"));

	p = PROBLEM_INIT;
	limits = (struct unpack_limits){.bytes = 100, .entries = 10, .free_bytes = UINT64_MAX};
	assert_int_equal(unpack_with(&limits, &p, &stats), -ENOSPC);
	assert_int_equal(p.status, 507);
}

/* A header that promises a terabyte, and a file of holes: refused by its size, not by what is
 * there. */
static void test_huge_file(void **state)
{
	struct archive_entry *e = archive_entry_new();

	archive_entry_set_pathname(e, "huge");
	archive_entry_set_filetype(e, AE_IFREG);
	archive_entry_set_perm(e, 0644);
	archive_entry_set_size(e, 1ll << 40);
	archive_entry_sparse_add_entry(e, (1ll << 40) - 1, 1);
	assert_int_equal(archive_write_header(writer, e), ARCHIVE_OK);
	assert_int_equal(archive_write_data(writer, "x", 1), 1);
	archive_entry_free(e);
	(void)archive_write_close(writer); /* it misses the rest; we do not get that far */
	(void)archive_write_free(writer);
	writer = NULL;
	expect_refused("larger than 16384 MiB");
}

static bool always(void *userdata)
{
	return true;
}

static void test_cancelled(void **state)
{
	struct unpack_limits limits = UNPACK_LIMITS_DEFAULT;
	struct problem p = PROBLEM_INIT;
	struct unpack_stats stats;

	limits.cancelled = always;
	add("a", AE_IFREG, NULL, "1234", 0644);
	assert_int_equal(unpack_with(&limits, &p, &stats), -ECANCELED);
}

static void test_not_an_archive(void **state)
{
	char noise[4096];

	(void)archive_write_free(writer);
	writer = NULL;
	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (char)(i * 7 + 1);
	assert_int_equal(ftruncate(archive_fd, 0), 0);
	assert_int_equal(pwrite(archive_fd, noise, sizeof(noise), 0), sizeof(noise));
	expect_refused("cannot be read as a tar archive");
}

static void test_cut(void **state)
{
	static char big[100000];

	memset(big, 'x', sizeof(big) - 1);
	add("big", AE_IFREG, NULL, big, 0644);
	assert_int_equal(archive_write_close(writer), ARCHIVE_OK);
	(void)archive_write_free(writer);
	writer = NULL;
	assert_int_equal(ftruncate(archive_fd, 50000), 0);
	expect_refused("big");
}

static void test_into_a_directory(void **state)
{
	struct unpack_limits limits = {.bytes = 100, .entries = 10};
	const struct tree_owner owner = {getuid(), getgid()};
	struct problem p = PROBLEM_INIT;
	struct unpack_stats stats;

	add("./f", AE_IFREG, NULL, "f", 0644);
	add("h", 0, "./f", NULL, 0644);
	assert_int_equal(archive_write_close(writer), ARCHIVE_OK);
	(void)archive_write_free(writer);
	writer = NULL;
	assert_int_equal(lseek(archive_fd, 0, SEEK_SET), 0);
	if (unpack_tar(archive_fd, "test.tar", tree_fd, "/srv/app", &owner, &limits, &p, &stats) <
	    0)
		fail_msg("%s", p.message);
	expect("tree/srv/app/f", "f");
	expect("tree/srv/app/h", "f");
}

#define TEST(_f) cmocka_unit_test_setup_teardown(_f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_ordinary),
		TEST(test_upwards),
		TEST(test_through_links),
		TEST(test_through_a_link_to_nowhere),
		TEST(test_over_a_link),
		TEST(test_hard_links_out),
		TEST(test_hard_link_to_a_directory),
		TEST(test_hard_link_upwards),
		TEST(test_devices),
		TEST(test_limits),
		TEST(test_huge_file),
		TEST(test_cancelled),
		TEST(test_not_an_archive),
		TEST(test_cut),
		TEST(test_into_a_directory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
