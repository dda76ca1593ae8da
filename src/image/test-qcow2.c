/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-qcow2.c - real qcow2 files as qemu-img makes them, the same altered, and chains of them
 */
#include "image/test-fixture.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/qcow2.h"
#include "image/snapshot.h"
#include "image/store.h"

/* A shell command in @dir, which is the fixture's or below it. Return: its status */
__attribute__((format(printf, 2, 3))) static int shell(const char *dir, const char *fmt, ...)
{
	char command[1024];
	int n = snprintf(command, sizeof(command), "cd %s && (", dir);
	va_list ap;

	va_start(ap, fmt);
	n += vsnprintf(command + n, sizeof(command) - (size_t)n, fmt, ap);
	va_end(ap);
	assert_true((size_t)n < sizeof(command) - 16);
	(void)snprintf(command + n, sizeof(command) - (size_t)n, ") >/dev/null");
	return system(command); /* NOLINT: paths of ours */
}

static int read_info(struct fixture *f, const char *name, struct problem *problem,
		     struct qcow2_info *ret)
{
	int fd = openat(f->dirfd, name, O_RDONLY | O_CLOEXEC), r;

	assert_true(fd >= 0);
	*problem = PROBLEM_INIT;
	r = qcow2_read_info(fd, problem, ret);
	assert_true(r == 0 || problem_is_set(problem));
	close(fd);
	return r;
}

static void assert_refused(struct fixture *f, const char *name, const char *why)
{
	struct qcow2_info info = {.virtual_bytes = 77};
	struct problem problem;

	assert_int_equal(read_info(f, name, &problem, &info), DISK_E_CORRUPT);
	assert_int_equal(info.virtual_bytes, 77);
	if (!strstr(problem.message, why))
		fail_msg("%s: \"%s\" has no \"%s\"", name, problem.message, why);
}

/* Every kind of qcow2 file that qemu-img makes is understood. */
static void test_kinds(void **state)
{
	static const char *const options[] = {
		"",
		"-o compat=0.10",
		"-o cluster_size=512",
		"-o cluster_size=2M",
		"-o compression_type=zstd",
		"-o extended_l2=on",
		"-o lazy_refcounts=on",
		"-o preallocation=metadata",
		"-o refcount_bits=1",
	};
	static const unsigned long long sizes[] = {512, 1 << 20, 5ull << 30, 1ull << 37};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(options) * ARRAY_SIZE(sizes); i++) {
		const char *o = options[i / ARRAY_SIZE(sizes)];
		unsigned long long size = sizes[i % ARRAY_SIZE(sizes)];
		struct problem problem;
		struct qcow2_info info;

		if (size > 1u << 30 && strstr(o, "prealloc"))
			continue; /* takes seconds */
		if (shell(f->path, "qemu-img create -q -f qcow2 %s a %llu", o, size))
			fail_msg("qemu-img create %s %llu", o, size);
		if (read_info(f, "a", &problem, &info))
			fail_msg("%s, %llu bytes: %s", o, size, problem.message);
		assert_int_equal(info.virtual_bytes, size);
		assert_string_equal(info.backing, "");
		assert_string_equal(info.backing_format, "");
	}
}

static void test_backing(void **state)
{
	struct fixture *f = *state;
	struct problem problem;
	struct qcow2_info info;

	assert_int_equal(shell(f->path, "qemu-img create -q -f raw base.img 1M"), 0);
	for (int version = 0; version < 2; version++) {
		assert_int_equal(
			shell(f->path,
			      "qemu-img create -q -f qcow2 -o compat=%s -b base.img -F raw "
			      "top.qcow2",
			      version ? "1.1" : "0.10"),
			0);
		assert_int_equal(read_info(f, "top.qcow2", &problem, &info), 0);
		assert_string_equal(info.backing, "base.img");
		assert_string_equal(info.backing_format, "raw");
		assert_int_equal(info.virtual_bytes, 1 << 20);
	}
	assert_int_equal(shell(f->path, "qemu-img create -q -f qcow2 -b top.qcow2 -F qcow2 up"), 0);
	assert_int_equal(read_info(f, "up", &problem, &info), 0);
	assert_string_equal(info.backing, "top.qcow2");
	assert_string_equal(info.backing_format, "qcow2");
}

/* 64 characters */
#define TOO_LONG "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

