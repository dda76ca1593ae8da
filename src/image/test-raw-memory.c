/* SPDX-License-Identifier: Apache-2.0 */
/* test-raw-memory.c - memory as flat files, full and diff, into snapshots and back */
#include "image/test-stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/str.h"
#include "image/image-internal.h"
#include "image/le.h"
#include "image/raw-memory.h"

#define N_PAGES 700u
#define BYTES	((size_t)N_PAGES * DORM_PAGE_SIZE)

/* ---- extents ----------------------------------------------------------------------------------
 */

static void put_head(struct buf *b, uint64_t offset, uint64_t len)
{
	uint8_t head[RAW_EXTENT_HEAD_BYTES];

	le_put64(head, offset);
	le_put64(head + 8, len);
	assert_int_equal(buf_append(b, head, sizeof(head)), 0);
}

static void put_extent(struct buf *b, uint64_t offset, const void *data, size_t len)
{
	put_head(b, offset, len);
	assert_int_equal(buf_append(b, data, len), 0);
}

/* As a client does: what SEEK_DATA finds in a flat file. */
static void file_to_extents(int fd, struct buf *ret)
{
	const off_t size = lseek(fd, 0, SEEK_END);
	off_t data = 0, hole;
	char *bytes = malloc((size_t)size);

	assert_non_null(bytes);
	while ((data = lseek(fd, data, SEEK_DATA)) >= 0) {
		hole = lseek(fd, data, SEEK_HOLE);
		assert_int_equal(pread(fd, bytes, (size_t)(hole - data), data), hole - data);
		put_extent(ret, (uint64_t)data, bytes, (size_t)(hole - data));
		data = hole;
	}
	put_head(ret, (uint64_t)size, 0);
	free(bytes);
}

static int import(struct store *store, const struct raw_import_options *options,
		  const struct buf *data, size_t slice, char *ret_id,
		  struct image_writer_stats *stats, struct problem *problem)
{
	struct raw_importer *m = NULL;
	int r = raw_importer_new(store, options, problem, &m);

	for (size_t at = 0; r == 0 && at < data->len; at += slice)
		r = raw_importer_write(m, data->data + at, MIN(slice, data->len - at), problem);
	if (r == 0)
		r = raw_importer_finish(m, problem, ret_id, stats);
	raw_importer_free(m);
	assert_int_equal(stream_count(store, "tmp"), 0);
	return r;
}

static void export(struct store *store, const char *id, size_t slice, struct buf *ret)
{
	struct problem problem = PROBLEM_INIT;
	struct raw_exporter *x = NULL;
	int dirfd = stream_open(store, id);
	ssize_t n;

	assert_int_equal(raw_exporter_new(dirfd, NULL, &problem, &x), 0);
	close(dirfd);
	do {
		assert_int_equal(buf_reserve(ret, slice), 0);
		n = raw_exporter_read(x, ret->data + ret->len, slice, &problem);
		assert_true(n >= 0);
		ret->len += (size_t)n;
	} while (n);
	raw_exporter_free(x);
}

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && !memcmp(page, page + 1, DORM_PAGE_SIZE - 1);
}

/* Extents as a flat memory, checked: ascending, apart, not zero, at most 1 MiB. */
static void extents_to_memory(const struct buf *b, uint8_t *memory, size_t size)
{
	const uint8_t *at = (const uint8_t *)b->data, *end = at + b->len;
	uint64_t next = 0;

	memset(memory, 0, size);
	for (;;) {
		uint64_t offset = le_get64(at), len = le_get64(at + 8);

		at += RAW_EXTENT_HEAD_BYTES;
		assert_in_range(offset, next, size);
		if (len == 0) {
			assert_int_equal(offset, size);
			break;
		}
		assert_in_range(len, DORM_PAGE_SIZE, 1u << 20);
		assert_in_range(len, 0, size - offset);
		memcpy(memory + offset, at, len);
		for (uint64_t i = 0; i < len; i += DORM_PAGE_SIZE)
			assert_false(is_zero(at + i));
		at += len;
		next = offset + len;
	}
	assert_ptr_equal(at, end);
}

