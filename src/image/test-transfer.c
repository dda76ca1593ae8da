/* SPDX-License-Identifier: Apache-2.0 */
/* test-transfer.c - snapshots that travel from one store to another */
#include "image/test-stream.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"

/* A snapshot with four layers. */
static void make_four(struct stream_place *p, char id[ID_LEN + 1])
{
	struct stream_options o = {.every = 2, .kind = 2, .plain = true};
	char parent[ID_LEN + 1];

	stream_snapshot(p, &o, id);
	for (unsigned i = 0; i < 3; i++) {
		str_copy(parent, sizeof(parent), id);
		o = (struct stream_options){
			.parent = parent, .every = 7 + i, .kind = 1 + i % 2, .plain = i < 2};
		stream_snapshot(p, &o, id);
	}
}

static void assert_same_file(struct stream_place *p, const char *id, const char *name)
{
	_cleanup_fd_ int a = stream_open(p->from, id), b = stream_open(p->to, id);
	_cleanup_free_ char *x = NULL, *y = NULL;
	size_t n, m;

	assert_int_equal(file_read(a, name, 16u << 20, &x, &n), 0);
	assert_int_equal(file_read(b, name, 16u << 20, &y, &m), 0);
	assert_int_equal(n, m);
	assert_memory_equal(x, y, n);
}

static void assert_only(struct store *store, unsigned n_snapshots, unsigned n_incoming)
{
	assert_int_equal(stream_count(store, "snapshots"), n_snapshots);
	assert_int_equal(stream_count(store, "incoming"), n_incoming);
	assert_int_equal(stream_count(store, "tmp"), 0);
}

static void test_round_trip(void **state)
{
	static const char *const files[] = {
		"manifest.json",   "map", "device", "working-set", "disks/scratch.img",
		"disks/sparse.img"};
	static const size_t slices[] = {1, 7, 4096, 1u << 20, SIZE_MAX / 2};
	struct stream_place *p = *state;
	_cleanup_buf_ struct buf data = {0};
	struct import_stats stats;
	char id[ID_LEN + 1], final[64];

	make_four(p, id);
	stream_export(p->from, id, NULL, 0, &data);
	for (size_t i = 0; i < ARRAY_SIZE(slices); i++) {
		struct problem problem = PROBLEM_INIT;

		assert_int_equal(stream_import(p->to, NULL, data.data, data.len, slices[i], &stats,
					       &problem),
				 0);
		assert_string_equal(stats.id, id);
		assert_int_equal(stats.layers_received, 4);
		assert_int_equal(stats.layers_present, 0);
		assert_int_equal(stats.bytes_received, data.len);
		stream_check(p, p->to, id);
		for (size_t j = 0; j < ARRAY_SIZE(files); j++)
			assert_same_file(p, id, files[j]);
		assert_only(p->to, 1, 0);
		(void)snprintf(final, sizeof(final), "snapshots/%s", id);
		assert_int_equal(snapshot_delete(p->to->root_fd, final, &problem), 0);
	}
}

/* A working set that is damaged or of another image is not worth a failure, and not sent. */
static void test_bad_working_set(void **state)
{
	static const struct stream_options o = {.every = 5, .kind = 1};
	struct stream_place *p = *state;
	char id[ID_LEN + 1], other[ID_LEN + 1];

	stream_snapshot(p, &o, other);
	stream_snapshot(p, &o, id);
	for (unsigned bad = 0; bad < 3; bad++) {
		_cleanup_fd_ int fd = stream_open(p->from, id), from = stream_open(p->from, other);
		_cleanup_buf_ struct buf data = {0};
		_cleanup_fd_ int arrived = -1;
		struct problem problem = PROBLEM_INIT;
		char final[64];

		if (bad == 0)
			fixture_flip(fd, "working-set", 70, 1);
		assert_int_equal(bad == 1 && renameat(from, "working-set", fd, "working-set"), 0);
		assert_int_equal(bad == 2 && (unlinkat(fd, "working-set", 0) ||
					      symlinkat("map", fd, "working-set")),
				 0);
		stream_export(p->from, id, NULL, 0, &data);
		assert_int_equal(
			stream_import(p->to, NULL, data.data, data.len, 4096, NULL, &problem), 0);
		arrived = stream_open(p->to, id);
		assert_int_equal(faccessat(arrived, "working-set", F_OK, AT_SYMLINK_NOFOLLOW), -1);
		(void)snprintf(final, sizeof(final), "snapshots/%s", id);
		assert_int_equal(snapshot_delete(p->to->root_fd, final, &problem), 0);
	}
}

