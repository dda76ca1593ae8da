/* SPDX-License-Identifier: Apache-2.0 */
#include "image/test-fixture.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "image/codec.h"

static void round_trip(enum image_codec codec, int level, unsigned kind, size_t n_pages,
		       enum image_codec expected)
{
	_cleanup_(codec_encoder_freep) struct codec_encoder *e = NULL;
	_cleanup_free_ uint8_t *in = malloc(IMAGE_FRAME_BYTES);
	_cleanup_free_ uint8_t *stored = malloc(IMAGE_FRAME_BYTES);
	_cleanup_free_ uint8_t *out = malloc(IMAGE_FRAME_BYTES);
	size_t len = n_pages * DORM_PAGE_SIZE, stored_len = len;
	uint64_t seed = 1;

	assert_true(in && stored && out);
	for (size_t i = 0; i < n_pages; i++)
		fixture_page(in + i * DORM_PAGE_SIZE, kind, &seed);
	assert_int_equal(codec_encoder_new(codec, level, &e), 0);
	for (int again = 0; again < 2; again++) { /* an encoder is used many times */
		assert_int_equal(codec_encode(e, in, len, stored, &stored_len), expected);
		if (expected == IMAGE_CODEC_NONE)
			memcpy(stored, in, len);
		else
			assert_true(stored_len <= len - len / 8);
		assert_int_equal(codec_decode(expected, stored, stored_len, out, len), 0);
		assert_memory_equal(in, out, len);
	}
	/* anything but the exact length is refused */
	assert_int_equal(codec_decode(expected, stored, stored_len - 1, out, len), -EBADMSG);
	if (n_pages > 1)
		assert_int_equal(
			codec_decode(expected, stored, stored_len, out, len - DORM_PAGE_SIZE),
			-EBADMSG);
}

static void test_round_trips(void **state)
{
	static const int zstd_levels[] = {-5, 0, 1, 3, 9, 19}, lz4_levels[] = {0, 1, 3, 9, 12};

	for (size_t n = 1; n <= IMAGE_FRAME_PAGES; n += 5) {
		for (size_t i = 0; i < ARRAY_SIZE(zstd_levels); i++) {
			round_trip(IMAGE_CODEC_ZSTD, zstd_levels[i], 1, n, IMAGE_CODEC_ZSTD);
			/* noise does not shrink */
			round_trip(IMAGE_CODEC_ZSTD, zstd_levels[i], 2, n, IMAGE_CODEC_NONE);
		}
		for (size_t i = 0; i < ARRAY_SIZE(lz4_levels); i++) {
			round_trip(IMAGE_CODEC_LZ4, lz4_levels[i], 1, n, IMAGE_CODEC_LZ4);
			round_trip(IMAGE_CODEC_LZ4, lz4_levels[i], 2, n, IMAGE_CODEC_NONE);
		}
		round_trip(IMAGE_CODEC_NONE, 0, 1, n, IMAGE_CODEC_NONE);
	}
}

static void test_bad_options(void **state)
{
	struct codec_encoder *e = NULL;

	assert_int_equal(codec_encoder_new(7, 0, &e), -EINVAL);
	assert_int_equal(codec_encoder_new(IMAGE_CODEC_ZSTD, 1000, &e), -EINVAL);
	assert_int_equal(codec_encoder_new(IMAGE_CODEC_ZSTD, INT32_MIN, &e), -EINVAL);
	assert_int_equal(codec_encoder_new(IMAGE_CODEC_LZ4, -1, &e), -EINVAL);
	assert_int_equal(codec_encoder_new(IMAGE_CODEC_LZ4, 13, &e), -EINVAL);
	assert_null(e);
	assert_int_equal(codec_decode(9, "x", 1, &e, 1), -EBADMSG);
}

/* A higher level is not smaller by accident: it really is another one. */
static void test_levels(void **state)
{
	static uint8_t in[IMAGE_FRAME_BYTES], out[IMAGE_FRAME_BYTES];
	const struct {
		enum image_codec codec;
		int low, high;
	} pairs[] = {{IMAGE_CODEC_ZSTD, 1, 19}, {IMAGE_CODEC_LZ4, 0, 9}};
	uint64_t seed = 3;

	for (size_t i = 0; i < sizeof(in); i++) /* words of a small vocabulary, no long repeats */
		in[i] = i % 8 ? (uint8_t)(in[i - 1] * 31 + 7)
			      : (uint8_t)(fixture_random(&seed) % 60);
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		size_t len[2] = {0, 0};

		for (int k = 0; k < 2; k++) {
			_cleanup_(codec_encoder_freep) struct codec_encoder *e = NULL;

			assert_int_equal(codec_encoder_new(pairs[i].codec,
							   k ? pairs[i].high : pairs[i].low, &e),
					 0);
			assert_int_equal(codec_encode(e, in, sizeof(in), out, &len[k]),
					 pairs[i].codec);
		}
		assert_true(len[1] < len[0]);
	}
}

static void test_parse(void **state)
{
	static const char *const bad[] = {
		"",	   "zst",   "zstd:",	"zstd:x",  "zstd:23",
		"zstd: 1", "zstd1", "none:1",	"lz4:13",  "lz4:-1",
		"lz4:",	   "LZ4",   "zstd:--1", "zstd:1 ", "zstd:99999999999",
		"lz4,zstd"};
	enum image_codec codec;
	int level;

#define PARSE(_text, _codec, _level)                                                               \
	do {                                                                                       \
		codec = 7;                                                                         \
		level = 77;                                                                        \
		assert_int_equal(image_codec_parse(_text, &codec, &level), 0);                     \
		assert_int_equal(codec, _codec);                                                   \
		assert_int_equal(level, _level);                                                   \
	} while (0)
	PARSE("none", IMAGE_CODEC_NONE, 0);
	PARSE("lz4", IMAGE_CODEC_LZ4, 0);
	PARSE("lz4:9", IMAGE_CODEC_LZ4, 9);
	PARSE("zstd", IMAGE_CODEC_ZSTD, 0);
	PARSE("zstd:3", IMAGE_CODEC_ZSTD, 3);
	PARSE("zstd:-5", IMAGE_CODEC_ZSTD, -5);
#undef PARSE
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(image_codec_parse(bad[i], &codec, &level), -EINVAL);
}

static void *decode_in_thread(void *userdata)
{
	round_trip(IMAGE_CODEC_ZSTD, 0, 1, 16, IMAGE_CODEC_ZSTD);
	return NULL;
}

/* Threads come and go; what each of them kept goes with it (the leak checker watches). */
static void test_threads(void **state)
{
	for (int i = 0; i < 8; i++) {
		pthread_t t;

		assert_int_equal(pthread_create(&t, NULL, decode_in_thread, NULL), 0);
		assert_int_equal(pthread_join(t, NULL), 0);
	}
}

TEST_MAIN(cmocka_unit_test(test_round_trips), cmocka_unit_test(test_bad_options),
	  cmocka_unit_test(test_levels), cmocka_unit_test(test_parse),
	  cmocka_unit_test(test_threads))
