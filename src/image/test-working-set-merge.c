/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "image/image-internal.h"
#include "image/test-fixture.h"
#include "image/working-set.h"

#define GUEST 40000u
#define ZEROS 4000u /* at the end; and a short run of them in the middle */

/* An image without layers' files: only the map is looked at. */
struct merge_test {
	struct image image;
	bitmap_word needed[GUEST / 64 + 1], unknown[GUEST / 64 + 1];
	struct working_set set;
};

static int setup(void **state)
{
	struct merge_test *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	memset(t->image.id, 'a', IMAGE_ID_LEN);
	assert_int_equal(page_map_append(&t->image.map, 20000, 0, 0), 0);
	assert_int_equal(page_map_append(&t->image.map, 8, IMAGE_LAYER_ZERO, 0), 0);
	assert_int_equal(page_map_append(&t->image.map, GUEST - ZEROS - 20008, 0, 20000), 0);
	assert_int_equal(page_map_append(&t->image.map, ZEROS, IMAGE_LAYER_ZERO, 0), 0);
	assert_int_equal(page_map_seal(&t->image.map, NULL), 0);
	assert_int_equal(image_n_pages(&t->image), GUEST);
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	struct merge_test *t = *state;

	page_map_deinit(&t->image.map);
	working_set_deinit(&t->set);
	free(t);
	return 0;
}

static void need(struct merge_test *t, uint64_t gfn, uint64_t n)
{
	for (uint64_t i = gfn; i < gfn + n; i++)
		bitmap_set(t->needed, i);
}

/* Merge what is needed into the set, through the file, and begin anew. */
static struct working_set_verdict merge(struct merge_test *t, uint64_t max_pages)
{
	struct problem problem = PROBLEM_INIT;
	struct working_set_verdict v;
	_cleanup_buf_ struct buf file = {0};
	struct working_set next = {0};

	assert_int_equal(
		working_set_merge(&t->set, &t->image, t->needed, t->unknown, max_pages, &next, &v),
		0);
	working_set_deinit(&t->set);
	t->set = next;
	memset(t->needed, 0, sizeof(t->needed));
	memset(t->unknown, 0, sizeof(t->unknown));
	if (next.n_runs) {
		assert_int_equal(working_set_encode(&t->set, &file), 0);
		working_set_deinit(&t->set);
		assert_int_equal(working_set_decode(file.data, file.len, &problem, &t->set), 0);
	}
	return v;
}

static unsigned score(const struct merge_test *t, uint64_t gfn)
{
	for (size_t i = 0; i < t->set.n_weights; i++)
		if (gfn >= t->set.weights[i].gfn &&
		    gfn - t->set.weights[i].gfn < t->set.weights[i].n_pages)
			return t->set.weights[i].score;
	return 0;
}

static bool in_set(const struct merge_test *t, uint64_t gfn)
{
	for (size_t i = 0; i < t->set.n_runs; i++)
		if (gfn >= t->set.runs[i].gfn && gfn - t->set.runs[i].gfn < t->set.runs[i].n_pages)
			return true;
	return false;
}

/* The table at the head of working-set-merge.c. */
static void test_scores(void **state)
{
	static const uint8_t every[] = {96, 136, 166, 188, 205, 217};
	static const uint8_t once[] = {96, 72, 54, 40, 30, 22, 16, 0};
	static const uint8_t second[] = {96, 72, 118, 88, 130, 97, 136, 102};
	static const uint8_t third[] = {96, 72, 54, 104, 78, 58, 107, 80, 60};
	struct merge_test *t = *state;

	for (unsigned i = 0; i < 40; i++) {
		need(t, 100, 50); /* many, so that the threshold stays */
		if (i == 0)
			need(t, 10, 1);
		if (i % 2 == 0)
			need(t, 20, 1);
		if (i % 3 == 0)
			need(t, 30, 1);
		merge(t, 0);
		assert_int_equal(t->set.recordings, i + 1);
		assert_int_equal(score(t, 100), i < ARRAY_SIZE(every) ? every[i] : score(t, 120));
		assert_int_equal(score(t, 10), once[MIN(i, ARRAY_SIZE(once) - 1)]);
		if (i < ARRAY_SIZE(second))
			assert_int_equal(score(t, 20), second[i]);
		if (i < ARRAY_SIZE(third))
			assert_int_equal(score(t, 30), third[i]);
		assert_true(in_set(t, 100) && in_set(t, 149) && !in_set(t, 150));
		assert_int_equal(in_set(t, 10), i < 2);
		assert_true(in_set(t, 20));
		assert_int_equal(in_set(t, 30), i % 3 != 2);
	}
	assert_int_equal(score(t, 100), 253); /* 189 + 64 */
	assert_int_equal(t->set.threshold, WORKING_SET_THRESHOLD);
}