/* Holes are neither sent nor written, and nothing arrives that can be written to. */
static void test_sparse_and_read_only(void **state)
{
	struct stream_place *p = *state;
	_cleanup_buf_ struct buf data = {0};
	struct problem problem = PROBLEM_INIT;
	_cleanup_fd_ int fd = -1;
	char id[ID_LEN + 1];
	struct stat st;

	stream_snapshot(p, &(struct stream_options){.every = 1, .kind = 1}, id);
	stream_export(p->from, id, NULL, 0, &data);
	assert_in_range(data.len, 2u << 20, 4u << 20); /* of 5 MiB, the chunks at both ends */
	assert_int_equal(stream_import(p->to, NULL, data.data, data.len, 65536, NULL, &problem), 0);
	fd = stream_open(p->to, id);
	assert_int_equal(fstatat(fd, "disks/sparse.img", &st, 0), 0);
	assert_int_equal(st.st_size, 5u << 20);
	assert_in_range(st.st_blocks * 512, 1, 4u << 20);
	assert_int_equal(st.st_mode & 0777, 0444);
	assert_int_equal(fstatat(fd, "device", &st, 0), 0);
	assert_int_equal(st.st_mode & 0777, 0444);
}

static void test_export_of_deleted(void **state)
{
	struct stream_place *p = *state;
	_cleanup_(exporter_freep) struct exporter *x = NULL;
	_cleanup_buf_ struct buf data = {0};
	struct problem problem = PROBLEM_INIT;
	char id[ID_LEN + 1], final[64];
	ssize_t n;
	int fd;

	stream_snapshot(p, &(struct stream_options){.every = 3, .kind = 2}, id);
	fd = stream_open(p->from, id);
	assert_int_equal(exporter_new(fd, NULL, &problem, &x), 0);
	close(fd);
	(void)snprintf(final, sizeof(final), "snapshots/%s", id);
	assert_int_equal(snapshot_delete(p->from->root_fd, final, &problem), 0);
	assert_int_equal(buf_reserve(&data, exporter_bytes(x)), 0);
	n = exporter_read(x, data.data, exporter_bytes(x), &problem);
	assert_int_equal(n, exporter_bytes(x));
	assert_int_equal(exporter_read(x, &fd, 1, &problem), 0);
	assert_int_equal(stream_import(p->to, NULL, data.data, (size_t)n, 4096, NULL, &problem), 0);
	stream_check(p, p->to, id);
}

static int export_all(int dirfd, struct exporter **x, struct problem *problem)
{
	char buf[4096];
	ssize_t n;
	int r = exporter_new(dirfd, NULL, problem, x);

	if (r)
		return r;
	while ((n = exporter_read(*x, buf, sizeof(buf), problem)) > 0)
		;
	return (int)n;
}

static void test_export_of_damaged(void **state)
{
	struct stream_place *p = *state;
	struct problem problem = PROBLEM_INIT;
	_cleanup_(exporter_freep) struct exporter *x = NULL, *y = NULL, *z = NULL;
	_cleanup_fd_ int dirfd = -1, fd = -1;
	char id[ID_LEN + 1], buf[64];
	ssize_t n;

	stream_snapshot(p, &(struct stream_options){.every = 3, .kind = 2}, id);
	dirfd = stream_open(p->from, id);
	assert_int_equal(export_all(dirfd, &x, &problem), 0);
	/* a disk that is written to while it is sent */
	assert_int_equal(exporter_new(dirfd, NULL, &problem, &y), 0);
	fixture_flip(dirfd, "disks/scratch.img", 3, 1);
	while ((n = exporter_read(y, buf, sizeof(buf), &problem)) > 0)
		;
	assert_int_equal(n, -EBADMSG);
	assert_non_null(strstr(problem.message, "scratch.img"));
	assert_int_equal(exporter_read(y, buf, sizeof(buf), &problem), -EBADMSG); /* it stays */
	/* one that is too short is not even begun */
	fd = openat(dirfd, "disks/scratch.img", O_WRONLY | O_CLOEXEC);
	assert_int_equal(ftruncate(fd, 5), 0);
	problem = PROBLEM_INIT;
	assert_int_equal(exporter_new(dirfd, NULL, &problem, &z), IMAGE_E_CORRUPT);
	assert_int_equal(ftruncate(fd, 9), 0);
	fixture_flip(dirfd, "map", 50, 1);
	problem = PROBLEM_INIT;
	assert_int_equal(exporter_new(dirfd, NULL, &problem, &z), IMAGE_E_CORRUPT);
	assert_non_null(strstr(problem.message, "map"));
}

