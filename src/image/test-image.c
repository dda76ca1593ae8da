/* SPDX-License-Identifier: Apache-2.0 */
#include "image/test-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/problem.h"

#define N_PAGES 1000u

struct model {
	uint8_t *memory;
	bool changed[N_PAGES];
};

static struct model *model_new(void)
{
	struct model *m = calloc(1, sizeof(*m));

	assert_non_null(m);
	m->memory = calloc(N_PAGES, DORM_PAGE_SIZE);
	assert_non_null(m->memory);
	return m;
}

static void model_free(struct model *m)
{
	free(m->memory);
	free(m);
}

/* Touch pages as a guest does: runs and single pages; some written with what they had before. */
static void model_change(struct model *m, uint64_t *seed, unsigned n_touches)
{
	memset(m->changed, 0, sizeof(m->changed));
	for (unsigned i = 0; i < n_touches; i++) {
		uint64_t gfn = fixture_random(seed) % N_PAGES;
		uint64_t n = fixture_random(seed) % 3 ? 1 : fixture_random(seed) % 60 + 1;
		unsigned kind = fixture_random(seed) % 4;

		for (; n && gfn < N_PAGES; n--, gfn++) {
			m->changed[gfn] = true;
			if (kind < 3)
				fixture_page(m->memory + gfn * DORM_PAGE_SIZE, kind, seed);
		}
	}
}

static void check_content(struct image *image, const uint8_t *memory)
{
	uint8_t *out = malloc((size_t)N_PAGES * DORM_PAGE_SIZE);
	struct problem problem = PROBLEM_INIT;

	assert_non_null(out);
	assert_int_equal(fixture_read_all(image, out, &problem), 0);
	assert_memory_equal(out, memory, (size_t)N_PAGES * DORM_PAGE_SIZE);
	free(out);
}

/* The map seen from the frames is the map seen from the guest: each stored page exactly once. */
static void check_frames(struct image *image)
{
	struct frame_page pages[IMAGE_FRAME_PAGES];
	bool *seen = calloc(N_PAGES, sizeof(*seen));
	uint64_t n = 0;

	assert_non_null(seen);
	for (uint32_t layer = 0; layer < image_n_layers(image); layer++)
		for (uint32_t frame = 0; frame < image_layer_frames(image, layer); frame++) {
			uint32_t k = image_frame_pages(image, layer, frame, pages);

			for (uint32_t i = 0; i < k; i++) {
				struct page_run run;

				image_lookup(image, pages[i].gfn, &run);
				assert_int_equal(run.layer, layer);
				assert_int_equal(run.slot + pages[i].gfn - run.gfn,
						 frame * IMAGE_FRAME_PAGES + pages[i].index);
				assert_true(i == 0 || pages[i - 1].index < pages[i].index);
				assert_false(seen[pages[i].gfn]);
				seen[pages[i].gfn] = true;
				n++;
			}
		}
	assert_int_equal(n, image_stored_pages(image));
	free(seen);
}

static void generations(struct fixture *f, enum image_codec codec, uint64_t seed)
{
	struct image *image, *next;
	struct model *m = model_new();
	char name[16], parent[16] = "";

	assert_int_equal(image_open_zero(N_PAGES, &image), 0);
	for (unsigned g = 0; g < 8; g++) {
		struct image_writer_stats stats;

		(void)snprintf(name, sizeof(name), "g%u", g);
		model_change(m, &seed, g == 0 ? 60 : g == 5 ? 0 : 12);
		next = fixture_image(f, name, image, g ? parent : NULL, codec, m->memory,
				     m->changed, &stats);
		assert_int_equal(stats.pages_given,
				 stats.pages_zero + stats.pages_unchanged + stats.pages_stored);
		check_content(next, m->memory);
		check_frames(next);
		if (g == 5) { /* nothing changed: the same content, so the same name */
			assert_string_equal(image_id(next), image_id(image));
			assert_int_equal(stats.bytes_stored, 0);
		}
		if (g) /* each generation lives without the ones before */
			assert_int_equal(file_remove_tree(f->dirfd, parent), 0);
		check_content(next, m->memory);
		image_unref(image);
		image = next;
		(void)snprintf(parent, sizeof(parent), "%s", name);
	}
	image_unref(image);
	assert_int_equal(file_remove_tree(f->dirfd, parent), 0);
	model_free(m);
}