static void test_nothing(void **state)
{
	struct working_set_verdict v;
	struct merge_test *t = *state;

	v = merge(t, 0);
	assert_int_equal(t->set.n_pages, 0);
	assert_int_equal(v.set_pages, 0);
	need(t, 5, 3);
	merge(t, 0);
	assert_int_equal(t->set.n_pages, 3);
	for (unsigned i = 0; i < 20; i++) /* nobody comes any more */
		merge(t, 0);
	assert_int_equal(t->set.n_pages, 0);
	assert_int_equal(t->set.n_weights, 0);
}

static void test_unknown(void **state)
{
	struct merge_test *t = *state;
	struct working_set_verdict v;

	need(t, 64, 128);
	merge(t, 0);
	for (uint64_t i = 70; i < 100; i++)
		bitmap_set(t->unknown, i);
	need(t, 64, 10);
	v = merge(t, 0);
	assert_int_equal(score(t, 64), 136);
	assert_int_equal(score(t, 72), 136); /* needed is known */
	assert_int_equal(score(t, 80), 96);
	assert_int_equal(score(t, 100), 72);
	assert_int_equal(v.set_pages, 128);
	assert_int_equal(v.hit_pages, 10);
	assert_int_equal(v.unknown_pages, 26);
}

static void test_zeros(void **state)
{
	struct merge_test *t = *state;

	need(t, 19990, 30);		   /* with the short run */
	need(t, GUEST - ZEROS - 5, ZEROS); /* the long one is free */
	merge(t, 32);
	assert_int_equal(t->set.n_runs, 3);
	assert_int_equal(t->set.runs[0].n_pages, 30);
	assert_int_equal(t->set.runs[1].gfn, GUEST - ZEROS - 5);
	assert_int_equal(t->set.runs[1].n_pages, 2);
	assert_int_equal(t->set.runs[2].gfn, GUEST - ZEROS);
	assert_int_equal(t->set.runs[2].n_pages, ZEROS - 5);
}

static void test_bound(void **state)
{
	struct merge_test *t = *state;

	need(t, 1000, 100);
	merge(t, 0);
	need(t, 1000, 100);
	need(t, 0, 500);
	merge(t, 150);
	assert_int_equal(t->set.n_pages, 150); /* the old ones, and the lowest of the new */
	assert_true(in_set(t, 1000) && in_set(t, 1099));
	assert_true(in_set(t, 0) && in_set(t, 49) && !in_set(t, 50));
	assert_int_equal(score(t, 50), WORKING_SET_THRESHOLD - 1); /* as much again is remembered */
	assert_int_equal(score(t, 199), WORKING_SET_THRESHOLD - 1);
	assert_int_equal(score(t, 200), 0);
	need(t, 0, 20000);
	merge(t, 0);
	assert_int_equal(t->set.n_pages, (GUEST - ZEROS - 8) / 2);
}

static void test_refused(void **state)
{
	struct merge_test *t = *state;
	struct working_set ret;

	need(t, 5, 3);
	merge(t, 0);
	t->set.image_id[0] = 'b';
	assert_int_equal(working_set_merge(&t->set, &t->image, t->needed, NULL, 0, &ret, NULL),
			 -EINVAL);
}

