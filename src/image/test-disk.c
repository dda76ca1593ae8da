/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-disk.c - copies of sparse files, by every way that this machine has
 *
 * Reflinks need a file system that has them: a btrfs in a file, on a loop device, in a mount
 * namespace of our own. Without root, loop devices or mkfs.btrfs that test is skipped.
 */
#include "image/test-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "image/disk.h"

struct extent {
	uint64_t offset, len;
};

/* A file of @size bytes that is a hole but for @n extents of noise. Return: a descriptor to read */
static int make_sparse(int dirfd, const char *name, uint64_t size, const struct extent *e, size_t n)
{
	int fd = openat(dirfd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	uint64_t seed = size;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	for (size_t i = 0; i < n; i++) {
		uint8_t *data = malloc(e[i].len);

		assert_non_null(data);
		for (uint64_t k = 0; k < e[i].len; k++)
			data[k] = (uint8_t)fixture_random(&seed);
		assert_int_equal(pwrite(fd, data, e[i].len, (off_t)e[i].offset), e[i].len);
		free(data);
	}
	assert_int_equal(fsync(fd), 0);
	return fd;
}

static void assert_same(int a, int dirfd, const char *name, unsigned mode, bool sparse)
{
	_cleanup_free_ char *x = NULL, *y = NULL;
	struct stat st, copy;
	int b = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	assert_true(b >= 0);
	assert_int_equal(fstat(a, &st), 0);
	assert_int_equal(fstat(b, &copy), 0);
	assert_int_equal(st.st_size, copy.st_size);
	assert_int_equal(copy.st_mode & 07777, mode);
	if (sparse)
		assert_true(copy.st_blocks <= st.st_blocks + 16);
	x = malloc((size_t)st.st_size + 1);
	y = malloc((size_t)st.st_size + 1);
	assert_true(x && y);
	assert_int_equal(fd_pread_full(a, x, (size_t)st.st_size, 0), 0);
	assert_int_equal(fd_pread_full(b, y, (size_t)st.st_size, 0), 0);
	assert_memory_equal(x, y, st.st_size);
	close(b);
}

static const struct {
	uint64_t size;
	struct extent extents[3];
	size_t n;
} shapes[] = {
	{0, {{0}}, 0},
	{1, {{0, 1}}, 1},
	{4095, {{0, 4095}}, 1},
	{4097, {{4096, 1}}, 1},
	{65536, {{0}}, 0}, /* nothing but a hole */
	{(1u << 20) + 100, {{0, 65536}, {1u << 20, 100}}, 2},
	{(8u << 20) + 1, {{123, 10}, {2u << 20, 300001}}, 2}, /* ends with a hole */
	{3u << 20, {{0, 3u << 20}}, 1},
};

static void copy_all_shapes(int dirfd)
{
	for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
		int fd = make_sparse(dirfd, "from", shapes[i].size, shapes[i].extents, shapes[i].n);

		for (int way = 0; way < 2; way++) {
			struct problem problem = PROBLEM_INIT;
			struct disk_copy_stats stats;

			assert_int_equal(disk_copy(fd, dirfd, "to", 0444,
						   way ? DISK_REFLINK_AUTO : DISK_REFLINK_NEVER,
						   &problem, &stats),
					 0);
			assert_same(fd, dirfd, "to", 0444, true);
			assert_int_equal(stats.bytes_total, shapes[i].size);
			assert_true(stats.bytes_copied <= shapes[i].size);
			assert_true(way || !stats.reflinked);
			if (!shapes[i].n)
				assert_int_equal(stats.bytes_copied, 0);
			else if (!stats.reflinked)
				assert_true(stats.bytes_copied > 0);
			assert_int_equal(unlinkat(dirfd, "to", 0), 0);
		}
		close(fd);
	}
}

static void test_copy(void **state)
{
	copy_all_shapes(((struct fixture *)*state)->dirfd);
}