struct ids {
	char id[16][IMAGE_ID_LEN + 1];
	unsigned n;
};

static int collect(void *userdata, const char *layer_id)
{
	struct ids *ids = userdata;

	assert_in_range(ids->n, 0, 15);
	str_copy(ids->id[ids->n++], IMAGE_ID_LEN + 1, layer_id);
	return 0;
}

/* Where in a stream layer @n ends. */
static size_t end_of_layer(const struct buf *data, unsigned n)
{
	_cleanup_buf_ struct buf start = {0};
	struct stream s;
	size_t len;

	stream_parse(data, &s);
	for (unsigned i = 0; i < s.n; i++)
		if (s.items[i].item.kind == TRANSFER_LAYER && n-- == 0)
			s.n = i;
	stream_build(&s, &start);
	len = start.len - TRANSFER_END_BYTES;
	for (unsigned i = 0; i < STREAM_MAX_ITEMS; i++)
		buf_deinit(&s.items[i].bytes);
	return len;
}

static void test_resume(void **state)
{
	struct stream_place *p = *state;
	_cleanup_buf_ struct buf data = {0}, rest = {0};
	struct problem problem = PROBLEM_INIT;
	const char *skip[16];
	struct import_stats stats;
	char id[ID_LEN + 1];
	struct ids have = {0};
	size_t cut;

	make_four(p, id);
	stream_export(p->from, id, NULL, 0, &data);
	cut = end_of_layer(&data, 2) + 1000;
	assert_int_equal(stream_import(p->to, NULL, data.data, cut, 4096, &stats, &problem),
			 TRANSFER_E_STREAM);
	assert_non_null(strstr(problem.message, "too early"));
	assert_only(p->to, 0, 2);
	assert_int_equal(transfer_each_layer(p->to, collect, &have), 0);
	assert_int_equal(have.n, 2);
	for (unsigned i = 0; i < have.n; i++)
		skip[i] = have.id[i];
	stream_export(p->from, id, skip, have.n, &rest);
	assert_true(rest.len < data.len);
	problem = PROBLEM_INIT;
	assert_int_equal(stream_import(p->to, NULL, rest.data, rest.len, 4096, &stats, &problem),
			 0);
	assert_int_equal(stats.layers_received, 2);
	assert_int_equal(stats.layers_present, 2);
	stream_check(p, p->to, id);
	assert_only(p->to, 1, 0);
}

/* The same, but the sender sends everything again. */
static void test_resume_without_skipping(void **state)
{
	struct stream_place *p = *state;
	_cleanup_buf_ struct buf data = {0};
	struct problem problem = PROBLEM_INIT;
	struct import_stats stats;
	char id[ID_LEN + 1];

	make_four(p, id);
	stream_export(p->from, id, NULL, 0, &data);
	assert_int_equal(stream_import(p->to, NULL, data.data, end_of_layer(&data, 3), 999, &stats,
				       &problem),
			 TRANSFER_E_STREAM);
	assert_only(p->to, 0, 3);
	problem = PROBLEM_INIT;
	assert_int_equal(stream_import(p->to, NULL, data.data, data.len, 4096, &stats, &problem),
			 0);
	assert_int_equal(stats.layers_received, 1);
	assert_int_equal(stats.layers_present, 3);
	stream_check(p, p->to, id);
	assert_only(p->to, 1, 0);
}

