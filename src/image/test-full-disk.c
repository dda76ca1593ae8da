/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-full-disk.c - a snapshot, and a compaction, on a file system that becomes full, at every
 * possible place, and the index on one that is full or read-only
 *
 * A small tmpfs in a mount namespace of our own. Needs root; without, the test is skipped.
 */
#include "image/test-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "image/compact.h"
#include "image/snapshot.h"
#include "image/store-check.h"
#include "image/store-index.h"
#include "image/store.h"

#define N_PAGES	   600u
#define DISK_BYTES (8u << 20)

static uint64_t free_pages(struct store *store)
{
	unsigned long long bytes;

	assert_int_equal(store_free_bytes(store, &bytes), 0);
	return bytes / DORM_PAGE_SIZE;
}

/* A first image, or the difference from the snapshot @parent_dirfd. */
static int write_image(struct snapshot_tmp *tmp, int parent_dirfd, const uint8_t *memory,
		       struct manifest *m, struct problem *problem)
{
	_cleanup_(image_writer_freep) struct image_writer *w = NULL;
	_cleanup_(image_unrefp) struct image *parent = NULL;
	struct image_writer_options options = {.codec = IMAGE_CODEC_NONE};
	int r;

	if (parent_dirfd >= 0)
		assert_int_equal(image_open(parent_dirfd, NULL, problem, &parent), 0);
	else
		assert_int_equal(image_open_zero(N_PAGES, &parent), 0);
	r = image_writer_new(tmp->dirfd, parent, parent_dirfd, &options, problem, &w);
	for (unsigned i = 0; r == 0 && i < N_PAGES; i += 100)
		r = image_writer_add(w, i, 100, memory + i * DORM_PAGE_SIZE, problem);
	return r ? r : image_writer_commit(w, &m->stats, m->image_id, problem);
}

static int take_snapshot(struct store *store, int parent_dirfd, const uint8_t *memory,
			 const char *final, struct problem *problem)
{
	struct manifest m = {.memory_bytes = N_PAGES * DORM_PAGE_SIZE};
	struct snapshot_tmp tmp;
	int r;

	(void)snprintf(m.id, sizeof(m.id), "%s", strrchr(final, '/') + 1);
	r = snapshot_begin(store->root_fd, store->root, problem, &tmp);
	if (r)
		return r;
	r = write_image(&tmp, parent_dirfd, memory, &m, problem);
	if (r == 0)
		r = snapshot_commit(&tmp, store->root_fd, final, &m, NULL, problem);
	snapshot_abort(&tmp, store->root_fd);
	return r;
}