static void assert_memory(struct store *store, const char *id, const uint8_t *want)
{
	static const size_t slices[] = {1000, 4096, 3u << 20};
	uint8_t *have = malloc(BYTES);

	assert_non_null(have);
	for (size_t i = 0; i < ARRAY_SIZE(slices); i++) {
		_cleanup_buf_ struct buf b = {0};

		export(store, id, slices[i], &b);
		extents_to_memory(&b, have, BYTES);
		assert_memory_equal(have, want, BYTES);
	}
	free(have);
}

/* Zero, text and noise in runs of several lengths; one run longer than an extent may be. */
static uint8_t *make_memory(uint64_t *seed)
{
	uint8_t *memory = calloc(1, BYTES);

	assert_non_null(memory);
	for (unsigned i = 0; i < N_PAGES; i++)
		if (i % 64 < 13 || (i > 300 && i < 600))
			fixture_page(memory + i * DORM_PAGE_SIZE, 1 + i % 2, seed);
	return memory;
}

static int make_file(struct fixture *f, const char *name, const uint8_t *memory)
{
	int fd = openat(f->dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, BYTES), 0);
	for (unsigned i = 0; i < N_PAGES; i++)
		if (!is_zero(memory + i * DORM_PAGE_SIZE))
			assert_int_equal(pwrite(fd, memory + i * DORM_PAGE_SIZE, DORM_PAGE_SIZE,
						i * (off_t)DORM_PAGE_SIZE),
					 DORM_PAGE_SIZE);
	return fd;
}

/* ---- full -------------------------------------------------------------------------------------
 */

static void test_full(void **state)
{
	static const size_t slices[] = {1, 4095, 65536, 8u << 20};
	struct stream_place *p = *state;
	uint8_t *memory = make_memory(&p->seed);
	_cleanup_buf_ struct buf b = {0};
	struct problem problem = PROBLEM_INIT;
	int fd = make_file(p->f, "full", memory);
	char id[ID_LEN + 1];

	file_to_extents(fd, &b);
	close(fd);
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(slices); i++) {
		struct raw_import_options options = {.codec = IMAGE_CODEC_ZSTD,
						     .name = i ? "from elsewhere" : NULL,
						     .memory_bytes = i % 2 ? BYTES : 0};
		struct image_writer_stats stats;
		struct manifest m;
		int dirfd;

		assert_int_equal(import(p->to, &options, &b, slices[i / 2], id, &stats, &problem),
				 0);
		dirfd = stream_open(p->to, id);
		assert_int_equal(snapshot_verify(dirfd, NULL, NULL, NULL, &problem), 0);
		assert_int_equal(snapshot_open(dirfd, NULL, &problem, &m), 0);
		assert_string_equal(m.vmm, "raw");
		assert_string_equal(m.name, i ? "from elsewhere" : "");
		assert_int_equal(m.memory_bytes, BYTES);
		assert_int_equal(m.device_bytes, 0);
		assert_int_equal(m.lineage_sleeps, 1);
		assert_int_equal(m.lineage_stored, stats.bytes_stored);
		manifest_deinit(&m);
		close(dirfd);
		assert_memory(p->to, id, memory);
	}
	free(memory);
}

static void test_zero(void **state)
{
	struct stream_place *p = *state;
	struct raw_import_options options = {0};
	uint8_t *memory = calloc(1, BYTES);
	_cleanup_buf_ struct buf b = {0}, none = {0};
	struct problem problem = PROBLEM_INIT;
	char id[ID_LEN + 1];

	put_extent(&b, 8192, memory, 65536); /* data, but zero */
	put_head(&b, BYTES, 0);
	assert_int_equal(import(p->to, &options, &b, 4096, id, NULL, &problem), 0);
	assert_memory(p->to, id, memory);
	export(p->to, id, 4096, &none);
	assert_int_equal(none.len, RAW_EXTENT_HEAD_BYTES);
	free(memory);
}

/* ---- diff -------------------------------------------------------------------------------------
 */

