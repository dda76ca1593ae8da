/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-disk-merge.c - overlays that we make, chains of them, and what merging leaves of both
 *
 * qemu-io writes, qemu-img checks and compares: what is right is what QEMU says.
 */
#include "image/test-fixture.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "image/disk-merge.h"
#include "image/qcow2.h"

#define MIB (1ull << 20)

__attribute__((format(printf, 2, 3))) static void shell(struct fixture *f, const char *fmt, ...)
{
	char command[1024];
	int n = snprintf(command, sizeof(command), "cd %s && (", f->path);
	va_list ap;

	va_start(ap, fmt);
	n += vsnprintf(command + n, sizeof(command) - (size_t)n, fmt, ap);
	va_end(ap);
	assert_true((size_t)n < sizeof(command) - 16);
	(void)snprintf(command + n, sizeof(command) - (size_t)n, ") >/dev/null");
	if (system(command)) /* NOLINT: paths of ours */
		fail_msg("%s", command);
}

static void create(struct fixture *f, const char *name, uint64_t bytes, const char *backing)
{
	int fd = openat(f->dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(qcow2_create(fd, bytes, backing, "qcow2"), 0);
	close(fd);
	shell(f, "qemu-img check -q %s", name);
}

static void test_create(void **state)
{
	static const uint64_t sizes[] = {
		512, MIB, 4096 * MIB, 4096 * MIB + 512, 1ull << 40, QCOW2_MAX_VIRTUAL_BYTES};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct problem problem = PROBLEM_INIT;
		struct qcow2_info info;
		struct stat st;
		char name[16];
		int fd;

		(void)snprintf(name, sizeof(name), "a%zu", i);
		create(f, name, sizes[i], NULL);
		fd = openat(f->dirfd, name, O_RDONLY | O_CLOEXEC);
		assert_int_equal(qcow2_read_info(fd, &problem, &info), 0);
		assert_int_equal(info.virtual_bytes, sizes[i]);
		assert_string_equal(info.backing, "");
		assert_int_equal(fstat(fd, &st), 0);
		assert_true(st.st_blocks <= 64); /* nearly nothing, whatever the size */
		close(fd);
		shell(f, "qemu-io -f qcow2 -c 'write -P 7 0 512' %s && qemu-img check -q %s", name,
		      name);
	}
}

static void test_create_backing(void **state)
{
	struct fixture *f = *state;
	struct problem problem = PROBLEM_INIT;
	struct qcow2_info info;
	int fd;

	create(f, "base", MIB, NULL);
	shell(f, "qemu-io -f qcow2 -c 'write -P 1 0 128k' base");
	create(f, "top", MIB, "base");
	fd = openat(f->dirfd, "top", O_RDWR | O_CLOEXEC);
	assert_int_equal(qcow2_read_info(fd, &problem, &info), 0);
	assert_string_equal(info.backing, "base");
	assert_string_equal(info.backing_format, "qcow2");
	assert_int_equal(qcow2_create(fd, 0, NULL, NULL), -EINVAL);
	assert_int_equal(qcow2_create(fd, MIB + 1, NULL, NULL), -EINVAL);
	assert_int_equal(qcow2_create(fd, MIB, "x", "vmdk"), -EINVAL);
	close(fd);
	shell(f, "qemu-io -f qcow2 -c 'read -P 1 0 128k' -c 'write -P 2 64k 4k' top");
	shell(f, "qemu-io -f qcow2 -c 'read -P 1 0 64k' -c 'read -P 2 64k 4k' -c 'read -P 1 68k "
		 "60k' -c 'read -P 0 128k 896k' top");
}

/* ---- merging ----------------------------------------------------------------------------------
 */

