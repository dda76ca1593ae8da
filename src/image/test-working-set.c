/* SPDX-License-Identifier: Apache-2.0 */
#include "image/working-set.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/fd.h"
#include "base/file.h"
#include "image/compact.h"
#include "image/image-internal.h"
#include "image/le.h"
#include "image/snapshot.h"
#include "image/store.h"
#include "image/test-fixture.h"

#define GUEST 1000u

/* ---- the file ---------------------------------------------------------------------------------
 */

static struct working_set new_set(uint64_t guest_pages)
{
	struct working_set s = {.guest_pages = guest_pages};

	memset(s.image_id, 'a', IMAGE_ID_LEN);
	return s;
}

static void encode(const struct working_set *s, struct buf *ret)
{
	assert_int_equal(working_set_encode(s, ret), 0);
}

static void check_same(const struct working_set *a, const struct working_set *b)
{
	assert_string_equal(a->image_id, b->image_id);
	assert_int_equal(a->guest_pages, b->guest_pages);
	assert_int_equal(a->n_pages, b->n_pages);
	assert_int_equal(a->n_runs, b->n_runs);
	assert_memory_equal(a->runs, b->runs, a->n_runs * sizeof(*a->runs));
	assert_int_equal(a->recordings, b->recordings);
	assert_int_equal(working_set_threshold(a), working_set_threshold(b));
	assert_int_equal(a->n_weights, b->n_weights);
	for (size_t i = 0; i < a->n_weights; i++) {
		assert_int_equal(a->weights[i].gfn, b->weights[i].gfn);
		assert_int_equal(a->weights[i].n_pages, b->weights[i].n_pages);
		assert_int_equal(a->weights[i].score, b->weights[i].score);
	}
}

static void test_adding(void **state)
{
	struct working_set s = new_set(GUEST);
	struct buf file = {0};

	assert_int_equal(working_set_encode(&s, &file), -EINVAL); /* empty */
	assert_int_equal(working_set_add(&s, 3, 0), -EINVAL);
	assert_int_equal(working_set_add(&s, GUEST, 1), -EINVAL);
	assert_int_equal(working_set_add(&s, 3, GUEST - 2), -EINVAL);
	assert_int_equal(working_set_add(&s, UINT64_MAX, 2), -EINVAL);
	assert_int_equal(working_set_add(&s, 3, 2), 0);
	assert_int_equal(working_set_add(&s, 4, 1), -EINVAL); /* not behind */
	assert_int_equal(working_set_add(&s, 5, 1), 0);	      /* joined */
	assert_int_equal(working_set_add(&s, 10, 1), 0);
	assert_int_equal(s.n_runs, 2);
	assert_int_equal(s.n_pages, 4);
	assert_int_equal(s.runs[0].n_pages, 3);
	working_set_deinit(&s);
}

/* Scores part the weights, not the runs; candidates are in no run. */
static void test_weighing(void **state)
{
	struct working_set s = new_set(GUEST);

	assert_int_equal(working_set_weigh(&s, 3, 2, 0), -EINVAL);
	assert_int_equal(working_set_weigh(&s, 3, 2, 160), 0);
	assert_int_equal(working_set_weigh(&s, 5, 1, 96), 0);
	assert_int_equal(working_set_weigh(&s, 6, 4, 40), 0);
	assert_int_equal(working_set_weigh(&s, 9, 1, 255), -EINVAL);
	assert_int_equal(working_set_add(&s, 9, 1), -EINVAL); /* known already */
	assert_int_equal(working_set_weigh(&s, 10, 1, 255), 0);
	assert_int_equal(working_set_weigh(&s, 11, 1, 255), 0);
	assert_int_equal(s.n_weights, 4);
	assert_int_equal(s.n_runs, 2);
	assert_int_equal(s.n_pages, 5);
	assert_int_equal(s.runs[0].gfn, 3);
	assert_int_equal(s.runs[0].n_pages, 3);
	assert_int_equal(s.runs[1].gfn, 10);
	working_set_deinit(&s);
}