/* Leave exactly @n pages free. */
static void fill(struct store *store, uint64_t n)
{
	int fd = openat(store->root_fd, "filler", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	uint64_t have = free_pages(store);

	assert_true(fd >= 0 && have >= n);
	if (have > n)
		assert_int_equal(fallocate(fd, 0, 0, (off_t)((have - n) * DORM_PAGE_SIZE)), 0);
	close(fd);
	assert_int_equal(free_pages(store), n);
}

/* @src_dirfd: compact this snapshot; -1: take one */
static bool try_with(struct store *store, const uint8_t *memory, int src_dirfd, uint64_t n)
{
	const struct compact_options options = {.force = true};
	struct compact_stats stats;
	struct problem problem = PROBLEM_INIT;
	char final[64] = "snapshots/", *id = final + strlen(final);
	struct stat st;
	int r;

	id_new('s', id);
	fill(store, n);
	if (src_dirfd < 0)
		r = take_snapshot(store, -1, memory, final, &problem);
	else
		r = snapshot_compact(store->root_fd, store->root, src_dirfd, final, false, id,
				     &options, &problem, &stats);
	if (r == 0) {
		int fd = file_open_dir(store->root_fd, final);

		assert_int_equal(snapshot_verify(fd, NULL, NULL, NULL, &problem), 0);
		close(fd);
		assert_int_equal(snapshot_delete(store->root_fd, final, &problem), 0);
		return true;
	}
	assert_int_equal(r, -ENOSPC);
	assert_int_equal(problem.status, 507);
	assert_non_null(strstr(problem.message, "No space left on device"));
	assert_true(problem.hint[0]);
	assert_int_equal(fstatat(store->root_fd, final, &st, 0), -1);
	assert_int_equal(unlinkat(store->root_fd, "tmp", AT_REMOVEDIR), 0); /* it is empty */
	assert_int_equal(mkdirat(store->root_fd, "tmp", 0755), 0);
	assert_int_equal(free_pages(store), n); /* nothing was left anywhere */
	return false;
}

static void test_full(void **state)
{
	struct fixture *f = *state;
	uint8_t *memory = malloc((size_t)N_PAGES * DORM_PAGE_SIZE);
	struct problem problem = PROBLEM_INIT;
	struct store *store;
	uint64_t seed = 3, n;
	bool done = false;

	assert_non_null(memory);
	for (unsigned i = 0; i < N_PAGES; i++)
		fixture_page(memory + i * DORM_PAGE_SIZE, 2, &seed);
	assert_int_equal(store_open(f->path, &problem, &store), 0);
	for (n = 0; n < 590; n += 118) /* within the frames */
		assert_false(try_with(store, memory, -1, n));
	for (; !done && n < 700; n++) /* the end of the layer, the map, the manifest */
		done = try_with(store, memory, -1, n);
	assert_true(done);
	assert_true(n > N_PAGES);
	store_close(store);
	free(memory);
}

/* ---- the index --------------------------------------------------------------------------------
 */

#define N_SNAPSHOTS 3u

static int count(void *userdata, const struct index_entry *e)
{
	++*(unsigned *)userdata;
	return e->damage ? -EBADMSG : 0;
}

static void check_lists(struct store_index *x)
{
	unsigned n = 0;

	assert_int_equal(store_index_each(x, count, &n), 0);
	assert_int_equal(n, N_SNAPSHOTS);
}

static void make_snapshots(struct store *store)
{
	uint8_t *memory = calloc(N_PAGES, DORM_PAGE_SIZE);
	struct problem problem = PROBLEM_INIT;

	assert_non_null(memory);
	for (unsigned i = 0; i < N_SNAPSHOTS; i++) {
		char final[64] = "snapshots/";

		id_new('s', final + strlen(final));
		assert_int_equal(take_snapshot(store, -1, memory, final, &problem), 0);
	}
	free(memory);
}

/* With any number of free pages: everything is listed, whether the file can be made or not. */
static void test_index_full(void **state)
{
	struct fixture *f = *state;
	struct problem problem = PROBLEM_INIT;
	struct store_index *x;
	struct store *store;
	uint64_t n_found;

	assert_int_equal(store_open(f->path, &problem, &store), 0);
	make_snapshots(store);
	for (uint64_t n = 0; n < 40; n++) {
		fill(store, n);
		assert_int_equal(store_index_open(store, &problem, &x), 0);
		check_lists(x);
		assert_int_equal(store_index_rebuild(x, NULL, NULL, &n_found), 0);
		assert_int_equal(n_found, N_SNAPSHOTS);
		check_lists(x);
		store_index_close(x);
		/* one that is there when the disk becomes full */
		assert_int_equal(unlinkat(store->root_fd, "filler", 0), 0);
		assert_int_equal(store_index_open(store, &problem, &x), 0);
		fill(store, MIN(n, free_pages(store)));
		check_lists(x);
		store_index_close(x);
		assert_int_equal(unlinkat(store->root_fd, "filler", 0), 0);
		store_close(store); /* empties tmp/, where discarded files are */
		(void)unlinkat(f->dirfd, "index.sqlite", 0);
		assert_int_equal(store_open(f->path, &problem, &store), 0);
	}
	assert_int_equal(store_index_open(store, &problem, &x), 0);
	check_lists(x);
	store_index_close(x);
	assert_int_equal(faccessat(store->root_fd, "index.sqlite", F_OK, 0), 0);
	store_close(store);
}

/* Paths below @path cannot be written from here on; descriptors that are open can. */
static void make_read_only(const char *path)
{
	assert_int_equal(mount(path, path, NULL, MS_BIND, NULL), 0);
	assert_int_equal(
		mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID, NULL), 0);
}