/* Against one that looks at every page by itself. */
static void test_random(void **state)
{
	static uint8_t model[GUEST];
	struct merge_test *t = *state;
	uint64_t seed = 7;

	memset(model, 0, sizeof(model));
	for (unsigned round = 0; round < 12; round++) {
		uint64_t pages = 0;

		need(t, 0, 15000); /* always most of it, so that the threshold stays */
		for (unsigned i = 0; i < 60; i++)
			need(t, fixture_random(&seed) % (GUEST - ZEROS - 300), seed % 40);
		for (uint64_t i = 0; i < GUEST; i++) {
			unsigned decayed = model[i] * 3u / 4;
			bool is = bitmap_test(t->needed, i);

			decayed = is ? decayed + 64 : decayed < 16 ? 0 : decayed;
			decayed = is ? MAX(decayed, 96u) : decayed;
			model[i] = (uint8_t)MIN(decayed, 255u);
		}
		merge(t, GUEST);
		assert_int_equal(t->set.threshold, WORKING_SET_THRESHOLD);
		for (size_t k = 0; k < t->set.n_weights; k++)
			for (uint64_t i = 0; i < t->set.weights[k].n_pages; i++) {
				assert_int_equal(model[t->set.weights[k].gfn + i],
						 t->set.weights[k].score);
				pages++;
			}
		for (uint64_t i = 0; i < GUEST; i++) {
			pages -= model[i] != 0;
			assert_int_equal(in_set(t, i), model[i] >= WORKING_SET_THRESHOLD);
		}
		assert_int_equal(pages, 0);
	}
}

/* ---- guests that never do quite the same --------------------------------------------------------
 */

/* @n frames out of [first, first + of), at random but the same for the same seed. */
static void need_frames(struct merge_test *t, uint64_t first, uint64_t of, unsigned n,
			uint64_t seed)
{
	for (unsigned i = 0; i < n; i++)
		need(t, (first + fixture_random(&seed) % of) * 16, 16);
}

struct sum {
	double prefetched, wasted, needed, missed;
};

static void add_up(struct sum *sum, const struct working_set_verdict *v)
{
	sum->prefetched += (double)v->set_pages;
	sum->wasted += (double)(v->set_pages - v->hit_pages);
	sum->needed += (double)v->needed_pages;
	sum->missed += (double)(v->needed_pages - v->hit_pages);
}

static struct sum simulate(struct merge_test *t, unsigned kind, unsigned rounds)
{
	struct sum sum = {0};

	for (unsigned i = 0; i < rounds; i++) {
		uint64_t run = 1000 + i;
		struct working_set_verdict v;

		switch (kind) {
		case 0: /* 93 % always the same, the rest from everywhere */
			need_frames(t, 0, 1000, 350, 1);
			need_frames(t, 0, 2200, 22, run);
			break;
		case 1: /* two workloads that agree to 93 %, in turn */
			need_frames(t, 0, 1000, 350, 1);
			need_frames(t, 1000 + 600 * (i % 2), 600, 26, 2 + i % 2);
			break;
		case 2: /* two that have little in common */
			need_frames(t, 0, 800, 150, 1);
			need_frames(t, 800 + 700 * (i % 2), 700, 150, 2 + i % 2);
			break;
		default: /* both: two workloads and noise */
			need_frames(t, 0, 1000, 350, 1);
			need_frames(t, 1000 + 600 * (i % 2), 600, 13, 2 + i % 2);
			need_frames(t, 0, 2200, 13, run);
		}
		v = merge(t, GUEST);
		if (i >= 2)
			add_up(&sum, &v);
	}
	return sum;
}

static void check_simulation(void **state, unsigned kind, const char *what, double most_wasted,
			     double least_recall)
{
	struct sum s = simulate(*state, kind, 60);
	double wasted = s.wasted / s.prefetched, recall = 1 - s.missed / s.needed;

	print_message(
		"%s: %.1f %% of the prefetched bytes in vain, %.1f %% of the needed ones had\n",
		what, 100 * wasted, 100 * recall);
	assert_true(wasted < most_wasted);
	assert_true(recall > least_recall);
}

static void test_noise(void **state)
{
	check_simulation(state, 0, "noise of 7 %", 0.20, 0.93);
}

static void test_alternating(void **state)
{
	check_simulation(state, 1, "two workloads that agree to 93 %", 0.10, 0.99);
}

static void test_strangers(void **state)
{
	check_simulation(state, 2, "two workloads that agree in half", 0.25, 0.50);
}

static void test_both(void **state)
{
	check_simulation(state, 3, "two workloads and noise", 0.20, 0.93);
}

/* ---- frames -----------------------------------------------------------------------------------
 */

#define DIR_TEST(_f) cmocka_unit_test_setup_teardown(_f, fixture_setup, fixture_teardown)