static int merge(struct fixture *f, const char *const *names, size_t n, const char *backing,
		 const char *out, bool (*cancelled)(void *), struct problem *problem)
{
	int fds[SNAPSHOT_MAX_DISKS], r;
	int fd = openat(f->dirfd, out, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	*problem = PROBLEM_INIT;
	for (size_t i = 0; i < n; i++) {
		fds[i] = openat(f->dirfd, names[i], O_RDONLY | O_CLOEXEC);
		assert_true(fds[i] >= 0);
	}
	r = disk_merge_write(fds, n, backing, "qcow2", fd, cancelled, NULL, problem);
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
	close(fd);
	return r;
}

/* Random writes, zeros and discards in four layers; merged, all of it must look the same. */
static void test_merge(void **state)
{
	static const char *const layers[] = {"l0", "l1", "l2", "l3"};
	struct fixture *f = *state;
	uint64_t seed = 42;

	for (int round = 0; round < 6; round++) {
		uint64_t size = round < 4 ? 8 * MIB : 1200 * MIB;
		struct problem problem;

		shell(f, "rm -f l? merged all");
		for (int i = 0; i < 4; i++) {
			char commands[900] = "";
			size_t len = 0;

			create(f, layers[i], size, i ? layers[i - 1] : NULL);
			for (int k = 0; k < 10; k++) {
				static const char *const what[] = {"write -P 5", "write -z",
								   "write -zu",	 "discard",
								   "write -P 0", "write -P 9"};
				uint64_t at = fixture_random(&seed) % (size / 4096 - 64) * 4096;

				len += (size_t)snprintf(
					commands + len, sizeof(commands) - len,
					"-c '%s %llu %llu' ", what[fixture_random(&seed) % 6],
					(unsigned long long)at,
					(unsigned long long)(1 + fixture_random(&seed) % 64) *
						4096);
			}
			shell(f, "qemu-io -f qcow2 -d unmap %s %s", commands, layers[i]);
		}
		assert_int_equal(merge(f, layers + 1, 3, "l0", "merged", NULL, &problem), 0);
		shell(f, "qemu-img check -q merged && qemu-img compare -q -f qcow2 -F qcow2 l3 "
			 "merged");
		assert_int_equal(merge(f, layers, 4, NULL, "all", NULL, &problem), 0);
		shell(f, "qemu-img check -q all && qemu-img compare -q -f qcow2 -F qcow2 l3 all");
	}
}

/* More data than one block of counts covers: 2 GiB. */
static void test_merge_large(void **state)
{
	static const char *const layers[] = {"b", "t"};
	struct fixture *f = *state;
	struct problem problem;
	struct statvfs fs;
	struct stat st;

	if (statvfs(f->path, &fs) < 0 || fs.f_bavail * fs.f_frsize < 12ull << 30) {
		print_message("skipped: %s has less than 12 GiB free\n", f->path);
		skip();
	}
	create(f, "b", 4096 * MIB, NULL);
	create(f, "t", 4096 * MIB, "b");
	shell(f, "qemu-io -f qcow2 -c 'write -P 3 0 1100m' b && qemu-io -f qcow2 -c 'write -P 4 1g "
		 "1200m' t");
	assert_int_equal(merge(f, layers, 2, NULL, "m", NULL, &problem), 0);
	shell(f, "qemu-img check -q m && qemu-img compare -q -f qcow2 -F qcow2 t m");
	assert_int_equal(fstatat(f->dirfd, "m", &st, 0), 0);
	assert_true(st.st_size < (off_t)(2600 * MIB));
}

static bool at_once(void *userdata)
{
	return userdata == NULL;
}

static void overwrite(struct fixture *f, const char *name, uint64_t offset, uint64_t value)
{
	int fd = openat(f->dirfd, name, O_RDWR | O_CLOEXEC);

	value = htobe64(value);
	assert_int_equal(pwrite(fd, &value, 8, (off_t)offset), 8);
	close(fd);
}

static void test_merge_refused(void **state)
{
	static const char *const layers[] = {"a", "b"}, *const other[] = {"a", "c"};
	struct fixture *f = *state;
	struct problem problem;
	uint64_t l2;
	int fd;

	create(f, "a", 8 * MIB, NULL);
	create(f, "b", 8 * MIB, "a");
	create(f, "c", 9 * MIB, "a");
	shell(f, "qemu-img create -q -f qcow2 -o cluster_size=4k d 8M");
	shell(f, "qemu-img create -q -f raw r 8M && qemu-io -f raw -c 'write -P 3 0 64k' r && "
		 "qemu-img convert -c -O qcow2 r z");
	assert_int_equal(merge(f, other, 2, NULL, "m", NULL, &problem), -EOPNOTSUPP);
	assert_int_equal(merge(f, (const char *const[]){"a", "d"}, 2, NULL, "m", NULL, &problem),
			 -EOPNOTSUPP);
	assert_int_equal(merge(f, (const char *const[]){"a", "z"}, 2, NULL, "m", NULL, &problem),
			 -EOPNOTSUPP);
	assert_int_equal(merge(f, (const char *const[]){"a", "r"}, 2, NULL, "m", NULL, &problem),
			 DISK_E_CORRUPT);
	assert_int_equal(merge(f, layers, 2, NULL, "m", at_once, &problem), -ECANCELED);
	/* tables that lead out of the file */
	shell(f, "qemu-io -f qcow2 -c 'write -P 3 0 64k' b");
	fd = openat(f->dirfd, "b", O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, &l2, 8, 3 << 16), 8);
	close(fd);
	l2 = be64toh(l2) & ~(1ull << 63);
	overwrite(f, "b", l2, 1ull << 40);
	assert_int_equal(merge(f, layers, 2, NULL, "m", NULL, &problem), DISK_E_CORRUPT);
	assert_non_null(strstr(problem.message, "layer 1"));
	overwrite(f, "b", l2, 0x200);
	assert_int_equal(merge(f, layers, 2, NULL, "m", NULL, &problem), DISK_E_CORRUPT);
	overwrite(f, "b", 3 << 16, 1ull << 40);
	assert_int_equal(merge(f, layers, 2, NULL, "m", NULL, &problem), DISK_E_CORRUPT);
}

