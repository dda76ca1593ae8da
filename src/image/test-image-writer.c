/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-image-writer.c - any order, shared pages, how frames are packed. What must be true of every
 * image that is written is in test-image.c.
 */
#include "image/test-fixture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/problem.h"

#define N_PAGES 512u

struct work {
	struct image *parent;
	int dirfd;
	struct image_writer *writer;
	struct image_writer_stats stats;
	uint8_t *memory;
};

static void begin(struct work *k, struct fixture *f, const char *name, struct image *parent,
		  const char *parent_name, const struct image_writer_options *options)
{
	struct problem problem = PROBLEM_INIT;
	int parent_dirfd = parent_name ? file_open_dir(f->dirfd, parent_name) : -1;

	*k = (struct work){.dirfd = fixture_dir(f, name)};
	if (parent)
		k->parent = image_ref(parent);
	else
		assert_int_equal(image_open_zero(N_PAGES, &k->parent), 0);
	k->memory = calloc(N_PAGES, DORM_PAGE_SIZE);
	assert_non_null(k->memory);
	assert_int_equal(
		image_writer_new(k->dirfd, k->parent, parent_dirfd, options, &problem, &k->writer),
		0);
	if (parent_dirfd >= 0)
		close(parent_dirfd);
}

static void add(struct work *k, uint64_t gfn, uint64_t n)
{
	struct problem problem = PROBLEM_INIT;

	assert_int_equal(
		image_writer_add(k->writer, gfn, n, k->memory + gfn * DORM_PAGE_SIZE, &problem), 0);
}

/* A page of noise that @seed decides. */
static void noise(struct work *k, uint64_t gfn, uint64_t seed)
{
	fixture_page(k->memory + gfn * DORM_PAGE_SIZE, 2, &seed);
}

static struct image *commit(struct work *k)
{
	struct problem problem = PROBLEM_INIT;
	char id[IMAGE_ID_LEN + 1];
	struct image *image;

	assert_int_equal(image_writer_commit(k->writer, &k->stats, id, &problem), 0);
	assert_int_equal(k->stats.pages_given, k->stats.pages_zero + k->stats.pages_unchanged +
						       k->stats.pages_shared +
						       k->stats.pages_stored);
	if (image_open(k->dirfd, NULL, &problem, &image))
		fail_msg("%s", problem.message);
	return image;
}

static void check(struct work *k, struct image *image)
{
	struct problem problem = PROBLEM_INIT;
	uint8_t page[DORM_PAGE_SIZE];

	for (uint64_t gfn = 0; gfn < N_PAGES; gfn++) {
		assert_int_equal(image_read_page(image, gfn, page, &problem), 0);
		assert_memory_equal(page, k->memory + gfn * DORM_PAGE_SIZE, DORM_PAGE_SIZE);
	}
}

static void end(struct work *k)
{
	image_writer_free(k->writer);
	image_unref(k->parent);
	close(k->dirfd);
	free(k->memory);
}

static uint64_t slot_of(struct image *image, uint64_t gfn)
{
	struct page_run run;

	image_lookup(image, gfn, &run);
	assert_int_not_equal(run.layer, IMAGE_LAYER_ZERO);
	return run.slot + gfn - run.gfn;
}

/* The working set first: what is added first has the first slots. */
static void test_order_is_layout(void **state)
{
	struct image *image;
	struct work k;

	begin(&k, *state, "a", NULL, NULL, NULL);
	for (unsigned i = 0; i < N_PAGES; i++)
		noise(&k, i, i + 1);
	add(&k, 300, 20);
	add(&k, 7, 3);
	add(&k, 0, 7);
	add(&k, 320, N_PAGES - 320);
	add(&k, 10, 290);
	image = commit(&k);
	assert_int_equal(k.stats.pages_stored, N_PAGES);
	check(&k, image);
	assert_int_equal(slot_of(image, 300), 0);
	assert_int_equal(slot_of(image, 319), 19);
	assert_int_equal(slot_of(image, 7), 20);
	assert_int_equal(slot_of(image, 0), 23);
	assert_int_equal(slot_of(image, 6), 29);
	assert_int_equal(slot_of(image, 320),
			 32); /* ten pages of the block before closed a frame */
	assert_true(slot_of(image, 10) > slot_of(image, N_PAGES - 1));
	image_unref(image);
	end(&k);
}

/* Shuffled completely, over a parent, with zero, unchanged and repeated pages. */
static void test_shuffled(void **state)
{
	uint64_t seed = 17;

	for (unsigned round = 0; round < 6; round++) {
		const struct image_writer_options options = {.codec = round % 3,
							     .frame_pages = round == 3	 ? 5
									    : round == 4 ? 1
											 : 0};
		struct image *first, *second;
		unsigned order[N_PAGES];
		char a[8] = "a0", b[8] = "b0";
		struct work k, j;

		a[1] = b[1] = (char)('0' + round);
		begin(&k, *state, a, NULL, NULL, &options);
		for (unsigned i = 0; i < N_PAGES; i += 1 + (unsigned)fixture_random(&seed) % 3)
			noise(&k, i, i + 1);
		add(&k, 0, N_PAGES);
		first = commit(&k);
		begin(&j, *state, b, first, a, &options);
		memcpy(j.memory, k.memory, (size_t)N_PAGES * DORM_PAGE_SIZE);
		for (unsigned i = 0; i < N_PAGES; i++) {
			unsigned at = (unsigned)fixture_random(&seed) % (i + 1);

			order[i] = order[at];
			order[at] = i;
		}
		for (unsigned i = 0; i < 400; i++) {
			unsigned kind = (unsigned)fixture_random(&seed) % 4;

			if (kind == 0)
				memset(j.memory + order[i] * DORM_PAGE_SIZE, 0, DORM_PAGE_SIZE);
			if (kind == 1)
				noise(&j, order[i], 10000 + i);
			if (kind == 2) /* what the parent has elsewhere is not known to be so */
				noise(&j, order[i], 20000 + i % 5);
			add(&j, order[i], 1);
		}
		second = commit(&j);
		check(&j, second);
		check(&k, first);
		assert_int_equal(j.stats.pages_given, 400);
		assert_true(j.stats.pages_shared > 50);
		assert_true(j.stats.pages_unchanged > 20);
		image_unref(first);
		image_unref(second);
		end(&k);
		end(&j);
	}
}