/* Firecracker writes the dirty pages into a sparse file of the whole size. */
static void test_diff(void **state)
{
	struct stream_place *p = *state;
	struct raw_import_options options = {.codec = IMAGE_CODEC_ZSTD};
	uint8_t *memory = make_memory(&p->seed), *diff = calloc(1, BYTES);
	_cleanup_buf_ struct buf full = {0}, b = {0};
	struct problem problem = PROBLEM_INIT;
	struct image_writer_stats stats;
	char parent[ID_LEN + 1], id[ID_LEN + 1], base[IMAGE_ID_LEN + 1];
	struct manifest m;
	int fd = make_file(p->f, "full", memory), dirfd;

	file_to_extents(fd, &full);
	close(fd);
	assert_int_equal(import(p->to, &options, &full, 4096, parent, NULL, &problem), 0);
	for (unsigned i = 0; i < N_PAGES; i += 31) {
		fixture_page(diff + i * DORM_PAGE_SIZE, 1, &p->seed);
		memcpy(memory + i * DORM_PAGE_SIZE, diff + i * DORM_PAGE_SIZE, DORM_PAGE_SIZE);
	}
	fd = make_file(p->f, "diff", diff);
	/* a page that became zero is data as well, not a hole */
	assert_int_equal(pwrite(fd, memory + 20 * DORM_PAGE_SIZE, DORM_PAGE_SIZE,
				(off_t)(5 * DORM_PAGE_SIZE)),
			 DORM_PAGE_SIZE);
	assert_int_equal(memory[20 * DORM_PAGE_SIZE], 0);
	memset(memory + 5 * DORM_PAGE_SIZE, 0, DORM_PAGE_SIZE);
	file_to_extents(fd, &b);
	close(fd);
	options.parent_id = parent;
	assert_int_equal(import(p->to, &options, &b, 5000, id, &stats, &problem), 0);
	assert_in_range(stats.pages_stored, 1, N_PAGES / 31 + 1);
	assert_memory(p->to, id, memory);
	dirfd = stream_open(p->to, id);
	assert_int_equal(snapshot_open(dirfd, NULL, &problem, &m), 0);
	assert_string_equal(m.parent_id, parent);
	assert_int_equal(m.lineage_sleeps, 2);
	assert_true(m.lineage_stored > stats.bytes_stored);
	str_copy(base, sizeof(base), m.base_image_id);
	manifest_deinit(&m);
	close(dirfd);
	dirfd = stream_open(p->to, parent); /* which others run from too: its base */
	assert_int_equal(snapshot_open(dirfd, NULL, &problem, &m), 0);
	assert_string_equal(m.image_id, base);
	assert_string_equal(m.base_image_id, "");
	manifest_deinit(&m);
	close(dirfd);
	free(memory);
	free(diff);
}

/* ---- refused ----------------------------------------------------------------------------------
 */

static void refused(struct store *store, const struct raw_import_options *options,
		    const struct buf *b, int result, const char *text)
{
	struct problem problem = PROBLEM_INIT;
	const unsigned n = stream_count(store, "snapshots");
	char id[ID_LEN + 1];

	assert_int_equal(import(store, options, b, 4096, id, NULL, &problem), result);
	if (!strstr(problem.message, text))
		fail_msg("\"%s\" does not say \"%s\"", problem.message, text);
	assert_int_equal(stream_count(store, "snapshots"), n);
}

struct extent {
	uint64_t offset, len;
};

static void test_refused(void **state)
{
	static const struct {
		struct extent extents[4]; /* with zeros as their bytes */
		unsigned n;
		const char *text;
	} cases[] = {
		{{{0, 4096}}, 1, "too early"},
		{{{0, 4096}, {100 * 4096 + 1, 0}}, 2, "last page is not whole"},
		{{{0, 100}}, 1, "not whole pages"},
		{{{100, 4096}}, 1, "not whole pages"},
		{{{0, 0}}, 1, "0 bytes"},
		{{{8192, 4096}, {4096, 4096}}, 2, "must ascend"},
		{{{8192, 8192}, {12288, 4096}}, 2, "must ascend"},
		{{{8192, 8192}, {4096, 0}}, 2, "there was an extent up to 16384"},
		{{{UINT64_MAX - 4095, 4096}}, 1, "at most"},
		{{{1ull << 63, 1ull << 63}}, 1, "at most"},
		{{{0, 1ull << 60}}, 1, "at most"},
		{{{1ull << 52, 0}}, 1, "at most"},
		{{{4096, 0}, {4096, 0}}, 2, "goes on after its end"},
	};
	struct stream_place *p = *state;
	static const char zeros[16384];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		for (unsigned known = 0; known < 2; known++) {
			struct raw_import_options options = {.memory_bytes = known ? 4096 * 4 : 0};
			_cleanup_buf_ struct buf b = {0};
			bool one_size = !strcmp(cases[i].text, "goes on after its end");

			for (unsigned e = 0; e < cases[i].n; e++) {
				put_head(&b, cases[i].extents[e].offset, cases[i].extents[e].len);
				assert_int_equal(
					buf_append(&b, zeros,
						   MIN(cases[i].extents[e].len, sizeof(zeros))),
					0);
			}
			if (known && one_size)
				options.memory_bytes = 4096;
			if (known && !strncmp(cases[i].text, "there was", 9))
				continue; /* another size than the known one: said first */
			refused(p->to, &options, &b, TRANSFER_E_STREAM, cases[i].text);
		}
}