/* `rebase -u` writes any text into the header without looking at it. */
static void test_hostile_names(void **state)
{
	static const char *const names[] = {
		"/etc/shadow",
		"../x",
		"x/y",
		"json:{\"driver\":\"file\",\"filename\":\"/etc/shadow\"}",
		"nbd:localhost:10809",
		"nbd://localhost/",
		"fat:.",
		".x",
		"-x",
		"a..b",
		"A",
		"a b",
		"..",
		"x:y",
		"ssh://u@h/x",
		"./base",
		TOO_LONG,
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		assert_int_equal(shell(f->path, "qemu-img create -q -f qcow2 a 1M"), 0);
		assert_int_equal(shell(f->path, "qemu-img rebase -u -b '%s' -F raw a", names[i]),
				 0);
		assert_refused(f, "a", "not a disk beside it");
	}
	assert_int_equal(shell(f->path, "qemu-img create -q -f qcow2 a 1M"), 0);
	assert_int_equal(shell(f->path, "qemu-img rebase -u -b b -F luks a"), 0);
	assert_refused(f, "a", "neither raw nor qcow2");
	assert_int_equal(shell(f->path, "qemu-img create -q -f qcow2 -o data_file=d a 1M"), 0);
	assert_refused(f, "a", "in another file");
}

/* ---- altered headers --------------------------------------------------------------------------
 */

struct change {
	unsigned offset, bytes; /* 4 or 8 */
	uint64_t value;
	const char *why;
};

static void alter(struct fixture *f, const char *name, const struct change *c)
{
	int fd = openat(f->dirfd, name, O_RDWR | O_CLOEXEC);
	uint64_t v = htobe64(c->bytes == 8 ? c->value : c->value << 32);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, &v, c->bytes, c->offset), c->bytes);
	close(fd);
}

static void test_altered(void **state)
{
	static const struct change changes[] = {
		{0, 4, 0x514649fa, "does not begin"},
		{4, 4, 1, "version 1"},
		{4, 4, 4, "version 4"},
		{8, 8, 70, "backing file's name"},
		{8, 8, 1u << 16, "backing file's name"},
		{8, 8, UINT64_MAX, "backing file's name"},
		{8, 8, (1u << 16) - 2, "backing file's name"},
		{16, 4, 1024, "backing file's name"},
		{16, 4, UINT32_MAX, "backing file's name"},
		{16, 4, 0, "not a disk beside it"},
		{20, 4, 8, "clusters of"},
		{20, 4, 22, "clusters of"},
		{20, 4, UINT32_MAX, "clusters of"},
		{24, 8, 0, "virtual disk of 0"},
		{24, 8, UINT64_MAX, "virtual disk of"},
		{24, 8, 1ull << 40, "with an L1 table"},
		{32, 4, 1, "encrypted"},
		{36, 4, UINT32_MAX, "L1 table"},
		{36, 4, 0, "with an L1 table"},
		{40, 8, 0, "L1 table"},
		{40, 8, 4096, "L1 table"},
		{40, 8, 1ull << 40, "L1 table"},
		{72, 8, 1, "not closed"},
		{72, 8, 2, "corrupt"},
		{72, 8, 4, "in another file"},
		{72, 8, 8, "compression type 0"},
		{72, 8, 32, "nobody here knows"},
		{72, 8, 1ull << 63, "nobody here knows"},
		{96, 4, 7, "reference counts"},
		{100, 4, 96, "a header of"},
		{100, 4, 105, "a header of"},
		{100, 4, UINT32_MAX - 7, "a header of"},
		{104, 4, 2u << 24, "compression type 2"},
		/* the first extension: the format of the backing file, 3 bytes of text */
		{116, 4, UINT32_MAX, "header extension"},
		{116, 4, 2, "neither raw"},
		{112, 4, 0x44415441, "in another file"},
		{112, 4, 0x11111111, "is not stated"},
		{112, 4, 0, "is not stated"},
	};
	struct fixture *f = *state;

	assert_int_equal(shell(f->path, "qemu-img create -q -f raw base 1M"), 0);
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		struct problem problem;
		struct qcow2_info info;

		assert_int_equal(shell(f->path, "qemu-img create -q -f qcow2 -b base -F raw a"), 0);
		assert_int_equal(read_info(f, "a", &problem, &info), 0);
		alter(f, "a", &changes[i]);
		assert_refused(f, "a", changes[i].why);
	}
	assert_int_equal(shell(f->path,
			       "qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=512 b 1M"
			       " && truncate -s 71 b"),
			 0);
	assert_refused(f, "b", "does not begin");
	assert_int_equal(shell(f->path, "qemu-img create -q -f qcow2 b 1M && truncate -s 100 b"),
			 0);
	assert_refused(f, "b", "ends in its header");
	assert_int_equal(shell(f->path, "qemu-img create -q -f qcow2 b 1M && truncate -s 64K b"),
			 0);
	assert_refused(f, "b", "L1 table");
	assert_int_equal(shell(f->path, ": > b"), 0);
	assert_refused(f, "b", "does not begin");
	/* subclusters need clusters of 16 KiB */
	assert_int_equal(shell(f->path, "qemu-img create -q -f qcow2 -o cluster_size=4k b 1M"), 0);
	alter(f, "b", &(struct change){72, 8, 16, NULL});
	assert_refused(f, "b", "subclusters");
}