/* A real image: pages in no order, so that neighbours of the guest are none in the file. */
static struct image *scattered(struct fixture *f, uint64_t n)
{
	_cleanup_free_ uint8_t *page = malloc(DORM_PAGE_SIZE);
	struct image_writer_options options = {.frame_pages = 4};
	struct problem problem = PROBLEM_INIT;
	struct image_writer_stats stats;
	struct image *zero, *image;
	struct image_writer *w;
	uint64_t seed = 3;
	char id[IMAGE_ID_LEN + 1];

	assert_int_equal(image_open_zero(n, &zero), 0);
	assert_int_equal(image_writer_new(f->dirfd, zero, -1, &options, &problem, &w), 0);
	for (uint64_t i = 0; i < n; i++) {
		const uint64_t gfn = i * 37 % n;

		fixture_page(page, gfn % 10 ? 1 : 0, &seed);
		if (gfn % 10 && gfn % 7 == 0) /* some have the same content */
			memset(page, (int)(gfn % 3) + 1, DORM_PAGE_SIZE);
		assert_int_equal(image_writer_add(w, gfn, 1, page, &problem), 0);
	}
	assert_int_equal(image_writer_commit(w, &stats, id, &problem), 0);
	image_writer_free(w);
	image_unref(zero);
	assert_int_equal(image_open(f->dirfd, NULL, &problem, &image), 0);
	return image;
}

static void test_frames(void **state)
{
	_cleanup_(image_unrefp) struct image *image = scattered(*state, 500);
	_cleanup_(working_set_deinit) struct working_set s = {0};
	_cleanup_free_ struct working_set_frames *f = NULL;
	_cleanup_free_ bool *want = calloc(image_layer_frames(image, 0), sizeof(*want));
	uint64_t n_want = 0, n = 0, next = 0;

	assert_non_null(want);
	working_set_init(&s, image);
	for (uint64_t gfn = 40; gfn < 500; gfn += 40)
		assert_int_equal(working_set_add(&s, gfn, 11), 0);
	for (size_t i = 0; i < s.n_runs; i++)
		for (uint64_t k = 0; k < s.runs[i].n_pages; k++) {
			struct page_run run;
			const uint64_t gfn = s.runs[i].gfn + k;

			image_lookup(image, gfn, &run);
			if (run.layer == 0)
				want[(run.slot + gfn - run.gfn) / IMAGE_FRAME_PAGES] = true;
		}
	for (uint32_t i = 0; i < image_layer_frames(image, 0); i++)
		n_want += want[i];
	assert_int_equal(working_set_frames(&s, image, &f), 0);
	assert_int_equal(f->n_frames, n_want);
	assert_true(n_want < 132 && f->n_runs < n_want); /* shared and neighbours: both occur */
	for (size_t i = 0; i < f->n_runs; i++) {
		assert_int_equal(f->runs[i].layer, 0);
		assert_true(i == 0 || f->runs[i].first > next); /* in order, not touching */
		for (uint32_t k = 0; k < f->runs[i].n_frames; k++, n++)
			assert_true(want[f->runs[i].first + k]);
		next = f->runs[i].first + f->runs[i].n_frames;
	}
	assert_int_equal(n, n_want);
}

static void test_no_frames(void **state)
{
	_cleanup_(working_set_deinit) struct working_set s = {0};
	_cleanup_free_ struct working_set_frames *f = NULL;
	_cleanup_(image_unrefp) struct image *image = NULL;

	(void)state;
	assert_int_equal(image_open_zero(100, &image), 0);
	working_set_init(&s, image);
	assert_int_equal(working_set_add(&s, 3, 20), 0);
	assert_int_equal(working_set_frames(&s, image, &f), 0);
	assert_int_equal(f->n_runs, 0);
	assert_int_equal(f->n_frames, 0);
}

#define MERGE_TEST(_f) cmocka_unit_test_setup_teardown(_f, setup, teardown)
TEST_MAIN(MERGE_TEST(test_scores), MERGE_TEST(test_nothing), MERGE_TEST(test_unknown),
	  MERGE_TEST(test_zeros), MERGE_TEST(test_bound), MERGE_TEST(test_refused),
	  MERGE_TEST(test_random), MERGE_TEST(test_noise), MERGE_TEST(test_alternating),
	  MERGE_TEST(test_strangers), MERGE_TEST(test_both), DIR_TEST(test_frames),
	  cmocka_unit_test(test_no_frames))