static void test_round_trip(void **state)
{
	for (uint64_t seed = 1; seed < 50; seed++) {
		const uint64_t guest = seed % 5 ? GUEST * seed : IMAGE_MAX_PAGES;
		struct working_set s = new_set(guest), back;
		uint64_t gfn = 0, random = seed;
		struct problem problem = PROBLEM_INIT;
		_cleanup_buf_ struct buf file = {0};

		s.threshold = (uint8_t)(seed % 3 ? 1 + seed * 3 : 0);
		s.recordings = seed * seed;
		while (s.n_weights < 1000) {
			uint64_t gap = fixture_random(&random) % (guest / 50);
			uint64_t n = fixture_random(&random) % 3 ? 1 : 1 + random % 200;
			unsigned score = 1 + (unsigned)fixture_random(&random) % 6 * 50;

			gap = random % 4 ? gap : 0; /* neighbours, too */
			if (gfn + gap + n > guest)
				break;
			assert_int_equal(working_set_weigh(&s, gfn + gap, n, (uint8_t)score), 0);
			gfn += gap + n;
		}
		if (gfn < guest)
			assert_int_equal(working_set_weigh(&s, guest - 1, 1, 255), 0);
		encode(&s, &file);
		assert_int_equal(working_set_decode(file.data, file.len, &problem, &back), 0);
		check_same(&s, &back);
		working_set_deinit(&back);
		working_set_deinit(&s);
	}
}

/* The example of docs/format-image.md: gfn 3, 4, 5 and 10 of a guest of 300 pages. */
static void test_bytes(void **state)
{
	static const uint8_t runs[] = {3, 2, 3, 0};
	static const uint8_t scores[] = {0, 64, 1, 0, 3, 96};
	struct working_set s = new_set(300);
	_cleanup_buf_ struct buf file = {0};
	const uint8_t *p;

	assert_int_equal(working_set_add(&s, 3, 3), 0);
	assert_int_equal(working_set_add(&s, 10, 1), 0);
	encode(&s, &file);
	p = (const uint8_t *)file.data;
	assert_int_equal(file.len, 64 + sizeof(runs) + sizeof(scores) + 16);
	assert_memory_equal(p, "DORMSET\0\2\0\1\0\6\0\0\0", 16);
	assert_int_equal(p[16], 0xaa);
	assert_int_equal(le_get64(p + 32), 300);
	assert_int_equal(le_get64(p + 40), 4);
	assert_int_equal(le_get64(p + 48), 2);
	assert_int_equal(le_get64(p + 56), sizeof(runs));
	assert_memory_equal(p + 64, runs, sizeof(runs));
	assert_memory_equal(p + 64 + sizeof(runs), scores, sizeof(scores));
	working_set_deinit(&s);
}

/* The second example there: with a candidate, and scores that differ. */
static void test_score_bytes(void **state)
{
	static const uint8_t bytes[] = {3,    2,    3, 0,		     /* runs */
					0x14, 0x40, 2, 1,		     /* their head */
					2,    0x60, 0, 0xfd, 1, 6, 3, 0x28}; /* steps, candidate */
	struct working_set s = new_set(300);
	_cleanup_buf_ struct buf file = {0};

	s.recordings = 20;
	assert_int_equal(working_set_weigh(&s, 3, 3, 96), 0);
	assert_int_equal(working_set_weigh(&s, 6, 4, 40), 0);
	assert_int_equal(working_set_weigh(&s, 10, 1, 253), 0);
	encode(&s, &file);
	assert_int_equal(file.len, 64 + sizeof(bytes) + 16);
	assert_memory_equal(file.data + 64, bytes, sizeof(bytes));
	working_set_deinit(&s);
}

static void fit_sum(struct buf *file)
{
	XXH128_canonical_t sum;

	XXH128_canonicalFromHash(&sum, XXH3_128bits(file->data, file->len - 16));
	memcpy(file->data + file->len - 16, sum.digest, 16);
}

/* Change the example at @offset, make the checksum fit, decode. */
static int decode_changed(size_t offset, uint64_t value, size_t bytes, const char *why)
{
	struct working_set s = new_set(300), back = {0};
	struct problem problem = PROBLEM_INIT;
	_cleanup_buf_ struct buf file = {0};
	uint8_t le[8];
	int r;

	assert_int_equal(working_set_add(&s, 3, 3), 0);
	assert_int_equal(working_set_add(&s, 10, 1), 0);
	encode(&s, &file);
	working_set_deinit(&s);
	le_put64(le, value);
	memcpy(file.data + offset, le, bytes);
	fit_sum(&file);
	r = working_set_decode(file.data, file.len, &problem, &back);
	if (r && !strstr(problem.message, why))
		fail_msg("\"%s\" is not in \"%s\"", why, problem.message);
	assert_null(r ? back.runs : NULL);
	working_set_deinit(&back);
	return r;
}