/* ---- chains -----------------------------------------------------------------------------------
 */

#define RAW(_name)                                                                                 \
	{                                                                                          \
		.name = (_name), .format = "raw"                                                   \
	}
#define QCOW2(_name)                                                                               \
	{                                                                                          \
		.name = (_name), .format = "qcow2"                                                 \
	}

static void assert_chain(struct fixture *f, const struct snapshot_disk *disks, size_t n,
			 const char *why)
{
	struct problem problem = PROBLEM_INIT;
	int r = disk_check_chain(f->dirfd, disks, n, &problem);

	if (!why && r)
		fail_msg("%d: %s", r, problem.message);
	if (!why)
		return;
	assert_int_equal(r, DISK_E_CORRUPT);
	if (!strstr(problem.message, why))
		fail_msg("\"%s\" has no \"%s\"", problem.message, why);
}

static void test_chains(void **state)
{
	const struct snapshot_disk all[] = {RAW("base"), QCOW2("a"), QCOW2("b"), QCOW2("c")};
	const struct snapshot_disk wrong[] = {QCOW2("base")},
				   odd[] = {{.name = "a", .format = "vmdk"}};
	const struct snapshot_disk lie[] = {QCOW2("a"), {.name = "base", .format = "qcow2"}};
	struct fixture *f = *state;

	assert_int_equal(shell(f->path, "qemu-img create -q -f raw base 1M"), 0);
	assert_int_equal(shell(f->path, "qemu-img create -q -f qcow2 -b base -F raw a"), 0);
	assert_int_equal(shell(f->path, "qemu-img create -q -f qcow2 -b a -F qcow2 b"), 0);
	assert_int_equal(shell(f->path, "qemu-img create -q -f qcow2 -b a -F qcow2 c"), 0);
	assert_chain(f, NULL, 0, NULL);
	assert_chain(f, all, 4, NULL);
	assert_chain(f, all, 3, NULL);
	assert_chain(f, all + 1, 3, "disks/a: its backing file base is not a disk");
	assert_chain(f, all + 2, 1, "disks/b: its backing file a is not a disk");
	assert_chain(f, wrong, 1, "disks/base: qcow2: it does not begin");
	assert_chain(f, odd, 1, "vmdk");
	assert_chain(f, lie, 2, "takes its backing file base for raw, it is qcow2");
	/* a -> a */
	assert_int_equal(shell(f->path, "qemu-img rebase -u -b a -F qcow2 a"), 0);
	assert_chain(f, all, 2, "no end");
	/* a -> c -> a, and b above them */
	assert_int_equal(shell(f->path, "qemu-img rebase -u -b c -F qcow2 a"), 0);
	assert_chain(f, all, 4, "no end");
	assert_int_equal(shell(f->path, "qemu-img rebase -u -b base -F raw a && rm c && ln -s a c"),
			 0);
	assert_chain(f, all, 4, "symbolic link");
	assert_int_equal(shell(f->path, "rm c"), 0);
	assert_chain(f, all, 4, "disks/c: missing");
	assert_int_equal(shell(f->path, "mkfifo c"), 0);
	assert_chain(f, all, 4, "not a regular file");
}

/* ---- in snapshots -----------------------------------------------------------------------------
 */

static uint64_t size_of(int dirfd, const char *name)
{
	struct stat st;

	assert_int_equal(fstatat(dirfd, name, &st, 0), 0);
	return (uint64_t)st.st_size;
}

/* A snapshot of one page with disks base (raw) and top (qcow2), which @make puts there. */
static int take(struct store *s, const char *make, const char *final, struct problem *problem)
{
	struct manifest m = {
		.memory_bytes = DORM_PAGE_SIZE, .n_disks = 2, .disks = {RAW("base"), QCOW2("top")}};
	_cleanup_(image_writer_freep) struct image_writer *w = NULL;
	_cleanup_(image_unrefp) struct image *zero = NULL;
	struct snapshot_tmp tmp;
	char disks[4200];
	int r;

	id_new('s', m.id);
	assert_int_equal(image_open_zero(1, &zero), 0);
	assert_int_equal(snapshot_begin(s->root_fd, s->root, problem, &tmp), 0);
	assert_int_equal(image_writer_new(tmp.dirfd, zero, -1, NULL, problem, &w), 0);
	assert_int_equal(image_writer_commit(w, &m.stats, m.image_id, problem), 0);
	(void)snprintf(disks, sizeof(disks), "%s/disks", tmp.path);
	assert_int_equal(shell(disks, "%s", make), 0);
	m.disks[0].size = size_of(tmp.dirfd, "disks/base");
	m.disks[1].size = size_of(tmp.dirfd, "disks/top");
	r = snapshot_commit(&tmp, s->root_fd, final, &m, NULL, problem);
	snapshot_abort(&tmp, s->root_fd);
	return r;
}

