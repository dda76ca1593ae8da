/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-transfer-full.c - an import into a file system that is full, or becomes so
 *
 * A small tmpfs in a mount namespace of our own. Needs root; without, the test is skipped.
 */
#include "image/test-stream.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/raw-memory.h"

#define DISK_BYTES (8u << 20)

static uint64_t free_pages(struct store *store)
{
	unsigned long long bytes;

	assert_int_equal(store_free_bytes(store, &bytes), 0);
	return bytes / DORM_PAGE_SIZE;
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
}

static void empty_incoming(struct store *store)
{
	assert_int_equal(file_remove_tree(store->root_fd, "incoming"), 0);
	assert_int_equal(mkdirat(store->root_fd, "incoming", 0755), 0);
}

static void assert_refused(struct store *store, int r, const struct problem *problem)
{
	assert_int_equal(r, -ENOSPC);
	assert_int_equal(problem->status, 507);
	assert_true(problem->hint[0]);
	assert_int_equal(stream_count(store, "snapshots"), 0);
	assert_int_equal(stream_count(store, "tmp"), 0);
}

/* Too little from the start: refused before a byte is written. */
static void test_full_before(void **state)
{
	struct stream_place *p = *state;
	_cleanup_buf_ struct buf data = {0};
	char id[ID_LEN + 1];
	bool done = false;

	stream_snapshot(p, &(struct stream_options){.every = 1, .kind = 2, .plain = true}, id);
	stream_export(p->from, id, NULL, 0, &data);
	for (uint64_t n = 0; !done; n += 16) {
		struct problem problem = PROBLEM_INIT;
		int r;

		assert_in_range(n, 0, 2 * STREAM_PAGES);
		fill(p->to, n);
		r = stream_import(p->to, NULL, data.data, data.len, 4096, NULL, &problem);
		done = r == 0;
		if (done)
			continue;
		assert_refused(p->to, r, &problem);
		assert_non_null(strstr(problem.message, "reserve"));
		assert_int_equal(stream_count(p->to, "incoming"), 0);
		assert_int_equal(free_pages(p->to), n);
	}
	stream_check(p, p->to, id);
}

/* Somebody else takes the space while the stream arrives. */
static void test_full_meanwhile(void **state)
{
	struct stream_place *p = *state;
	_cleanup_buf_ struct buf data = {0};
	struct problem problem = PROBLEM_INIT;
	char id[ID_LEN + 1], parent[ID_LEN + 1];
	struct import_stats stats;

	stream_snapshot(p, &(struct stream_options){.every = 3, .kind = 2, .plain = true}, parent);
	stream_snapshot(p, &(struct stream_options){.parent = parent, .every = 4, .kind = 2}, id);
	stream_export(p->from, id, NULL, 0, &data);
	for (size_t cut = 4000; cut < data.len; cut += data.len / 9) {
		struct importer *m = NULL;
		int r;

		problem = PROBLEM_INIT;
		fill(p->to, DISK_BYTES / DORM_PAGE_SIZE - 64);
		assert_int_equal(importer_new(p->to, NULL, &problem, &m), 0);
		assert_int_equal(importer_write(m, data.data, cut, &problem), 0);
		fill(p->to, 0);
		r = importer_write(m, data.data + cut, data.len - cut, &problem);
		if (r == 0)
			r = importer_finish(m, &problem, &stats);
		importer_free(m);
		assert_refused(p->to, r, &problem);
		assert_in_range(stream_count(p->to, "incoming"), 0, 2);
		empty_incoming(p->to);
	}
	fill(p->to, DISK_BYTES / DORM_PAGE_SIZE - 64);
	assert_int_equal(stream_import(p->to, NULL, data.data, data.len, 4096, &stats, &problem),
			 0);
	stream_check(p, p->to, id);
}

static void test_raw(void **state)
{
	struct stream_place *p = *state;
	uint8_t *pages = malloc(100 * DORM_PAGE_SIZE);
	uint64_t head[2] = {0, 100 * DORM_PAGE_SIZE}, end[2] = {100 * DORM_PAGE_SIZE, 0};

	assert_non_null(pages);
	for (unsigned i = 0; i < 100; i++)
		fixture_page(pages + i * DORM_PAGE_SIZE, 2, &p->seed);
	for (uint64_t n = 0; n < 230; n += 23) { /* it takes 100 pages, twice if they wait */
		struct raw_import_options options = {.memory_bytes = n % 2 ? end[0] : 0};
		struct problem problem = PROBLEM_INIT;
		struct raw_importer *m = NULL;
		char id[ID_LEN + 1];
		int r;

		fill(p->to, n);
		r = raw_importer_new(p->to, &options, &problem, &m);
		if (r == 0)
			r = raw_importer_write(m, head, sizeof(head), &problem);
		if (r == 0)
			r = raw_importer_write(m, pages, 100 * DORM_PAGE_SIZE, &problem);
		if (r == 0)
			r = raw_importer_write(m, end, sizeof(end), &problem);
		if (r == 0)
			r = raw_importer_finish(m, &problem, id, NULL);
		raw_importer_free(m);
		if (r == 0) {
			assert_true(n > 100);
			break;
		}
		assert_refused(p->to, r, &problem);
	}
	assert_int_equal(stream_count(p->to, "snapshots"), 1);
	free(pages);
}

/* The store that receives is on a file system of its own. */
static int setup(void **state)
{
	struct problem problem = PROBLEM_INIT;
	struct stream_place *p;
	char options[32], path[80];

	(void)stream_setup(state);
	p = *state;
	p->to = store_close(p->to);
	(void)snprintf(path, sizeof(path), "%s/to", p->f->path);
	(void)snprintf(options, sizeof(options), "size=%u,mode=0700", DISK_BYTES);
	if (mount("none", path, "tmpfs", 0, options) < 0)
		return -1;
	return store_open(path, &problem, &p->to);
}

static int teardown(void **state)
{
	struct stream_place *p = *state;
	char path[80];

	p->to = store_close(p->to);
	(void)snprintf(path, sizeof(path), "%s/to", p->f->path);
	assert_int_equal(umount2(path, MNT_DETACH), 0);
	return stream_teardown(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_full_before, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_meanwhile, setup, teardown),
		cmocka_unit_test_setup_teardown(test_raw, setup, teardown),
	};

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		(void)printf("skipped: mounting a small tmpfs needs root (%s)\n", strerror(errno));
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
