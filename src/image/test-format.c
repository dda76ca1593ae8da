/* SPDX-License-Identifier: Apache-2.0 */
/* test-format.c - the worked example of docs/format-image.md is what the code reads and writes */
#include "image/test-fixture.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "image/image-internal.h"
#include "image/layer-writer.h"

#define DOC DORM_SOURCE_DIR "/docs/format-image.md"

static const uint8_t example_id[LAYER_ID_BYTES] = {0, 1, 2,  3,	 4,  5,	 6,  7,
						   8, 9, 10, 11, 12, 13, 14, 15};

/* The bytes of the block "```hexdump <name>" of the document, which is in hexdump -C's form. */
static void read_example(const char *name, struct buf *ret)
{
	uint8_t last[16] = {0};
	char start[64], line[256];
	bool inside = false, repeat = false;
	FILE *f = fopen(DOC, "re");

	assert_non_null(f);
	(void)snprintf(start, sizeof(start), "```hexdump %s\n", name);
	while (fgets(line, sizeof(line), f)) {
		char *p = line;
		size_t offset, n = 0;

		if (!inside) {
			inside = !strcmp(line, start);
			continue;
		}
		if (!strncmp(line, "```", 3))
			break;
		if (line[0] == '*') {
			repeat = true;
			continue;
		}
		offset = strtoul(line, &p, 16);
		while (repeat && ret->len < offset)
			assert_int_equal(buf_append(ret, last, sizeof(last)), 0);
		repeat = false;
		assert_int_equal(ret->len, offset);
		while (n < sizeof(last) && sscanf(p, " %2hhx", &last[n]) == 1) {
			p += strspn(p, " ") + 2;
			n++;
		}
		assert_int_equal(buf_append(ret, last, n), 0);
	}
	(void)fclose(f);
	assert_true(inside);
}

static void make_layer(int dirfd, uint8_t digest[DIGEST_BYTES])
{
	struct problem problem = PROBLEM_INIT;
	struct layer_writer *w;
	uint8_t *page = malloc(DORM_PAGE_SIZE);
	uint64_t bytes;

	assert_non_null(page);
	memset(page, 'a', DORM_PAGE_SIZE);
	assert_int_equal(
		layer_writer_new(dirfd, example_id, &(struct layer_options){0}, &problem, &w), 0);
	assert_int_equal(layer_writer_add(w, page, 1, &problem), 0);
	assert_int_equal(layer_writer_commit(w, digest, &bytes, &problem), 0);
	layer_writer_free(w);
	free(page);
}

static void make_map(const uint8_t digest[DIGEST_BYTES], struct buf *ret)
{
	struct page_map m = {0};
	struct page_run shared;
	struct layer_name name;

	memcpy(name.id, example_id, sizeof(example_id));
	memcpy(name.digest, digest, DIGEST_BYTES);
	assert_int_equal(page_map_append(&m, 8, IMAGE_LAYER_ZERO, 0), 0);
	assert_int_equal(page_map_append(&m, 1, 0, 0), 0);
	assert_int_equal(page_map_append(&m, 291, IMAGE_LAYER_ZERO, 0), 0);
	assert_int_equal(page_map_seal(&m, &shared), 0);
	assert_int_equal(page_map_encode(&m, &name, 1, ret), 0);
	page_map_deinit(&m);
}

static void test_written_as_documented(void **state)
{
	_cleanup_buf_ struct buf layer = {0}, map = {0}, made = {0};
	struct fixture *f = *state;
	uint8_t digest[DIGEST_BYTES];
	char *data;
	size_t len;

	read_example("layer", &layer);
	read_example("map", &map);
	make_layer(f->dirfd, digest);
	assert_int_equal(
		file_read(f->dirfd, "000102030405060708090a0b0c0d0e0f", 1u << 20, &data, &len), 0);
	assert_int_equal(len, layer.len);
	assert_memory_equal(data, layer.data, len);
	free(data);
	make_map(digest, &made);
	assert_int_equal(made.len, map.len);
	assert_memory_equal(made.data, map.data, made.len);
}

static void test_read_as_documented(void **state)
{
	_cleanup_buf_ struct buf layer = {0}, map = {0};
	struct fixture *f = *state;
	struct problem problem = PROBLEM_INIT;
	uint8_t *page = malloc(DORM_PAGE_SIZE);
	struct image *image;
	char *doc;

	assert_non_null(page);
	read_example("layer", &layer);
	read_example("map", &map);
	close(fixture_dir(f, "layers"));
	assert_int_equal(file_write_atomic(f->dirfd, "layers/000102030405060708090a0b0c0d0e0f",
					   layer.data, layer.len, 0444),
			 0);
	assert_int_equal(file_write_atomic(f->dirfd, "map", map.data, map.len, 0444), 0);
	assert_int_equal(image_open(f->dirfd, NULL, &problem, &image), 0);
	assert_int_equal(image_n_pages(image), 300);
	assert_int_equal(image_stored_pages(image), 1);
	assert_int_equal(image_read_page(image, 8, page, &problem), 0);
	for (size_t i = 0; i < DORM_PAGE_SIZE; i++)
		assert_int_equal(page[i], 'a');
	assert_int_equal(image_read_page(image, 9, page, &problem), 0);
	assert_int_equal(page[0], 0);
	/* the document names the id */
	assert_int_equal(file_read(AT_FDCWD, DOC, 1u << 20, &doc, NULL), 0);
	assert_non_null(strstr(doc, image_id(image)));
	free(doc);
	image_unref(image);
	free(page);
}

#define FORMAT_TEST(_f) cmocka_unit_test_setup_teardown(_f, fixture_setup, fixture_teardown)
TEST_MAIN(FORMAT_TEST(test_written_as_documented), FORMAT_TEST(test_read_as_documented))