static void test_generations(void **state)
{
	for (uint64_t seed = 1; seed <= 4; seed++)
		generations(*state, seed % 2 ? IMAGE_CODEC_ZSTD : IMAGE_CODEC_NONE, seed);
}

static void test_zero(void **state)
{
	struct image *zero, *again, *image, *other;
	struct image_writer_stats stats;
	struct model *m = model_new();
	struct page_run run;
	struct stat st;

	assert_int_equal(image_open_zero(0, &zero), -EINVAL);
	assert_int_equal(image_open_zero(IMAGE_MAX_PAGES + 1, &zero), -EINVAL);
	assert_int_equal(image_open_zero(N_PAGES, &zero), 0);
	assert_int_equal(image_open_zero(N_PAGES, &again), 0);
	assert_int_equal(image_open_zero(N_PAGES + 1, &other), 0);
	assert_string_equal(image_id(zero), image_id(again));
	assert_string_not_equal(image_id(zero), image_id(other));
	image_lookup(zero, N_PAGES - 1, &run);
	assert_int_equal(run.gfn, 0);
	assert_int_equal(run.n_pages, N_PAGES);
	assert_int_equal(run.layer, IMAGE_LAYER_ZERO);
	/* a snapshot of nothing but zeros has no layer and is the zero image */
	image = fixture_image(*state, "zeros", zero, NULL, IMAGE_CODEC_ZSTD, m->memory, NULL,
			      &stats);
	assert_string_equal(image_id(image), image_id(zero));
	assert_int_equal(image_n_layers(image), 0);
	assert_int_equal(stats.pages_zero, N_PAGES);
	assert_int_equal(stats.bytes_stored, 0);
	assert_int_equal(fstatat(((struct fixture *)*state)->dirfd, "zeros/map", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0444);
	assert_int_equal(st.st_size, stats.map_bytes);
	image_unref(image_ref(image));
	image_unref(image);
	image_unref(zero);
	image_unref(again);
	image_unref(other);
	model_free(m);
}

/* Dense memory is stored in frames that are the guest's 64 KiB blocks. */
static void test_dense_frames_are_aligned(void **state)
{
	struct frame_page pages[IMAGE_FRAME_PAGES];
	struct model *m = model_new();
	struct image *zero, *image;
	uint64_t seed = 7;

	for (uint64_t gfn = 5; gfn < N_PAGES; gfn++) /* begins in the middle of a block */
		if (gfn != 100)			     /* and has a hole */
			fixture_page(m->memory + gfn * DORM_PAGE_SIZE, 1, &seed);
	assert_int_equal(image_open_zero(N_PAGES, &zero), 0);
	image = fixture_image(*state, "dense", zero, NULL, IMAGE_CODEC_ZSTD, m->memory, NULL, NULL);
	assert_int_equal(image_n_layers(image), 1);
	assert_int_equal(image_layer_frames(image, 0), (N_PAGES + 15) / 16);
	for (uint32_t frame = 0; frame < image_layer_frames(image, 0); frame++) {
		uint32_t n = image_frame_pages(image, 0, frame, pages);

		assert_true(n > 0);
		assert_int_equal(pages[0].gfn / 16, frame);
		assert_int_equal(pages[n - 1].gfn / 16, frame);
	}
	image_unref(image);
	image_unref(zero);
	model_free(m);
}

/* A layer that nothing refers to any more is not linked. */
static void test_dead_layers_go(void **state)
{
	struct fixture *f = *state;
	struct image *zero, *a, *b, *c;
	struct model *m = model_new();
	uint64_t seed = 3;
	char path[80];
	struct stat st;

	for (uint64_t gfn = 0; gfn < 40; gfn++)
		fixture_page(m->memory + gfn * DORM_PAGE_SIZE, 2, &seed);
	assert_int_equal(image_open_zero(N_PAGES, &zero), 0);
	a = fixture_image(f, "a", zero, NULL, IMAGE_CODEC_NONE, m->memory, NULL, NULL);
	fixture_page(m->memory, 2, &seed);
	b = fixture_image(f, "b", a, "a", IMAGE_CODEC_NONE, m->memory, NULL, NULL);
	assert_int_equal(image_n_layers(b), 2);
	for (uint64_t gfn = 1; gfn < 40; gfn++)
		fixture_page(m->memory + gfn * DORM_PAGE_SIZE, 0, &seed);
	c = fixture_image(f, "c", b, "b", IMAGE_CODEC_NONE, m->memory, NULL, NULL);
	assert_int_equal(image_n_layers(c), 1);
	assert_string_equal(image_layer_id(c, 0), image_layer_id(b, 1));
	(void)snprintf(path, sizeof(path), "c/layers/%s", image_layer_id(a, 0));
	assert_int_equal(fstatat(f->dirfd, path, &st, 0), -1);
	(void)snprintf(path, sizeof(path), "c/layers/%s", image_layer_id(b, 1));
	assert_int_equal(fstatat(f->dirfd, path, &st, 0), 0);
	assert_int_equal(st.st_nlink, 2);
	assert_int_equal(st.st_mode & 07777, 0444);
	assert_int_equal(st.st_size, image_layer_bytes(c, 0));
	check_content(c, m->memory);
	image_unref(a);
	image_unref(b);
	image_unref(c);
	image_unref(zero);
	model_free(m);
}

static void test_bad_adds(void **state)
{
	struct problem problem = PROBLEM_INIT;
	struct image_writer_stats stats;
	uint8_t *page = calloc(2, DORM_PAGE_SIZE);
	char id[IMAGE_ID_LEN + 1];
	struct image_writer *w;
	struct image *zero;
	int dirfd = fixture_dir(*state, "bad");

	assert_int_equal(image_open_zero(10, &zero), 0);
	for (int i = 0; i < 3; i++) {
		problem = PROBLEM_INIT;
		assert_int_equal(image_writer_new(dirfd, zero, -1, NULL, &problem, &w), 0);
		assert_int_equal(image_writer_add(w, 5, 1, page, &problem), 0);
		if (i == 0) /* again */
			assert_int_equal(image_writer_add(w, 5, 1, page, &problem), -EINVAL);
		if (i == 1) /* beyond the end */
			assert_int_equal(image_writer_add(w, 9, 2, page, &problem), -EINVAL);
		if (i == 2) /* far beyond */
			assert_int_equal(image_writer_add(w, UINT64_MAX, 2, page, &problem),
					 -EINVAL);
		assert_true(problem_is_set(&problem));
		/* and once it failed it stays failed */
		assert_int_equal(image_writer_add(w, 9, 1, page, &problem), -EINVAL);
		assert_int_equal(image_writer_commit(w, &stats, id, &problem), -EINVAL);
		image_writer_free(w);
	}
	image_unref(zero);
	free(page);
	close(dirfd);
}

/* ---- threads ----------------------------------------------------------------------------------
 */

struct reader {
	struct image *image;
	const uint8_t *memory;
	uint64_t seed;
	bool ok;
};

static void *read_at_random(void *userdata)
{
	struct reader *r = userdata;
	uint8_t *page = malloc(DORM_PAGE_SIZE);

	r->ok = page;
	for (unsigned i = 0; r->ok && i < 2000; i++) {
		uint64_t gfn = fixture_random(&r->seed) % N_PAGES;

		r->ok = image_read_page(r->image, gfn, page, NULL) == 0 &&
			!memcmp(page, r->memory + gfn * DORM_PAGE_SIZE, DORM_PAGE_SIZE);
	}
	free(page);
	image_unref(r->image);
	return NULL;
}

static void test_concurrent_readers(void **state)
{
	struct reader readers[4];
	pthread_t threads[4];
	struct model *m = model_new();
	struct image *zero, *image;
	uint64_t seed = 11;

	model_change(m, &seed, 80);
	assert_int_equal(image_open_zero(N_PAGES, &zero), 0);
	image = fixture_image(*state, "shared", zero, NULL, IMAGE_CODEC_ZSTD, m->memory, NULL,
			      NULL);
	for (unsigned i = 0; i < 4; i++) {
		readers[i] = (struct reader){image_ref(image), m->memory, i, false};
		assert_int_equal(pthread_create(&threads[i], NULL, read_at_random, &readers[i]), 0);
	}
	image_unref(image);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(pthread_join(threads[i], NULL), 0);
		assert_true(readers[i].ok);
	}
	image_unref(zero);
	model_free(m);
}

#define IMAGE_TEST(_f) cmocka_unit_test_setup_teardown(_f, fixture_setup, fixture_teardown)
TEST_MAIN(IMAGE_TEST(test_generations), IMAGE_TEST(test_zero),
	  IMAGE_TEST(test_dense_frames_are_aligned), IMAGE_TEST(test_dead_layers_go),
	  IMAGE_TEST(test_bad_adds), IMAGE_TEST(test_concurrent_readers))