/* A file system that turns read-only, with an index that is up to date, old, and damaged. */
static void test_index_read_only(void **state)
{
	struct fixture *f = *state;
	struct problem problem = PROBLEM_INIT;
	struct check_options options = {.data = true};
	struct check_stats stats;
	struct store_index *x, *open;
	struct store *store;

	assert_int_equal(store_open(f->path, &problem, &store), 0);
	assert_int_equal(store_index_open(store, &problem, &open), 0);
	for (unsigned i = 0; i < 3; i++) {
		if (i == 1)
			make_snapshots(store);
		if (i == 2) {
			assert_int_equal(store_index_open(store, &problem, &x), 0);
			check_lists(x);
			store_index_close(x);
			fixture_flip(store->root_fd, "index.sqlite", 20, 0xff);
		}
		make_read_only(f->path);
		assert_int_equal(store_index_open(store, &problem, &x), 0);
		if (i > 0) {
			check_lists(x);
			check_lists(open);
			assert_int_equal(store_check(store, &options, &problem, &stats), 0);
			assert_int_equal(stats.n_findings, 0);
		}
		store_index_close(x);
		assert_int_equal(umount2(f->path, MNT_DETACH), 0);
	}
	check_lists(open);
	store_index_close(open);
	store_close(store);
}

static void test_full_compaction(void **state)
{
	static const char *const paths[] = {"snapshots/sa0000000000000000000",
					    "snapshots/sb0000000000000000000"};
	struct fixture *f = *state;
	uint8_t *memory = malloc((size_t)N_PAGES * DORM_PAGE_SIZE);
	struct problem problem = PROBLEM_INIT;
	uint64_t seed = 5, n;
	struct store *store;
	bool done = false;
	int fd = -1;

	assert_non_null(memory);
	assert_int_equal(store_open(f->path, &problem, &store), 0);
	for (unsigned g = 0; g < 2; g++) {
		for (unsigned i = 0; i < N_PAGES; i += g + 1)
			fixture_page(memory + i * DORM_PAGE_SIZE, 2, &seed);
		assert_int_equal(take_snapshot(store, fd, memory, paths[g], &problem), 0);
		if (fd >= 0)
			close(fd);
		fd = file_open_dir(store->root_fd, paths[g]);
		assert_true(fd >= 0);
	}
	assert_int_equal(snapshot_delete(store->root_fd, paths[0], &problem), 0);
	for (n = 0; n < 590; n += 118) /* within the frames */
		assert_false(try_with(store, memory, fd, n));
	for (; !done && n < 700; n++)
		done = try_with(store, memory, fd, n);
	assert_true(done);
	assert_true(n > N_PAGES);
	close(fd);
	store_close(store);
	free(memory);
}

static int setup(void **state)
{
	char options[32];

	(void)snprintf(options, sizeof(options), "size=%u,mode=0700", DISK_BYTES);
	(void)fixture_setup(state);
	return mount("none", ((struct fixture *)*state)->path, "tmpfs", 0, options);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close(f->dirfd);
	f->dirfd = -1;
	assert_int_equal(umount2(f->path, MNT_DETACH), 0);
	return fixture_teardown(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_full, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_compaction, setup, teardown),
		cmocka_unit_test_setup_teardown(test_index_full, setup, teardown),
		cmocka_unit_test_setup_teardown(test_index_read_only, setup, teardown)};

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		(void)printf("skipped: mounting a small tmpfs needs root (%s)\n", strerror(errno));
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