static void test_refused_options(void **state)
{
	struct stream_place *p = *state;
	char parent[ID_LEN + 1];
	struct raw_import_options options = {.parent_id = parent};
	struct problem problem = PROBLEM_INIT;
	_cleanup_buf_ struct buf b = {0};

	put_head(&b, BYTES, 0);
	assert_int_equal(
		import(p->to, &(struct raw_import_options){0}, &b, 16, parent, NULL, &problem), 0);
	b.len = 0;
	put_head(&b, BYTES + DORM_PAGE_SIZE, 0);
	refused(p->to, &options, &b, TRANSFER_E_STREAM, "but its parent has");
	b.len = 0;
	put_head(&b, BYTES - DORM_PAGE_SIZE, 0);
	refused(p->to, &options, &b, TRANSFER_E_STREAM, "but its parent has");
	options.parent_id = "snotthere00000000000x";
	refused(p->to, &options, &b, -ENOENT, "snotthere");
	options.parent_id = "../../etc";
	refused(p->to, &options, &b, -EINVAL, "not an identifier");
	options = (struct raw_import_options){.max_bytes = BYTES - 2 * DORM_PAGE_SIZE};
	refused(p->to, &options, &b, TRANSFER_E_STREAM, "at most");
	options = (struct raw_import_options){.name = "../x"};
	refused(p->to, &options, &b, -EINVAL, "name");
	options = (struct raw_import_options){.memory_bytes = BYTES};
	refused(p->to, &options, &b, TRANSFER_E_STREAM, "announced were");
	options = (struct raw_import_options){.memory_bytes = 4097};
	refused(p->to, &options, &b, TRANSFER_E_STREAM, "not whole");
}

/* A damaged layer is an error of the export, not bytes that are wrong. */
static void test_export_of_damaged(void **state)
{
	struct stream_place *p = *state;
	struct raw_import_options options = {0};
	uint8_t *memory = make_memory(&p->seed);
	_cleanup_buf_ struct buf b = {0};
	struct problem problem = PROBLEM_INIT;
	char id[ID_LEN + 1], path[64], buf[4096];
	struct raw_exporter *x = NULL;
	struct image *image;
	int dirfd;
	ssize_t n;

	put_extent(&b, 0, memory, BYTES);
	put_head(&b, BYTES, 0);
	assert_int_equal(import(p->to, &options, &b, 4096, id, NULL, &problem), 0);
	dirfd = stream_open(p->to, id);
	assert_int_equal(image_open(dirfd, NULL, &problem, &image), 0);
	(void)snprintf(path, sizeof(path), "layers/%s", image_layer_id(image, 0));
	image_unref(image);
	fixture_flip(dirfd, path, 1u << 20, 1);
	assert_int_equal(raw_exporter_new(dirfd, NULL, &problem, &x), 0);
	while ((n = raw_exporter_read(x, buf, sizeof(buf), &problem)) > 0)
		;
	assert_int_equal(n, -EBADMSG);
	assert_non_null(strstr(problem.message, "checksum mismatch"));
	raw_exporter_free(x);
	close(dirfd);
	free(memory);
}

#define TEST(_name) cmocka_unit_test_setup_teardown(_name, stream_setup, stream_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_full),
		TEST(test_zero),
		TEST(test_diff),
		TEST(test_refused),
		TEST(test_refused_options),
		TEST(test_export_of_damaged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