#define MAKE_DISKS                                                                                 \
	"qemu-img create -q -f raw base 1M && "                                                    \
	"qemu-io -f raw -c 'write -P 0x11 0 1M' base && "                                          \
	"qemu-img create -q -f qcow2 -b base -F raw top && "                                       \
	"qemu-io -f qcow2 -c 'write -P 0x22 64k 4k' top"

static void test_snapshot(void **state)
{
	struct fixture *f = *state;
	struct problem problem = PROBLEM_INIT;
	char disks[4200];
	struct manifest m;
	struct store *s;
	int fd;

	assert_int_equal(store_open(f->path, &problem, &s), 0);
	if (take(s, MAKE_DISKS, "snapshots/one", &problem))
		fail_msg("%s", problem.message);
	fd = file_open_dir(s->root_fd, "snapshots/one");
	if (snapshot_clone(s->root_fd, s->root, fd, NULL, "snapshots/two", NULL, &problem))
		fail_msg("%s", problem.message);
	close(fd);
	assert_int_equal(snapshot_delete(s->root_fd, "snapshots/one", &problem), 0);
	/* the backing file's name leads to the clone's own */
	(void)snprintf(disks, sizeof(disks), "%s/snapshots/two/disks", s->root);
	assert_int_equal(shell(disks, "qemu-img check -q top"), 0);
	assert_int_equal(shell(disks, "qemu-io -r -f qcow2 -c 'read -P 0x11 0 64k' "
				      "-c 'read -P 0x22 64k 4k' -c 'read -P 0x11 68k 900k' top"),
			 0);
	assert_int_equal(shell(disks, "qemu-img convert -f qcow2 -O raw top ../../flat && "
				      "test $(stat -c %%s ../../flat) = 1048576"),
			 0);
	/* one that changed since */
	fd = file_open_dir(s->root_fd, "snapshots/two");
	assert_int_equal(
		shell(disks, "chmod u+w top && qemu-img rebase -u -b /etc/passwd -F raw top"), 0);
	assert_int_equal(snapshot_open(fd, NULL, &problem, &m), IMAGE_E_CORRUPT);
	assert_non_null(
		strstr(problem.message, "disks/top: qcow2: its backing file is not a disk"));
	problem = PROBLEM_INIT;
	assert_int_equal(
		snapshot_clone(s->root_fd, s->root, fd, NULL, "snapshots/three", NULL, &problem),
		-EBADMSG);
	assert_int_equal(faccessat(s->root_fd, "snapshots/three", F_OK, 0), -1);
	close(fd);
	store_close(s);
}

static void test_snapshot_refused(void **state)
{
	static const char *const makes[] = {
		MAKE_DISKS " && qemu-img rebase -u -b /etc/passwd -F raw top",
		MAKE_DISKS " && qemu-img rebase -u -b top -F qcow2 top",
		MAKE_DISKS " && qemu-img rebase -u -b gone -F raw top",
		"qemu-img create -q -f raw base 1M && cp base top",
	};
	struct fixture *f = *state;
	struct problem problem = PROBLEM_INIT;
	struct store *s;

	assert_int_equal(store_open(f->path, &problem, &s), 0);
	for (size_t i = 0; i < ARRAY_SIZE(makes); i++) {
		problem = PROBLEM_INIT;
		assert_int_equal(take(s, makes[i], "snapshots/bad", &problem), -EBADMSG);
		assert_non_null(strstr(problem.message, "disks/top"));
		assert_int_equal(faccessat(s->root_fd, "snapshots/bad", F_OK, 0), -1);
		assert_int_equal(unlinkat(s->root_fd, "tmp", AT_REMOVEDIR), 0); /* it is empty */
		assert_int_equal(mkdirat(s->root_fd, "tmp", 0755), 0);
	}
	store_close(s);
}

#define QCOW2_TEST(_f) cmocka_unit_test_setup_teardown(_f, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		QCOW2_TEST(test_kinds),		  QCOW2_TEST(test_backing),
		QCOW2_TEST(test_hostile_names),	  QCOW2_TEST(test_altered),
		QCOW2_TEST(test_chains),	  QCOW2_TEST(test_snapshot),
		QCOW2_TEST(test_snapshot_refused)};

	if (system("command -v qemu-img qemu-io >/dev/null")) { /* NOLINT: a fixed command */
		(void)printf("skipped: no qemu-img and qemu-io here (package qemu-utils)\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