/* A hole of 64 GiB costs neither time nor space. */
static void test_huge(void **state)
{
	static const struct extent e[] = {{0, 4096}, {(64ull << 30) - 8192, 5000}};
	struct fixture *f = *state;
	struct problem problem = PROBLEM_INIT;
	struct disk_copy_stats stats;
	int fd = make_sparse(f->dirfd, "from", 64ull << 30, e, 2);
	struct stat st;

	assert_int_equal(disk_copy(fd, f->dirfd, "to", 0600, DISK_REFLINK_NEVER, &problem, &stats),
			 0);
	assert_int_equal(stats.bytes_total, 64ull << 30);
	assert_true(stats.bytes_copied < 1u << 20);
	assert_int_equal(fstatat(f->dirfd, "to", &st, 0), 0);
	assert_true(st.st_size == (off_t)(64ull << 30) && st.st_blocks < 4096);
	close(fd);
}

static void test_refusals(void **state)
{
	struct fixture *f = *state;
	struct problem problem = PROBLEM_INIT;
	struct disk_copy_stats stats;
	int fd = make_sparse(f->dirfd, "from", 5, &(struct extent){0, 5}, 1);
	enum disk_reflink way;
	struct stat st;

	assert_int_equal(file_write_atomic(f->dirfd, "there", "old", 3, 0600), 0);
	assert_int_equal(
		disk_copy(fd, f->dirfd, "there", 0444, DISK_REFLINK_AUTO, &problem, &stats),
		-EEXIST);
	assert_int_equal(fstatat(f->dirfd, "there", &st, 0), 0);
	assert_int_equal(st.st_size, 3);
	problem = PROBLEM_INIT;
	assert_int_equal(
		disk_copy(f->dirfd, f->dirfd, "to", 0444, DISK_REFLINK_AUTO, &problem, NULL),
		-EINVAL);
	assert_true(problem_is_set(&problem));
	assert_int_equal(fstatat(f->dirfd, "to", &st, 0), -1);
	assert_int_equal(disk_reflink_parse("always", &way), 0);
	assert_int_equal(way, DISK_REFLINK_ALWAYS);
	assert_int_equal(disk_reflink_parse("auto", &way), 0);
	assert_int_equal(way, DISK_REFLINK_AUTO);
	assert_int_equal(disk_reflink_parse("never", &way), 0);
	assert_int_equal(way, DISK_REFLINK_NEVER);
	assert_int_equal(disk_reflink_parse("", &way), -EINVAL);
	assert_int_equal(disk_reflink_parse("Always", &way), -EINVAL);
	close(fd);
}

/* ---- file systems of our own ------------------------------------------------------------------
 */

/* Is everything of it shared with another file? */
static bool is_shared(int dirfd, const char *name)
{
	union {
		struct fiemap map;
		char space[sizeof(struct fiemap) + 64 * sizeof(struct fiemap_extent)];
	} m = {.map = {.fm_length = UINT64_MAX,
		       .fm_flags = FIEMAP_FLAG_SYNC,
		       .fm_extent_count = 64}};
	int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	bool shared = true;

	assert_true(fd >= 0);
	assert_int_equal(ioctl(fd, FS_IOC_FIEMAP, &m.map), 0);
	assert_true(m.map.fm_mapped_extents > 0);
	for (uint32_t i = 0; i < m.map.fm_mapped_extents; i++)
		shared &= !!(m.map.fm_extents[i].fe_flags & FIEMAP_EXTENT_SHARED);
	close(fd);
	return shared;
}

