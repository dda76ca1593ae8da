/* SPDX-License-Identifier: Apache-2.0 */
#include "image/test-fixture.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "image/codec.h"

static void round_trip(enum image_codec codec, unsigned kind, size_t n_pages,
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
	assert_int_equal(codec_encoder_new(codec, 0, &e), 0);
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
	for (size_t n = 1; n <= IMAGE_FRAME_PAGES; n += 5) {
		round_trip(IMAGE_CODEC_ZSTD, 1, n, IMAGE_CODEC_ZSTD);
		round_trip(IMAGE_CODEC_ZSTD, 2, n, IMAGE_CODEC_NONE); /* noise does not shrink */
		round_trip(IMAGE_CODEC_NONE, 1, n, IMAGE_CODEC_NONE);
	}
}

static void test_bad_options(void **state)
{
	struct codec_encoder *e = NULL;

	assert_int_equal(codec_encoder_new(7, 0, &e), -EINVAL);
	assert_int_equal(codec_encoder_new(IMAGE_CODEC_ZSTD, 1000, &e), -EINVAL);
	assert_int_equal(codec_encoder_new(IMAGE_CODEC_ZSTD, INT32_MIN, &e), -EINVAL);
	assert_null(e);
	assert_int_equal(codec_decode(9, "x", 1, &e, 1), -EBADMSG);
}

static void *decode_in_thread(void *userdata)
{
	round_trip(IMAGE_CODEC_ZSTD, 1, 16, IMAGE_CODEC_ZSTD);
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
	  cmocka_unit_test(test_threads))