/* ---- choosing and placing ---------------------------------------------------------------------
 */

static void assert_choice(const char *sizes, unsigned max, bool force, uint32_t first)
{
	uint64_t bytes[SNAPSHOT_MAX_DISKS];
	bool own[SNAPSHOT_MAX_DISKS];
	struct disk_merge_choice choice;
	const char *p = sizes;
	uint32_t n = 0;

	while (*p) { /* "s" after a size: shared */
		char *end;

		bytes[n] = strtoull(p, &end, 10);
		own[n] = *end != 's';
		p = end + (*end == 's');
		p += *p == ' ';
		n++;
	}
	choice = disk_merge_choose(bytes, own, n, max, force);
	assert_int_equal(choice.last, n - 1);
	if (choice.first != first)
		fail_msg("%s: layers from %u on, wanted %u", sizes, choice.first, first);
}

static void test_choose(void **state)
{
	assert_choice("9s 1 1", 3, false, 2); /* short enough */
	assert_choice("9s 40 1 1 1 1 1 1 1", 8, false, 2);
	assert_choice("9s 40 7 1 1 1 1 1 1", 8, false, 3 - 2);
	assert_choice("9s 90 1 1 1 1 1 1 1", 8, false, 2);
	assert_choice("9s 90 1", 2, false, 1);	     /* two, or it would stay too long */
	assert_choice("9s 1s 1s 1 1", 4, false, 3);  /* what others have is left to them */
	assert_choice("9s 1s 1s 1s 1", 4, false, 3); /* unless there is no other way */
	assert_choice("9s 9s 1 90 1", 8, true, 2);
	assert_choice("9s 1", 8, true, 1);
	assert_choice("9s", 8, true, 0);
}

/* Each byte is rewritten a few times in 200 sleeps, however large the first one was. */
static void test_amplification(void **state)
{
	for (uint64_t first = 1; first <= 1000; first *= 10) {
		uint64_t sizes[SNAPSHOT_MAX_DISKS] = {1000, first}, written = 0;
		bool own[SNAPSHOT_MAX_DISKS] = {false};
		uint32_t n = 2;

		for (uint32_t i = 1; i < SNAPSHOT_MAX_DISKS; i++)
			own[i] = true;
		for (int sleep = 0; sleep < 200; sleep++) {
			struct disk_merge_choice c;

			sizes[n++] = 1;
			c = disk_merge_choose(sizes, own, n, DISK_CHAIN_MAX, false);
			if (c.first < c.last) {
				n = c.first + 1;
				sizes[c.first] = c.bytes;
				written += c.bytes;
			}
			assert_true(n <= DISK_CHAIN_MAX);
		}
		assert_true(written < 200 * 8);
	}
}