/* A child of a snapshot that is here: its layers are linked. In a sandbox as well. */
static void test_shares_what_is_here(void **state)
{
	struct stream_place *p = *state;
	_cleanup_buf_ struct buf first = {0}, second = {0};
	struct problem problem = PROBLEM_INIT;
	char id[ID_LEN + 1], child[ID_LEN + 1], from[64], to[64];
	struct import_stats stats;
	struct ids have = {0};

	stream_snapshot(p, &(struct stream_options){.every = 2, .kind = 2}, id);
	stream_export(p->from, id, NULL, 0, &first);
	stream_snapshot(p, &(struct stream_options){.parent = id, .every = 5, .kind = 1}, child);
	stream_export(p->from, child, NULL, 0, &second);
	assert_int_equal(stream_import(p->to, NULL, first.data, first.len, 4096, &stats, &problem),
			 0);
	(void)snprintf(from, sizeof(from), "snapshots/%s", id);
	(void)snprintf(to, sizeof(to), "sandboxes/%s", id);
	assert_int_equal(mkdirat(p->to->root_fd, to, 0755), 0);
	(void)snprintf(to, sizeof(to), "sandboxes/%s/memory-4", id);
	assert_int_equal(renameat(p->to->root_fd, from, p->to->root_fd, to), 0);
	assert_int_equal(
		stream_import(p->to, NULL, second.data, second.len, 4096, &stats, &problem), 0);
	assert_int_equal(stats.layers_present, 1);
	assert_int_equal(stats.layers_received, 1);
	stream_check(p, p->to, child);
	assert_int_equal(transfer_each_layer(p->to, collect, &have), 0);
	assert_int_equal(have.n, 2); /* each once, though one has two links */
}

static void test_ids(void **state)
{
	const char *other = "sother00000000000000x";
	struct stream_place *p = *state;
	_cleanup_buf_ struct buf data = {0}, second = {0};
	struct problem problem = PROBLEM_INIT;
	struct import_options options = {.id = other};
	char id[ID_LEN + 1];
	struct import_stats stats;
	struct stream s;
	char *text;

	stream_snapshot(p, &(struct stream_options){.every = 2, .kind = 2}, id);
	stream_export(p->from, id, NULL, 0, &data);
	assert_int_equal(stream_import(p->to, NULL, data.data, data.len, 4096, &stats, &problem),
			 0);
	/* again: it is here */
	assert_int_equal(stream_import(p->to, NULL, data.data, data.len, 4096, &stats, &problem),
			 TRANSFER_E_EXISTS);
	assert_int_equal(problem.status, 409);
	assert_non_null(strstr(problem.message, id));
	/* under another id, which is taken afterwards */
	problem = PROBLEM_INIT;
	assert_int_equal(
		stream_import(p->to, &options, data.data, data.len, 4096, &stats, &problem), 0);
	assert_string_equal(stats.id, other);
	stream_check(p, p->to, other);
	assert_int_equal(
		stream_import(p->to, &options, data.data, data.len, 4096, &stats, &problem),
		TRANSFER_E_EXISTS);
	options.id = "../../etc";
	problem = PROBLEM_INIT;
	assert_int_equal(
		stream_import(p->to, &options, data.data, data.len, 4096, &stats, &problem),
		-EINVAL);
	/* another snapshot that says it has this id gets a fresh one */
	stream_snapshot(p, &(struct stream_options){.every = 3, .kind = 1}, stats.id);
	stream_export(p->from, stats.id, NULL, 0, &second);
	stream_parse(&second, &s);
	assert_int_equal(
		manifest_replace_id(s.items[0].bytes.data, s.items[0].bytes.len, id, &text), 0);
	stream_set(&s.items[0], text, strlen(text));
	stream_build(&s, &second);
	problem = PROBLEM_INIT;
	assert_int_equal(
		stream_import(p->to, NULL, second.data, second.len, 4096, &stats, &problem), 0);
	assert_string_not_equal(stats.id, id);
	stream_check(p, p->to, stats.id);
	free(text);
	stream_deinit(&s);
	assert_only(p->to, 3, 0);
}

/* ---- two at once ------------------------------------------------------------------------------
 */

static void test_interleaved(void **state)
{
	struct stream_place *p = *state;
	_cleanup_(importer_freep) struct importer *a = NULL, *b = NULL;
	_cleanup_buf_ struct buf data = {0};
	struct problem problem = PROBLEM_INIT;
	struct import_options options = {.id = "sother00000000000000x"};
	struct import_stats stats;
	char id[ID_LEN + 1];

	make_four(p, id);
	stream_export(p->from, id, NULL, 0, &data);
	assert_int_equal(importer_new(p->to, NULL, &problem, &a), 0);
	assert_int_equal(importer_new(p->to, &options, &problem, &b), 0);
	for (size_t at = 0; at < data.len; at += 3000) {
		size_t n = MIN(data.len - at, 3000ul);

		assert_int_equal(importer_write(a, data.data + at, n, &problem), 0);
		assert_int_equal(importer_write(b, data.data + at, n, &problem), 0);
	}
	assert_int_equal(importer_finish(a, &problem, &stats), 0);
	assert_int_equal(stats.layers_received, 4);
	assert_int_equal(importer_finish(b, &problem, &stats), 0);
	assert_int_equal(stats.layers_received, 4);
	stream_check(p, p->to, id);
	stream_check(p, p->to, options.id);
	importer_free(take_ptr(a));
	importer_free(take_ptr(b));
	assert_int_equal(stream_count(p->to, "tmp"), 0);
	assert_in_range(stream_count(p->to, "incoming"), 0, 4); /* not the winner's files */
}