static void test_refused(void **state)
{
	assert_int_equal(decode_changed(0, 'E', 1, "magic"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(8, 3, 2, "newer Dormouse"), IMAGE_E_VERSION);
	assert_int_equal(decode_changed(8, 1, 2, "version 1"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(8, 0, 2, "never existed"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(12, 7, 4, "room"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(12, 5, 4, "room"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(16, 0, 8, ""), 0); /* another image */
	assert_int_equal(decode_changed(32, 0, 8, "guest of 0 pages"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(32, IMAGE_MAX_PAGES + 1, 8, "limit"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(32, 11, 8, ""), 0); /* just so */
	assert_int_equal(decode_changed(32, 10, 8, "run 1 is beyond"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(32, 5, 8, "run 0 is beyond"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(40, 5, 8, "header says 5"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(48, 0, 8, "0 runs"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(48, 1, 8, "left over"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(48, 3, 8, "3 runs in 4 bytes"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(48, UINT64_MAX, 8, "limit"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(56, 3, 8, "room"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(56, UINT64_MAX, 8, "room"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(64, 0x83, 1, "malformed"), IMAGE_E_CORRUPT); /* longer */
	assert_int_equal(decode_changed(66, 0x0083, 2, "malformed"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(67, 0x80, 1, "cut off"), IMAGE_E_CORRUPT);
}

/* In the example: recordings, threshold, steps, candidates, pages - 1, score. */
static void test_refused_scores(void **state)
{
	assert_int_equal(decode_changed(68, 127, 1, ""), 0);
	assert_int_equal(decode_changed(68, 0xffffffffffff, 6, "malformed"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(69, 0, 1, "threshold"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(69, 97, 1, "step that cannot be"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(69, 96, 1, ""), 0);
	assert_int_equal(decode_changed(70, 0, 1, "fewer pages"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(70, 2, 1, "room"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(71, 1, 1, "room"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(72, 2, 1, "fewer pages"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(72, 4, 1, "more pages"), IMAGE_E_CORRUPT);
	assert_int_equal(decode_changed(73, 63, 1, "step that cannot be"), IMAGE_E_CORRUPT);
}

/* The same with scores of one's own: see put_scores() for their order. */
static int decode_scores(const uint8_t *scores, size_t len, const char *why)
{
	struct working_set s = new_set(300), back = {0};
	struct problem problem = PROBLEM_INIT;
	_cleanup_buf_ struct buf file = {0};
	int r;

	assert_int_equal(working_set_add(&s, 3, 3), 0);
	assert_int_equal(working_set_add(&s, 10, 1), 0);
	encode(&s, &file);
	working_set_deinit(&s);
	file.len = 68;
	le_put32((uint8_t *)file.data + 12, (uint32_t)len);
	assert_int_equal(buf_append(&file, scores, len), 0);
	assert_int_equal(buf_append(&file, "0123456789abcdef", 16), 0);
	fit_sum(&file);
	r = working_set_decode(file.data, file.len, &problem, &back);
	if (r && !strstr(problem.message, why))
		fail_msg("\"%s\" is not in \"%s\"", why, problem.message);
	working_set_deinit(&back);
	return r;
}

static void test_candidates(void **state)
{
#define decode_these(_why, ...)                                                                    \
	decode_scores((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), _why)

	/* 2 recordings, threshold 64, two steps: 2 pages 96, 2 pages 100 */
	assert_int_equal(decode_these("", 2, 64, 2, 0, 1, 96, 1, 100), 0);
	assert_int_equal(decode_these("step that", 2, 64, 2, 0, 1, 96, 1, 96), IMAGE_E_CORRUPT);
	assert_int_equal(decode_these("more pages", 2, 64, 1, 0, 3, 96, 1, 100), IMAGE_E_CORRUPT);
	/* candidates 0-2 and 6-9, between the pages of the set */
	assert_int_equal(decode_these("", 2, 64, 1, 2, 3, 96, 0, 2, 40, 3, 3, 40), 0);
	assert_int_equal(decode_these("in the set", 2, 64, 1, 1, 3, 96, 0, 3, 40), IMAGE_E_CORRUPT);
	assert_int_equal(decode_these("in the set", 2, 64, 1, 1, 3, 96, 4, 0, 40), IMAGE_E_CORRUPT);
	assert_int_equal(decode_these("in the set", 2, 64, 1, 1, 3, 96, 6, 4, 40), IMAGE_E_CORRUPT);
	assert_int_equal(decode_these("", 2, 64, 1, 2, 3, 96, 6, 0, 40, 0, 0, 41), 0);
	assert_int_equal(decode_these("candidate that", 2, 64, 1, 2, 3, 96, 6, 0, 40, 0, 0, 40),
			 IMAGE_E_CORRUPT);
	assert_int_equal(decode_these("candidate that", 2, 64, 1, 1, 3, 96, 6, 0, 64),
			 IMAGE_E_CORRUPT);
	assert_int_equal(decode_these("candidate that", 2, 64, 1, 1, 3, 96, 6, 0, 0),
			 IMAGE_E_CORRUPT);
	assert_int_equal(decode_these("", 2, 64, 1, 1, 3, 96, 0xab, 2, 0, 40), 0); /* 299 */
	assert_int_equal(decode_these("beyond", 2, 64, 1, 1, 3, 96, 0xab, 2, 1, 40),
			 IMAGE_E_CORRUPT);
	assert_int_equal(decode_these("beyond", 2, 64, 1, 1, 3, 96, 0xac, 2, 0, 40),
			 IMAGE_E_CORRUPT);
	assert_int_equal(decode_these("more pages", 2, 64, 1, 0, 3, 96, 0), IMAGE_E_CORRUPT);
	assert_int_equal(decode_these("cut off", 2, 64, 1, 1, 3, 96, 6, 0, 0x80), IMAGE_E_CORRUPT);
	assert_int_equal(decode_these("cut off", 2), IMAGE_E_CORRUPT);
}

/* What 2.0 wrote: no scores, and four bytes that nobody looks at. */
static void test_minor_0(void **state)
{
	struct working_set s = new_set(300), back;
	struct problem problem = PROBLEM_INIT;
	_cleanup_buf_ struct buf file = {0};

	assert_int_equal(working_set_add(&s, 3, 3), 0);
	assert_int_equal(working_set_add(&s, 10, 1), 0);
	encode(&s, &file);
	file.len = 68;
	file.data[10] = 0;
	file.data[12] = 99;
	assert_int_equal(buf_append(&file, "0123456789abcdef", 16), 0);
	fit_sum(&file);
	assert_int_equal(file.len, 84);
	assert_int_equal(working_set_decode(file.data, file.len, &problem, &back), 0);
	check_same(&s, &back);
	assert_int_equal(back.weights[0].score, WORKING_SET_FIRST);
	working_set_deinit(&back);
	working_set_deinit(&s);
}

/* What a later minor version adds behind the scores is skipped, in files of that version only. */
static void test_later_minor(void **state)
{
	struct working_set s = new_set(300), back;
	struct problem problem = PROBLEM_INIT;
	_cleanup_buf_ struct buf file = {0};

	assert_int_equal(working_set_add(&s, 3, 3), 0);
	encode(&s, &file);
	assert_int_equal(buf_append(&file, "0123456789", 10), 0);
	fit_sum(&file);
	assert_int_equal(working_set_decode(file.data, file.len, &problem, &back), IMAGE_E_CORRUPT);
	file.data[10] = 2;
	fit_sum(&file);
	assert_int_equal(working_set_decode(file.data, file.len, &problem, &back), 0);
	check_same(&s, &back);
	working_set_deinit(&back);
	working_set_deinit(&s);
}

static void test_every_bit_and_length(void **state)
{
	struct working_set s = new_set(300), back;
	_cleanup_buf_ struct buf file = {0};
	struct problem problem;

	assert_int_equal(working_set_add(&s, 3, 3), 0);
	assert_int_equal(working_set_weigh(&s, 10, 20, 30), 0);
	assert_int_equal(working_set_add(&s, 200, 70), 0);
	encode(&s, &file);
	for (size_t i = 0; i < file.len * 8; i++) {
		problem = PROBLEM_INIT;
		file.data[i / 8] ^= (char)(1 << i % 8);
		assert_int_not_equal(working_set_decode(file.data, file.len, &problem, &back), 0);
		assert_true(problem_is_set(&problem));
		file.data[i / 8] ^= (char)(1 << i % 8);
	}
	for (size_t len = 0; len < file.len; len++) {
		problem = PROBLEM_INIT;
		assert_int_equal(working_set_decode(file.data, len, &problem, &back),
				 IMAGE_E_CORRUPT);
		assert_true(problem_is_set(&problem));
	}
	working_set_deinit(&s);
}

static void test_limits(void **state)
{
	struct working_set s = new_set(IMAGE_MAX_PAGES), back;
	struct problem problem = PROBLEM_INIT;
	_cleanup_buf_ struct buf file = {0};

	for (uint64_t i = 0; i < WORKING_SET_MAX_RUNS; i++)
		assert_int_equal(working_set_add(&s, i * 512, 200), 0);
	assert_int_equal(working_set_add(&s, IMAGE_MAX_PAGES - 1, 1), -EFBIG);
	encode(&s, &file);
	assert_true(file.len <= WORKING_SET_MAX_BYTES);
	assert_int_equal(working_set_decode(file.data, file.len, &problem, &back), 0);
	check_same(&s, &back);
	working_set_deinit(&back);
	working_set_deinit(&s);
}

/* ---- in a directory ---------------------------------------------------------------------------
 */

static void test_outcomes(void **state)
{
	struct problem problem = PROBLEM_INIT;
	struct working_set s = {0};
	struct fixture *f = *state;
	struct image *image;
	int fd;

	assert_int_equal(image_open_zero(GUEST, &image), 0);
	assert_int_equal(working_set_read(f->dirfd, image, &problem, &s), WORKING_SET_E_ABSENT);
	assert_false(problem_is_set(&problem));
	assert_int_equal(working_set_check(f->dirfd, image, &problem), 0);
	working_set_init(&s, image);
	memset(s.image_id, 'b', IMAGE_ID_LEN);
	assert_int_equal(working_set_add(&s, 0, GUEST), 0);
	assert_int_equal(working_set_write(f->dirfd, &s, &problem), 0);
	working_set_deinit(&s);
	assert_int_equal(working_set_read(f->dirfd, image, &problem, &s), WORKING_SET_E_STALE);
	assert_true(problem_is_set(&problem));
	problem = PROBLEM_INIT;
	assert_int_equal(working_set_check(f->dirfd, image, &problem), IMAGE_E_CORRUPT);
	assert_non_null(strstr(problem.message, "the memory is whole"));
	assert_int_equal(unlinkat(f->dirfd, "working-set", 0), 0);
	assert_int_equal(mkfifoat(f->dirfd, "working-set", 0600), 0);
	assert_int_equal(working_set_read(f->dirfd, image, &problem, &s), IMAGE_E_CORRUPT);
	assert_int_equal(unlinkat(f->dirfd, "working-set", 0), 0);
	fd = openat(f->dirfd, "working-set", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, WORKING_SET_MAX_BYTES + 1), 0);
	close(fd);
	problem = PROBLEM_INIT;
	assert_int_equal(working_set_read(f->dirfd, image, &problem, &s), IMAGE_E_CORRUPT);
	assert_non_null(strstr(problem.message, "limit"));
	image_unref(image);
}

/* ---- what it is for ---------------------------------------------------------------------------
 */

#define BIG_PAGES (64u << 20 >> 12)
#define ID	  "sbig000000000000000aa"

static void take_big(struct store *store, uint8_t *memory)
{
	struct manifest m = {.memory_bytes = (uint64_t)BIG_PAGES * DORM_PAGE_SIZE, .id = ID};
	struct problem problem = PROBLEM_INIT;
	struct snapshot_tmp tmp;
	struct image_writer *w;
	struct image *zero;
	uint64_t seed = 5;

	for (uint32_t i = 0; i < BIG_PAGES; i++)
		fixture_page(memory + (size_t)i * DORM_PAGE_SIZE, i % 8 ? 1 + i / 5 % 2 : 0, &seed);
	assert_int_equal(image_open_zero(BIG_PAGES, &zero), 0);
	assert_int_equal(snapshot_begin(store->root_fd, store->root, &problem, &tmp), 0);
	assert_int_equal(image_writer_new(tmp.dirfd, zero, -1, NULL, &problem, &w), 0);
	assert_int_equal(image_writer_add(w, 0, BIG_PAGES, memory, &problem), 0);
	assert_int_equal(image_writer_commit(w, &m.stats, m.image_id, &problem), 0);
	image_writer_free(w);
	image_unref(zero);
	assert_int_equal(snapshot_commit(&tmp, store->root_fd, "snapshots/" ID, &m, NULL, &problem),
			 0);
	snapshot_abort(&tmp, store->root_fd);
}

struct cost {
	uint64_t frames, bytes; /* that have a page of the set */
	uint64_t ranges;	/* of neighbouring frames: as many reads at least */
	uint64_t map_bytes;
};

static struct cost cost_of(struct store *store, const uint8_t *memory)
{
	_cleanup_fd_ int fd = file_open_dir(store->root_fd, "snapshots/" ID);
	_cleanup_(working_set_deinit) struct working_set s = {0};
	_cleanup_(image_unrefp) struct image *image = NULL;
	_cleanup_free_ bool *used = NULL;
	struct problem problem = PROBLEM_INIT;
	struct working_set_walk walk = {.set = &s};
	uint8_t page[DORM_PAGE_SIZE];
	struct page_run run;
	struct cost c = {0};

	assert_int_equal(image_open(fd, NULL, &problem, &image), 0);
	assert_int_equal(working_set_read(fd, image, &problem, &s), 0);
	assert_int_equal(image_n_layers(image), 1);
	used = calloc(image_layer_frames(image, 0), sizeof(*used));
	assert_non_null(used);
	walk.image = image;
	while (working_set_next(&walk, &run))
		for (uint64_t i = 0; i < run.n_pages; i++) {
			assert_int_equal(image_read_page(image, run.gfn + i, page, &problem), 0);
			assert_memory_equal(page, memory + (run.gfn + i) * DORM_PAGE_SIZE,
					    sizeof(page));
			if (run.layer == 0)
				used[(run.slot + i) / IMAGE_FRAME_PAGES] = true;
		}
	for (uint32_t i = 0; i < image_layer_frames(image, 0); i++) {
		c.frames += used[i];
		c.bytes += used[i] ? layer_frame_bytes(image->layers[0], i) : 0;
		c.ranges += used[i] && (i == 0 || !used[i - 1]);
	}
	assert_true(c.ranges != 1 || used[0]);
	c.map_bytes = image_map_bytes(image);
	return c;
}

static void test_one_range(void **state)
{
	struct compact_options options = {.force = true, .codec = IMAGE_CODEC_ZSTD};
	_cleanup_free_ uint8_t *memory = malloc((size_t)BIG_PAGES * DORM_PAGE_SIZE);
	_cleanup_(store_closep) struct store *store = NULL;
	struct problem problem = PROBLEM_INIT;
	struct compact_stats stats;
	struct cost before, after;
	struct fixture *f = *state;
	int fd;

	assert_non_null(memory);
	assert_int_equal(store_open(f->path, &problem, &store), 0);
	take_big(store, memory);
	fd = file_open_dir(store->root_fd, "snapshots/" ID);
	fixture_working_set(fd, 11, 2, 41, BIG_PAGES / 41); /* a twentieth, everywhere */
	before = cost_of(store, memory);
	assert_int_equal(snapshot_compact(store->root_fd, store->root, fd, "snapshots/" ID, true,
					  NULL, &options, &problem, &stats),
			 0);
	close(fd);
	after = cost_of(store, memory);
	print_message(
		"working set of %u pages in 64 MiB: %llu ranges, %llu frames, %llu KiB before; "
		"%llu range, %llu frames, %llu KiB after; map %llu and %llu bytes\n",
		BIG_PAGES / 41 * 2, (unsigned long long)before.ranges,
		(unsigned long long)before.frames, (unsigned long long)before.bytes >> 10,
		(unsigned long long)after.ranges, (unsigned long long)after.frames,
		(unsigned long long)after.bytes >> 10, (unsigned long long)before.map_bytes,
		(unsigned long long)after.map_bytes);
	assert_true(before.ranges > 100);
	assert_int_equal(after.ranges, 1);
	assert_int_equal(after.frames, stats.set_frames);
	assert_true(after.frames * 5 < before.frames && after.bytes * 5 < before.bytes);
	/* a run of the set, one of the rest before the next, and a zero page every eight */
	assert_true(after.map_bytes - before.map_bytes < BIG_PAGES / 41 * 2 * 2);
}

#define DIR_TEST(_f) cmocka_unit_test_setup_teardown(_f, fixture_setup, fixture_teardown)
TEST_MAIN(cmocka_unit_test(test_adding), cmocka_unit_test(test_weighing),
	  cmocka_unit_test(test_refused_scores), cmocka_unit_test(test_candidates),
	  cmocka_unit_test(test_score_bytes), cmocka_unit_test(test_minor_0),
	  cmocka_unit_test(test_round_trip), cmocka_unit_test(test_bytes),
	  cmocka_unit_test(test_refused), cmocka_unit_test(test_later_minor),
	  cmocka_unit_test(test_every_bit_and_length), cmocka_unit_test(test_limits),
	  DIR_TEST(test_outcomes), DIR_TEST(test_one_range))