static void test_devices(void **state)
{
	struct manifest m = {.n_disks = 4,
			     .disks = {{.name = "root", .format = "raw", .read_only = true},
				       {.name = "top", .format = "qcow2", .backing = "mid"},
				       {.name = "low", .format = "qcow2"},
				       {.name = "mid", .format = "qcow2", .backing = "low"}}};
	struct disk_device d[SNAPSHOT_MAX_DISKS];
	struct problem problem = PROBLEM_INIT;

	assert_int_equal(disk_devices(&m, &problem, d), 2);
	assert_true(d[0].read_only && d[0].n_layers == 1 && d[0].layers[0] == 0);
	assert_true(!d[1].read_only && d[1].n_layers == 3 && d[1].layers[0] == 2 &&
		    d[1].layers[1] == 3 && d[1].layers[2] == 1);
	(void)snprintf(m.disks[2].backing, sizeof(m.disks[2].backing),
		       "root"); /* raw below: fine */
	assert_int_equal(disk_devices(&m, &problem, d), 1);
	(void)snprintf(m.disks[2].backing, sizeof(m.disks[2].backing), "top"); /* a circle */
	assert_int_equal(disk_devices(&m, &problem, d), -EBADMSG);
	(void)snprintf(m.disks[2].backing, sizeof(m.disks[2].backing), "gone");
	assert_int_equal(disk_devices(&m, &problem, d), -EBADMSG);
	m.disks[2].backing[0] = 0;
	(void)snprintf(m.disks[0].backing, sizeof(m.disks[0].backing), "low"); /* two over one */
	assert_int_equal(disk_devices(&m, &problem, d), -EBADMSG);
}

static void test_place(void **state)
{
	struct fixture *f = *state;
	struct manifest m = {.n_disks = 10};
	struct problem problem = PROBLEM_INIT;
	const struct disk_merge_options o = {.max_layers = DISK_CHAIN_MAX, .own_links = 2};
	struct disk_merge_stats stats;
	int src = fixture_dir(f, "src"), dst = fixture_dir(f, "dst");

	assert_int_equal(mkdirat(src, "disks", 0700) | mkdirat(dst, "disks", 0700), 0);
	m.disks[0] = (struct snapshot_disk){.name = "root", .format = "raw", .read_only = true};
	shell(f, "truncate -s 1M src/disks/root");
	for (unsigned i = 1; i < 10; i++) {
		char path[32], below[16] = "";

		(void)snprintf(path, sizeof(path), "src/disks/l%u", i);
		if (i > 1)
			(void)snprintf(below, sizeof(below), "l%u", i - 1);
		create(f, path, 8 * MIB, i > 1 ? below : NULL);
		m.disks[i] = (struct snapshot_disk){.format = "qcow2"};
		(void)snprintf(m.disks[i].name, sizeof(m.disks[i].name), "l%u", i);
		(void)snprintf(m.disks[i].backing, sizeof(m.disks[i].backing), "%s", below);
		shell(f, "qemu-io -f qcow2 -c 'write -P %u %uk 64k' %s", i, i * 64, path);
	}
	assert_true(disk_chain_is_long(&m));
	for (unsigned i = 0; i < 10; i++) {
		char path[48];

		(void)snprintf(path, sizeof(path), "disks/%s", m.disks[i].name);
		assert_int_equal(linkat(src, path, dst, path, 0), 0);
	}
	assert_int_equal(disk_merge(openat(dst, "disks", O_RDONLY), &m, &o, &problem, &stats), 0);
	assert_int_equal(stats.layers_before, 9);
	assert_int_equal(stats.layers_after, 2);
	assert_int_equal(m.n_disks, 3);
	assert_string_equal(m.disks[2].backing, "l1");
	assert_false(disk_chain_is_long(&m));
	assert_int_equal(disk_check_chain(openat(dst, "disks", O_RDONLY), m.disks, 3, &problem), 0);
	shell(f, "qemu-img compare -q -f qcow2 -F qcow2 src/disks/l9 dst/disks/%s", m.disks[2].name);
	shell(f, "test $(ls dst/disks | wc -l) = 3");
	assert_int_equal(disk_merge(openat(dst, "disks", O_RDONLY), &m, &o, &problem, &stats), 0);
	assert_int_equal(stats.layers_after, 2);
	assert_int_equal(stats.bytes_written, 0);
	close(src);
	close(dst);
}

#define T(_f) cmocka_unit_test_setup_teardown(_f, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_create),	       T(test_create_backing), T(test_merge),
		T(test_merge_large),   T(test_merge_refused),  T(test_choose),
		T(test_amplification), T(test_devices),	       T(test_place),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