static void test_shared(void **state)
{
	struct frame_page pages[IMAGE_FRAME_PAGES];
	struct image *image;
	struct work k;

	begin(&k, *state, "a", NULL, NULL, NULL);
	for (unsigned i = 0; i < N_PAGES; i++)
		noise(&k, i, 1 + i % 4);
	add(&k, 100, N_PAGES - 100);
	add(&k, 0, 100);
	image = commit(&k);
	assert_int_equal(k.stats.pages_stored, 4);
	assert_int_equal(k.stats.pages_shared, N_PAGES - 4);
	assert_int_equal(image_n_layers(image), 1);
	assert_int_equal(image_layer_frames(image, 0), 1);
	check(&k, image);
	assert_int_equal(image_frame_pages(image, 0, 0, pages), 4);
	for (unsigned i = 0; i < 4; i++) /* the lowest owns it, whichever came first */
		assert_int_equal(pages[i].gfn, i);
	for (unsigned i = 0; i < N_PAGES; i++) {
		assert_int_equal(slot_of(image, i), i % 4);
		assert_int_equal(image_owner(image, 0, slot_of(image, i)), i % 4);
	}
	image_unref(image);
	end(&k);
}

/* Scattered pages fill frames; a dense block closes a frame that is at least half its. */
static void test_frames(void **state)
{
	struct image *image;
	struct work k;

	begin(&k, *state, "a", NULL, NULL, NULL);
	for (unsigned i = 0; i < N_PAGES; i++)
		noise(&k, i, i + 1);
	for (unsigned i = 0; i < 256; i += 16) /* one of each block: one frame */
		add(&k, i, 1);
	add(&k, 256 + 5, 11); /* most of a block, and whole ones */
	add(&k, 272, 32);
	for (unsigned i = 1; i < 256; i += 16) /* seven of a block do not close a frame */
		add(&k, i, 7);
	memset(k.memory + 304 * DORM_PAGE_SIZE, 0, (N_PAGES - 304) * DORM_PAGE_SIZE);
	image = commit(&k);
	assert_int_equal(image_layer_frames(image, 0), 1 + 1 + 2 + 7);
	assert_int_equal(slot_of(image, 240), 15);
	assert_int_equal(slot_of(image, 261), 16);
	assert_int_equal(slot_of(image, 272), 32);
	assert_int_equal(slot_of(image, 1), 64);
	assert_int_equal(slot_of(image, 17), 71);
	image_unref(image);
	end(&k);
}

static void test_frame_pages(void **state)
{
	struct image_writer_options options = {.frame_pages = 4};
	struct problem problem = PROBLEM_INIT;
	struct image_writer *w;
	struct image *image;
	struct work k;

	begin(&k, *state, "a", NULL, NULL, &options);
	for (unsigned i = 0; i < N_PAGES; i++)
		noise(&k, i, i + 1);
	add(&k, 0, N_PAGES);
	image = commit(&k);
	assert_int_equal(image_layer_frames(image, 0), N_PAGES / 4);
	check(&k, image);
	options.frame_pages = 17;
	assert_int_equal(image_writer_new(k.dirfd, k.parent, -1, &options, &problem, &w), -EINVAL);
	assert_non_null(strstr(problem.message, "17 pages"));
	image_unref(image);
	end(&k);
}

static void test_twice(void **state)
{
	struct problem problem = PROBLEM_INIT;
	struct work k;

	begin(&k, *state, "a", NULL, NULL, NULL);
	noise(&k, 9, 1);
	add(&k, 100, 2);
	add(&k, 9, 1);
	assert_int_equal(image_writer_add(k.writer, 99, 2, k.memory, &problem), -EINVAL);
	assert_non_null(strstr(problem.message, "page 100 was given twice"));
	end(&k);
}

/* The pages of a frame may come from memory that the caller uses again for the next call. */
static void test_memory_is_the_callers(void **state)
{
	struct problem problem = PROBLEM_INIT;
	uint8_t chunk[3 * DORM_PAGE_SIZE];
	struct image *image;
	struct work k;

	begin(&k, *state, "a", NULL, NULL, NULL);
	for (unsigned i = 0; i + 3 <= N_PAGES; i += 3) {
		for (unsigned j = 0; j < 3; j++)
			noise(&k, i + j, i + j + 1);
		memcpy(chunk, k.memory + i * DORM_PAGE_SIZE, sizeof(chunk));
		assert_int_equal(image_writer_add(k.writer, i, 3, chunk, &problem), 0);
		memset(chunk, 0xee, sizeof(chunk));
	}
	image = commit(&k);
	check(&k, image);
	image_unref(image);
	end(&k);
}

#define WRITER_TEST(_f) cmocka_unit_test_setup_teardown(_f, fixture_setup, fixture_teardown)
TEST_MAIN(WRITER_TEST(test_order_is_layout), WRITER_TEST(test_shuffled), WRITER_TEST(test_shared),
	  WRITER_TEST(test_frames), WRITER_TEST(test_frame_pages), WRITER_TEST(test_twice),
	  WRITER_TEST(test_memory_is_the_callers))