/* A directory of a new file system below the fixture's; skips the test when there cannot be one. */
static int mount_other(struct fixture *f, const char *kind)
{
	char command[400], path[80];

	assert_int_equal(mkdirat(f->dirfd, "other", 0755), 0);
	(void)snprintf(path, sizeof(path), "%s/other", f->path);
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		print_message("skipped: a file system of our own needs root\n");
		skip();
	}
	if (!strcmp(kind, "tmpfs")) {
		assert_int_equal(mount("none", path, kind, 0, "size=64m"), 0);
		return file_open_dir(AT_FDCWD,
				     path); /* not by f->dirfd: that one sees no mounts of ours */
	}
	(void)snprintf(command, sizeof(command),
		       "cd %s && truncate -s 256M disk && mkfs.btrfs -q disk >/dev/null 2>&1 && "
		       "mount -o loop -t %s disk other 2>/dev/null",
		       f->path, kind);
	if (system(command)) { /* NOLINT: a fixed command on a path of ours */
		print_message("skipped: no %s can be made and mounted here (needs root, "
			      "mkfs.%s and a loop device)\n",
			      kind, kind);
		skip();
	}
	return file_open_dir(AT_FDCWD, path);
}

static void test_reflink(void **state)
{
	static const struct extent e[] = {{0, 200000}, {4u << 20, 100}};
	struct problem problem = PROBLEM_INIT;
	struct fixture *f = *state;
	int other = mount_other(f, "btrfs"), fd;
	struct disk_copy_stats stats;

	assert_true(other >= 0);
	copy_all_shapes(other);
	fd = make_sparse(other, "disk", 8u << 20, e, 2);
	assert_int_equal(disk_copy(fd, other, "a", 0444, DISK_REFLINK_ALWAYS, &problem, &stats), 0);
	assert_true(stats.reflinked);
	assert_int_equal(stats.bytes_copied, 0);
	assert_same(fd, other, "a", 0444, false);
	assert_true(is_shared(other, "a"));
	assert_int_equal(disk_copy(fd, other, "b", 0600, DISK_REFLINK_NEVER, &problem, &stats), 0);
	assert_false(stats.reflinked);
	assert_true(stats.bytes_copied >= 200100);
	assert_same(fd, other, "b", 0600, true);
	assert_false(is_shared(other, "b"));
	close(fd);
	close(other);
}

static void assert_no_reflink(int fd, int dirfd, const char *why)
{
	struct problem problem = PROBLEM_INIT;
	struct disk_copy_stats stats;
	struct stat st;

	assert_int_equal(disk_copy(fd, dirfd, "no", 0444, DISK_REFLINK_ALWAYS, &problem, NULL),
			 -EOPNOTSUPP);
	if (!strstr(problem.message, why))
		fail_msg("\"%s\" has no \"%s\"", problem.message, why);
	assert_non_null(strstr(problem.hint, "btrfs"));
	assert_int_equal(problem.status, 501);
	assert_int_equal(fstatat(dirfd, "no", &st, AT_SYMLINK_NOFOLLOW), -1);
	assert_int_equal(disk_copy(fd, dirfd, "yes", 0444, DISK_REFLINK_AUTO, &problem, &stats), 0);
	assert_false(stats.reflinked);
	assert_same(fd, dirfd, "yes", 0444, true);
	assert_int_equal(unlinkat(dirfd, "yes", 0), 0);
}

static void test_no_reflink(void **state)
{
	static const struct extent e[] = {{8192, 100000}};
	struct fixture *f = *state;
	int other = mount_other(f, "tmpfs"), fd = make_sparse(f->dirfd, "disk", 1u << 20, e, 1);
	int fd2 = make_sparse(other, "disk", 1u << 20, e, 1);

	assert_no_reflink(fd2, other, "tmpfs refuses");
	assert_no_reflink(fd, other, "another file system (tmpfs)");
	copy_all_shapes(other);
	close(fd);
	close(fd2);
	close(other);
}

static int teardown(void **state)
{
	char path[80];

	(void)snprintf(path, sizeof(path), "%s/other", ((struct fixture *)*state)->path);
	(void)umount2(path, MNT_DETACH); /* where nothing was mounted nothing happens */
	return fixture_teardown(state);
}

#define DISK_TEST(_f) cmocka_unit_test_setup_teardown(_f, fixture_setup, teardown)
TEST_MAIN(DISK_TEST(test_copy), DISK_TEST(test_huge), DISK_TEST(test_refusals),
	  DISK_TEST(test_no_reflink), DISK_TEST(test_reflink))