struct job {
	struct store *store;
	struct buf *data;
	struct import_stats stats;
	struct problem problem;
	int result;
};

static void *run(void *userdata)
{
	struct job *j = userdata;

	j->result = stream_import(j->store, NULL, j->data->data, j->data->len, 5000, &j->stats,
				  &j->problem);
	return NULL;
}

static void test_threads(void **state)
{
	struct stream_place *p = *state;
	_cleanup_buf_ struct buf data = {0};
	pthread_t threads[4];
	struct job jobs[4];
	unsigned n_done = 0;
	char id[ID_LEN + 1];

	make_four(p, id);
	stream_export(p->from, id, NULL, 0, &data);
	for (unsigned i = 0; i < 4; i++) {
		jobs[i] = (struct job){.store = p->to, .data = &data};
		assert_int_equal(pthread_create(&threads[i], NULL, run, &jobs[i]), 0);
	}
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(pthread_join(threads[i], NULL), 0);
		n_done += jobs[i].result == 0;
		if (jobs[i].result)
			assert_int_equal(jobs[i].result, TRANSFER_E_EXISTS);
	}
	assert_int_equal(n_done, 1);
	stream_check(p, p->to, id);
	assert_int_equal(stream_count(p->to, "tmp"), 0);
}

/* ---- the waiting room -------------------------------------------------------------------------
 */

static void touch(struct store *store, const char *name, time_t age)
{
	int dirfd = file_open_dir(store->root_fd, "incoming");
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	struct timespec times[2] = {{.tv_sec = time(NULL) - age}, {.tv_sec = time(NULL) - age}};

	assert_true(fd >= 0);
	assert_int_equal(futimens(fd, times), 0);
	close(fd);
	close(dirfd);
}

static void test_waiting_room(void **state)
{
	struct stream_place *p = *state;
	struct problem problem = PROBLEM_INIT;
	struct importer *m;
	char *root;

	touch(p->to, "0123456789abcdef0123456789abcdef", 8 * 24 * 3600);
	touch(p->to, "1123456789abcdef0123456789abcdef", 6 * 24 * 3600);
	touch(p->to, "2123456789abcdef0123456789abcdef.x.part", 8 * 24 * 3600);
	touch(p->to, "3123456789abcdef0123456789abcdef.x.part", 0);
	touch(p->to, "something else", 9 * 24 * 3600);
	assert_int_equal(importer_new(p->to, NULL, &problem, &m), 0);
	importer_free(m);
	assert_int_equal(stream_count(p->to, "incoming"), 3);
	root = str_printf("%s", p->to->root);
	p->to = store_close(p->to);
	assert_int_equal(store_open(root, &problem, &p->to), 0);
	assert_int_equal(stream_count(p->to, "incoming"), 2); /* no .part */
	free(root);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, stream_setup, stream_teardown),
		cmocka_unit_test_setup_teardown(test_bad_working_set, stream_setup,
						stream_teardown),
		cmocka_unit_test_setup_teardown(test_sparse_and_read_only, stream_setup,
						stream_teardown),
		cmocka_unit_test_setup_teardown(test_export_of_deleted, stream_setup,
						stream_teardown),
		cmocka_unit_test_setup_teardown(test_export_of_damaged, stream_setup,
						stream_teardown),
		cmocka_unit_test_setup_teardown(test_resume, stream_setup, stream_teardown),
		cmocka_unit_test_setup_teardown(test_resume_without_skipping, stream_setup,
						stream_teardown),
		cmocka_unit_test_setup_teardown(test_shares_what_is_here, stream_setup,
						stream_teardown),
		cmocka_unit_test_setup_teardown(test_ids, stream_setup, stream_teardown),
		cmocka_unit_test_setup_teardown(test_interleaved, stream_setup, stream_teardown),
		cmocka_unit_test_setup_teardown(test_threads, stream_setup, stream_teardown),
		cmocka_unit_test_setup_teardown(test_waiting_room, stream_setup, stream_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
