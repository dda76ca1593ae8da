/* SPDX-License-Identifier: Apache-2.0 */
/* An image in which several gfns have the same slot, and the image that comes after it. */
#include "image/test-fixture.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "image/page-map.h"

#define N_PAGES	     128u
#define FIRST_STORED 8u
#define N_STORED     64u

static uint8_t *new_memory(void)
{
	uint8_t *memory = calloc(N_PAGES, DORM_PAGE_SIZE);
	uint64_t seed = 11;

	assert_non_null(memory);
	for (uint64_t i = 0; i < N_STORED; i++)
		fixture_page(memory + (FIRST_STORED + i) * DORM_PAGE_SIZE, 2, &seed);
	return memory;
}

/* 32 pages after their owners; four before, which so become the owners; and one slot left unused */
static uint64_t source_of(uint64_t gfn)
{
	if (gfn >= 80 && gfn < 112)
		return gfn - 64;
	if (gfn < 4)
		return gfn + 60;
	return gfn == 70 ? 127 : gfn; /* 127 is zero */
}

/* Write the map of "a" anew, and do the same in @memory. */
static void share(struct fixture *f, uint8_t *memory)
{
	_cleanup_(page_map_deinit) struct page_map old = {0}, m = {0};
	_cleanup_free_ struct layer_name *names = NULL;
	_cleanup_free_ char *data = NULL;
	_cleanup_buf_ struct buf file = {0};
	struct problem problem = PROBLEM_INIT;
	uint32_t n;
	size_t len;

	assert_int_equal(file_read(f->dirfd, "a/map", 1u << 20, &data, &len), 0);
	assert_int_equal(page_map_decode(data, len, &problem, &old, &names, &n), 0);
	for (uint64_t gfn = 0; gfn < N_PAGES; gfn++) {
		uint64_t of = source_of(gfn);
		const struct page_run *run = &old.runs[page_map_find(&old, of)];

		assert_int_equal(page_map_append(&m, 1, run->layer, run->slot + of - run->gfn), 0);
		memcpy(memory + gfn * DORM_PAGE_SIZE, memory + of * DORM_PAGE_SIZE, DORM_PAGE_SIZE);
	}
	assert_int_equal(page_map_encode(&m, names, n, &file), 0);
	assert_int_equal(file_write_atomic(f->dirfd, "a/map", file.data, file.len, 0444), 0);
}

static void check_content(struct image *image, const uint8_t *memory)
{
	uint8_t *read = malloc(N_PAGES * DORM_PAGE_SIZE);
	struct problem problem = PROBLEM_INIT;

	assert_non_null(read);
	assert_int_equal(fixture_read_all(image, read, &problem), 0);
	assert_memory_equal(read, memory, N_PAGES * DORM_PAGE_SIZE);
	free(read);
}

static struct image *open_shared(struct fixture *f, uint8_t *memory)
{
	struct problem problem = PROBLEM_INIT;
	struct image *zero, *image;
	int dirfd;

	assert_int_equal(image_open_zero(N_PAGES, &zero), 0);
	image_unref(fixture_image(f, "a", zero, NULL, IMAGE_CODEC_NONE, memory, NULL, NULL));
	image_unref(zero);
	share(f, memory);
	dirfd = file_open_dir(f->dirfd, "a");
	assert_int_equal(image_open(dirfd, NULL, &problem, &image), 0);
	close(dirfd);
	return image;
}

static uint64_t owner_of(struct image *image, uint64_t gfn)
{
	struct page_run run;

	image_lookup(image, gfn, &run);
	return image_owner(image, run.layer, run.slot + gfn - run.gfn);
}

static void test_owners(void **state)
{
	uint8_t *memory = new_memory();
	struct image *image = open_shared(*state, memory);
	struct frame_page pages[IMAGE_FRAME_PAGES];
	uint32_t n_owners = 0, frames;
	uint64_t live, bytes;

	check_content(image, memory);
	assert_int_equal(image_stored_pages(image), N_STORED - 1 + 32 + 4);
	assert_int_equal(owner_of(image, 16), 16);
	assert_int_equal(owner_of(image, 80), 16);
	assert_int_equal(owner_of(image, 111), 47);
	assert_int_equal(owner_of(image, 63), 3);
	assert_int_equal(owner_of(image, 3), 3);
	for (uint32_t frame = 0; frame < image_layer_frames(image, 0); frame++) {
		uint32_t n = image_frame_pages(image, 0, frame, pages);

		assert_in_range(n, 1, IMAGE_FRAME_PAGES);
		n_owners += n;
		for (uint32_t i = 0; i < n; i++) {
			assert_true(i == 0 || pages[i].index > pages[i - 1].index);
			assert_int_equal(owner_of(image, pages[i].gfn), pages[i].gfn);
		}
	}
	assert_int_equal(n_owners, N_STORED - 1);
	image_layer_live(image, 0, &frames, &live, &bytes);
	assert_int_equal(frames, image_layer_frames(image, 0));
	assert_int_equal(live, N_STORED - 1);
	assert_int_equal(bytes, (N_STORED - 1) * DORM_PAGE_SIZE); /* not compressed */
	image_unref(image);
	free(memory);
}

/* Of pages that shared a slot, one changes: the others keep it. */
static void test_next_image(void **state)
{
	uint8_t *memory = new_memory();
	struct image *image = open_shared(*state, memory), *next;
	bool changed[N_PAGES] = {0};
	uint64_t seed = 5;

	changed[20] = changed[0] = changed[90] = true;
	for (uint64_t gfn = 0; gfn < N_PAGES; gfn++)
		if (changed[gfn])
			fixture_page(memory + gfn * DORM_PAGE_SIZE, 2, &seed);
	next = fixture_image(*state, "b", image, "a", IMAGE_CODEC_ZSTD, memory, changed, NULL);
	check_content(next, memory);
	assert_int_equal(owner_of(next, 84), 84); /* was 20 */
	assert_int_equal(owner_of(next, 60), 60); /* was 0 */
	assert_int_equal(owner_of(next, 61), 1);
	assert_int_equal(owner_of(next, 20), 20);
	image_unref(next);
	image_unref(image);
	free(memory);
}

#define SHARED_TEST(_f) cmocka_unit_test_setup_teardown(_f, fixture_setup, fixture_teardown)
TEST_MAIN(SHARED_TEST(test_owners), SHARED_TEST(test_next_image))
