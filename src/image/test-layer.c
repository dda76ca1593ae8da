/* SPDX-License-Identifier: Apache-2.0 */
#include "image/test-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/fd.h"
#include "base/file.h"
#include "image/layer.h"
#include "image/layer-writer.h"
#include "image/le.h"

#define N_FRAMES 5u
#define NAME	 "f00102030405060708090a0b0c0d0e0f"

static const uint8_t id[LAYER_ID_BYTES] = {0xf0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static const uint32_t frame_pages[N_FRAMES] = {16, 2, 2, 1, 7};
static const unsigned frame_kind[N_FRAMES] = {1, 2, 2, 1, 1}; /* text, noise, noise, text, text */

/* A layer's file as bytes, and what its frames hold. */
struct sample {
	uint8_t *memory; /* frame i at i * IMAGE_FRAME_BYTES */
	char *file;
	size_t len;
	uint8_t *out;
	uint8_t *scratch;
};

static void write_sample(struct sample *s, int dirfd, uint32_t n_frames)
{
	struct problem problem = PROBLEM_INIT;
	uint8_t digest[DIGEST_BYTES];
	struct layer_writer *w;
	uint64_t seed = 9, bytes;
	struct stat st;

	assert_int_equal(layer_writer_new(dirfd, id,
					  &(struct layer_options){.codec = IMAGE_CODEC_ZSTD},
					  &problem, &w),
			 0);
	for (uint32_t i = 0; i < n_frames; i++) {
		uint8_t *frame = s->memory + i * IMAGE_FRAME_BYTES;

		for (uint32_t k = 0; k < frame_pages[i]; k++)
			fixture_page(frame + k * DORM_PAGE_SIZE, frame_kind[i], &seed);
		assert_int_equal(layer_writer_add(w, frame, frame_pages[i], &problem), 0);
	}
	assert_int_equal(layer_writer_commit(w, digest, &bytes, &problem), 0);
	layer_writer_free(w);
	assert_int_equal(fstatat(dirfd, NAME, &st, 0), 0);
	assert_int_equal(st.st_size, bytes);
	assert_int_equal(st.st_mode & 07777, 0444);
}

static int setup(void **state)
{
	struct sample *s = calloc(1, sizeof(*s));
	struct fixture *f;
	void *fixture;

	assert_non_null(s);
	s->memory = aligned_alloc(4096, N_FRAMES * IMAGE_FRAME_BYTES);
	s->out = aligned_alloc(4096, IMAGE_FRAME_BYTES);
	s->scratch = malloc(IMAGE_FRAME_BYTES + 4096);
	assert_true(s->memory && s->out && s->scratch);
	(void)fixture_setup(&fixture);
	f = fixture;
	write_sample(s, f->dirfd, N_FRAMES);
	assert_int_equal(file_read(f->dirfd, NAME, 1u << 20, &s->file, &s->len), 0);
	(void)fixture_teardown(&fixture);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct sample *s = *state;

	free(s->memory);
	free(s->file);
	free(s->out);
	free(s->scratch);
	free(s);
	return 0;
}

static int open_bytes(const void *data, size_t len, struct problem *problem, struct layer **ret)
{
	int fd = memfd_create("layer", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(fd_write_full(fd, data, len), 0);
	return layer_open_fd_consume(fd, len, id, NULL, problem, ret);
}

/* Open and read every frame. Return: the first outcome that is not 0 */
static int read_bytes(struct sample *s, const void *data, size_t len, struct problem *problem)
{
	_cleanup_(layer_closep) struct layer *l = NULL;
	uint32_t n_pages;
	int r = open_bytes(data, len, problem, &l);

	for (uint32_t i = 0; r == 0 && i < layer_n_frames(l); i++) {
		memset(s->out, 0xee, IMAGE_FRAME_BYTES);
		r = layer_read_frame(l, i, s->scratch, s->out, &n_pages, problem);
		if (r == 0) {
			assert_int_equal(n_pages, frame_pages[i]);
			assert_memory_equal(s->out, s->memory + i * IMAGE_FRAME_BYTES,
					    n_pages * DORM_PAGE_SIZE);
		} else { /* nothing of a bad frame gets out */
			size_t end = layer_frame_pages(l, i) * DORM_PAGE_SIZE;

			assert_true(s->out[0] == 0 && !memcmp(s->out, s->out + 1, end - 1));
		}
	}
	return r;
}

static void test_round_trip(void **state)
{
	struct sample *s = *state;
	struct problem problem = PROBLEM_INIT;
	struct layer *l;

	assert_int_equal(read_bytes(s, s->file, s->len, &problem), 0);
	assert_int_equal(open_bytes(s->file, s->len, &problem, &l), 0);
	assert_string_equal(layer_id(l), NAME);
	assert_int_equal(layer_bytes(l), s->len);
	assert_int_equal(layer_n_frames(l), N_FRAMES);
	for (uint32_t i = 0; i < N_FRAMES; i++)
		assert_int_equal(layer_frame_pages(l, i), frame_pages[i]);
	layer_close(l);
}

static void test_every_byte(void **state)
{
	struct sample *s = *state;
	unsigned harmless = 0;

	for (size_t i = 0; i < s->len; i++) {
		struct problem problem = PROBLEM_INIT;
		int r;

		s->file[i] ^= (char)(1u << i % 8);
		r = read_bytes(s, s->file, s->len, &problem); /* compares what it can read */
		s->file[i] ^= (char)(1u << i % 8);
		harmless += r == 0;
		if (r) {
			assert_true(r == IMAGE_E_CORRUPT || (r == IMAGE_E_VERSION && i < 10) ||
				    (r == IMAGE_E_VERSION && i >= s->len - 80));
			assert_non_null(strstr(problem.message, "layer " NAME ": "));
		}
	}
	assert_true(harmless < 4096); /* only the gap before the first plain frame */
}

static void test_every_length(void **state)
{
	struct sample *s = *state;

	for (size_t len = 0; len < s->len; len += len < 200 || len > s->len - 400 ? 1 : 61) {
		struct problem problem = PROBLEM_INIT;

		assert_int_equal(read_bytes(s, s->file, len, &problem), IMAGE_E_CORRUPT);
		assert_non_null(strstr(problem.message, "layer " NAME ": "));
	}
}

/* A file that shrinks after it was opened is an error, not a signal. */
static void test_shrinks_while_open(void **state)
{
	struct sample *s = *state;
	struct problem problem = PROBLEM_INIT;
	int fd = memfd_create("layer", MFD_CLOEXEC);
	struct layer *l;
	uint32_t n;

	assert_int_equal(fd_write_full(fd, s->file, s->len), 0);
	assert_int_equal(layer_open_fd_consume(dup(fd), s->len, id, NULL, &problem, &l), 0);
	assert_int_equal(ftruncate(fd, 100), 0);
	assert_int_equal(layer_read_frame(l, 0, s->scratch, s->out, &n, &problem), IMAGE_E_CORRUPT);
	assert_non_null(strstr(problem.message, "frame 0 at offset 64: the file ends within its"));
	layer_close(l);
	close(fd);
}

/* ---- files that lie, with checksums that fit --------------------------------------------------
 */

static uint8_t *footer_of(struct sample *s)
{
	return (uint8_t *)s->file + s->len - LAYER_FOOTER_BYTES;
}

static uint8_t *entry_of(struct sample *s, uint32_t frame)
{
	return footer_of(s) - (N_FRAMES - frame) * LAYER_ENTRY_BYTES;
}

static void refit(struct sample *s)
{
	uint8_t *footer = footer_of(s);
	XXH128_canonical_t digest;

	XXH128_canonicalFromHash(&digest,
				 XXH3_128bits(entry_of(s, 0), N_FRAMES * LAYER_ENTRY_BYTES));
	memcpy(footer + 48, digest.digest, DIGEST_BYTES);
	le_put64(footer + 72, XXH3_64bits(footer, 72));
}

static void expect_refused(struct sample *s, const char *text)
{
	struct problem problem = PROBLEM_INIT;

	refit(s);
	assert_int_equal(read_bytes(s, s->file, s->len, &problem), IMAGE_E_CORRUPT);
	if (!strstr(problem.message, text))
		fail_msg("\"%s\" is not in \"%s\"", text, problem.message);
}

static void test_forged_index(void **state)
{
	struct sample *s = *state;
	uint8_t good[N_FRAMES * LAYER_ENTRY_BYTES], *e1 = entry_of(s, 1), *e3 = entry_of(s, 3);

	memcpy(good, entry_of(s, 0), sizeof(good));
#define FORGE(_change, _text)                                                                      \
	do {                                                                                       \
		_change;                                                                           \
		expect_refused(s, _text);                                                          \
		memcpy(entry_of(s, 0), good, sizeof(good));                                        \
	} while (0)
	FORGE(e1[13] = 0, "index entry 1 at offset");
	FORGE(e1[13] = 17, "number of pages is not 1 to 16");
	FORGE(e1[12] = 7, "unknown codec");
	FORGE(le_put64(e1, le_get64(e1) + 1), "not aligned");
	FORGE(le_put32(e1 + 8, 4096), "another length than its pages");
	FORGE(le_put64(e1, 0), "overlaps what is around it");
	FORGE(le_put64(e1, UINT64_MAX - 4095), "overlaps what is around it");
	FORGE(le_put32(e3 + 8, 0), "empty");
	FORGE(le_put32(e3 + 8, 4096), "not shorter");
	FORGE(le_put64(e3, 64), "overlaps what is around it");
	FORGE(le_put64(e3 + 16, 5), "frame 3 at offset");
	FORGE(e3[13] = 2, "footer counts 28 pages, the index 29");
#undef FORGE
	refit(s);
	assert_int_equal(read_bytes(s, s->file, s->len, NULL), 0);
}

static void test_forged_footer(void **state)
{
	struct sample *s = *state;
	uint8_t good[LAYER_FOOTER_BYTES], *f = footer_of(s);

	memcpy(good, f, sizeof(good));
#define FORGE(_change, _text)                                                                      \
	do {                                                                                       \
		_change;                                                                           \
		expect_refused(s, _text);                                                          \
		memcpy(f, good, sizeof(good));                                                     \
	} while (0)
	FORGE(le_put32(f + 12, 0), "0 frames, limits 1 to");
	FORGE(le_put32(f + 12, UINT32_MAX), "4294967295 frames, limits");
	FORGE(le_put32(f + 12, N_FRAMES - 1), "does not fit");
	FORGE(le_put64(f + 32, 0), "does not fit");
	FORGE(le_put64(f + 32, UINT64_MAX), "does not fit");
	FORGE(le_put64(f + 40, UINT64_MAX), "does not fit");
	FORGE(f[16] ^= 1, "the footer says that this is layer f10102");
	FORGE(le_put64(f + 64, 5), "footer counts 5 pages");
#undef FORGE
}

/* The same bytes in the place of another frame are not that frame. */
static void test_swapped_frames(void **state)
{
	struct sample *s = *state;
	char *a = s->file + le_get64(entry_of(s, 1)), *b = s->file + le_get64(entry_of(s, 2));
	struct problem problem = PROBLEM_INIT;
	char saved[2 * DORM_PAGE_SIZE];
	uint64_t tag;

	memcpy(saved, a, sizeof(saved));
	memcpy(a, b, sizeof(saved));
	memcpy(b, saved, sizeof(saved));
	assert_int_equal(read_bytes(s, s->file, s->len, &problem), IMAGE_E_CORRUPT);
	assert_non_null(strstr(problem.message, "frame 1 at offset"));
	/* not even with the tags swapped as well and all checksums made to fit */
	tag = le_get64(entry_of(s, 1) + 16);
	le_put64(entry_of(s, 1) + 16, le_get64(entry_of(s, 2) + 16));
	le_put64(entry_of(s, 2) + 16, tag);
	expect_refused(s, "frame 1 at offset");
}

static void test_not_zstd(void **state)
{
	struct sample *s = *state;
	uint8_t *entry = entry_of(s, 0);
	char *stored = s->file + le_get64(entry);

	memset(stored + 8, 0x5a, 20);
	le_put64(entry + 16, layer_tag(id, 0, stored, le_get32(entry + 8)));
	refit(s);
	{
		struct problem problem = PROBLEM_INIT;
		struct layer *l;
		uint32_t n;

		assert_int_equal(open_bytes(s->file, s->len, &problem, &l), 0);
		assert_int_equal(layer_read_frame(l, 0, s->scratch, s->out, &n, &problem),
				 IMAGE_E_CORRUPT);
		assert_non_null(strstr(problem.message, "frame 0 at offset 64: does not decode"));
		layer_close(l);
	}
}

/* A sparse file that claims the largest index there can be costs no memory. */
static void test_gigantic_claim(void **state)
{
	struct sample *s = *state;
	struct layer_footer footer = {.n_frames = LAYER_MAX_FRAMES,
				      .index_offset = 1ull << 40,
				      .index_len = (uint64_t)LAYER_MAX_FRAMES * LAYER_ENTRY_BYTES};
	uint64_t end = footer.index_offset + footer.index_len;
	struct problem problem = PROBLEM_INIT;
	int fd = memfd_create("layer", MFD_CLOEXEC);
	uint8_t raw[LAYER_FOOTER_BYTES];
	struct layer *l = NULL;
	int r;

	memcpy(footer.id, id, sizeof(id));
	layer_footer_encode(&footer, raw);
	assert_int_equal(pwrite(fd, s->file, LAYER_HEADER_BYTES, 0), LAYER_HEADER_BYTES);
	assert_int_equal(pwrite(fd, raw, sizeof(raw), (off_t)end), sizeof(raw));
	r = layer_open_fd_consume(fd, end + sizeof(raw), id, NULL, &problem, &l);
	assert_true(r == IMAGE_E_CORRUPT || r == -ENOMEM); /* where memory is not overcommitted */
	assert_null(l);
	if (r > 0)
		assert_non_null(strstr(problem.message, "index entry 0 at offset 1099511627776"));
}

/* ---- other forms ------------------------------------------------------------------------------
 */

/* A file of format 1.0: nothing but the version was there; what was reserved means nothing. */
static void test_version_1(void **state)
{
	struct sample *s = *state;
	uint8_t *file = (uint8_t *)s->file, *footer = footer_of(s);

	le_put16(file + 8, 1);
	le_put16(footer + 8, 1);
	file[32] = 1; /* no seal: that came with 2.0 */
	le_put64(file + 56, XXH3_64bits(file, 56));
	refit(s);
	assert_int_equal(read_bytes(s, s->file, s->len, NULL), 0);
	le_put16(file + 8, 2);
	file[32] = 9;
	le_put64(file + 56, XXH3_64bits(file, 56));
	expect_refused(s, "unknown seal 9");
}

static const uint8_t key[LAYER_KEY_BYTES] = {1, 2, 3};

/* The sample's frames as another file. Return: it, open */
static int write_other(struct sample *s, struct fixture *f, const struct layer_options *options,
		       const uint8_t *open_key, struct layer **ret)
{
	struct problem problem = PROBLEM_INIT;
	uint8_t digest[DIGEST_BYTES];
	struct layer_writer *w;
	uint64_t bytes;

	assert_int_equal(layer_writer_new(f->dirfd, id, options, &problem, &w), 0);
	for (uint32_t i = 0; i < N_FRAMES; i++)
		assert_int_equal(layer_writer_add(w, s->memory + i * IMAGE_FRAME_BYTES,
						  frame_pages[i], &problem),
				 0);
	assert_int_equal(layer_writer_commit(w, digest, &bytes, &problem), 0);
	layer_writer_free(w);
	return layer_open(f->dirfd, id, open_key, &problem, ret);
}

static void expect_frames(struct sample *s, const struct layer *l)
{
	uint8_t *scratch = aligned_alloc(4096, 2 * IMAGE_FRAME_BYTES + 4096);
	struct problem problem = PROBLEM_INIT;
	uint32_t n;

	assert_non_null(scratch);
	for (uint32_t i = 0; i < N_FRAMES; i++) {
		assert_int_equal(layer_read_frame(l, i, s->scratch, s->out, &n, &problem), 0);
		assert_int_equal(n, frame_pages[i]);
		assert_memory_equal(s->out, s->memory + i * IMAGE_FRAME_BYTES, n * DORM_PAGE_SIZE);
		assert_int_equal(layer_check_frame(l, i, scratch, &problem), 0);
	}
	free(scratch);
}

static void test_codecs(void **state)
{
	static const enum image_codec codecs[] = {IMAGE_CODEC_NONE, IMAGE_CODEC_LZ4,
						  IMAGE_CODEC_ZSTD};
	struct sample *s = *state;

	for (unsigned i = 0; i < 6; i++) { /* each plain and sealed */
		struct layer_options options = {.codec = codecs[i / 2], .key = i % 2 ? key : NULL};
		struct layer *l;
		void *fixture;

		(void)fixture_setup(&fixture);
		assert_int_equal(write_other(s, fixture, &options, options.key, &l), 0);
		assert_int_equal(layer_is_sealed(l), i % 2);
		assert_int_equal(layer_frame_bytes(l, 0) == 16 * DORM_PAGE_SIZE,
				 options.codec == IMAGE_CODEC_NONE);
		expect_frames(s, l);
		layer_close(l);
		(void)fixture_teardown(&fixture);
	}
}

static void test_sealed(void **state)
{
	struct layer_options options = {.codec = IMAGE_CODEC_ZSTD, .key = key};
	const uint8_t wrong[LAYER_KEY_BYTES] = {1, 2, 4};
	struct sample *s = *state;
	struct problem problem = PROBLEM_INIT;
	struct layer *l, *checked, *foreign;
	void *fixture;
	uint32_t n;

	(void)fixture_setup(&fixture);
	assert_int_equal(write_other(s, fixture, &options, key, &l), 0);
	assert_int_equal(
		layer_open(((struct fixture *)fixture)->dirfd, id, wrong, &problem, &foreign), 0);
	assert_int_equal(layer_read_frame(foreign, 0, s->scratch, s->out, &n, &problem),
			 IMAGE_E_CORRUPT);
	assert_non_null(strstr(problem.message, "its seal does not hold"));
	assert_int_equal(s->out[0], 0);
	problem = PROBLEM_INIT;
	assert_int_equal(
		layer_open(((struct fixture *)fixture)->dirfd, id, NULL, &problem, &checked), 0);
	assert_int_equal(layer_read_frame(checked, 0, s->scratch, s->out, &n, &problem),
			 IMAGE_E_KEY);
	assert_non_null(strstr(problem.message, "no key was given"));
	expect_frames(s, l); /* the key set up in this thread is the right one again */
	layer_close(l);
	layer_close(checked);
	layer_close(foreign);
	(void)fixture_teardown(&fixture);
	/* a key for what is not sealed */
	problem = PROBLEM_INIT;
	{
		int fd = memfd_create("layer", MFD_CLOEXEC);

		assert_int_equal(fd_write_full(fd, s->file, s->len), 0);
		assert_int_equal(layer_open_fd_consume(fd, s->len, id, key, &problem, &l),
				 IMAGE_E_KEY);
		assert_non_null(strstr(problem.message, "not sealed although"));
	}
}

#define LAYER_TEST(_f) cmocka_unit_test_setup_teardown(_f, setup, teardown)
TEST_MAIN(LAYER_TEST(test_round_trip), LAYER_TEST(test_every_byte), LAYER_TEST(test_every_length),
	  LAYER_TEST(test_shrinks_while_open), LAYER_TEST(test_forged_index),
	  LAYER_TEST(test_forged_footer), LAYER_TEST(test_swapped_frames),
	  LAYER_TEST(test_not_zstd), LAYER_TEST(test_gigantic_claim), LAYER_TEST(test_version_1),
	  LAYER_TEST(test_codecs), LAYER_TEST(test_sealed))
