/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/connect-stream.h"

struct seen {
	unsigned n;
	json_int_t sum;
	int result;
};

static int on_message(void *userdata, json_t *message, struct problem *problem)
{
	struct seen *seen = userdata;

	seen->n++;
	seen->sum = seen->sum * 10 + json_integer_value(json_object_get(message, "v"));
	return seen->result;
}

static void add_frame(struct buf *b, uint8_t flags, const char *json)
{
	size_t len = strlen(json);
	uint8_t header[5] = {flags, (uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8),
			     (uint8_t)len};

	assert_int_equal(buf_append(b, header, 5), 0);
	assert_int_equal(buf_append(b, json, len), 0);
}

static struct connect_stream stream_of(struct seen *seen)
{
	return (struct connect_stream){.on_message = on_message, .userdata = seen};
}

/* Three messages and an end with an error, cut at every two places. */
static void test_every_split(void **state)
{
	struct buf b = {0};

	add_frame(&b, 0, "{\"v\":1}");
	add_frame(&b, 0, "{\"v\":2,\"x\":null}");
	add_frame(&b, 0, "{\"v\":3}");
	add_frame(&b, 2, "{\"error\":{\"code\":\"not_found\",\"message\":\"gone\"}}");
	for (size_t i = 0; i <= b.len; i++) {
		for (size_t j = i; j <= b.len; j++) {
			struct seen seen = {0};
			struct connect_stream s = stream_of(&seen);

			assert_int_equal(connect_stream_feed(&s, b.data, i, NULL), 0);
			assert_int_equal(connect_stream_finish(&s, NULL),
					 i == b.len ? 0 : -ENODATA);
			assert_int_equal(connect_stream_feed(&s, b.data + i, j - i, NULL), 0);
			assert_int_equal(connect_stream_feed(&s, b.data + j, b.len - j, NULL), 0);
			assert_int_equal(connect_stream_finish(&s, NULL), 0);
			assert_int_equal(seen.n, 3);
			assert_int_equal(seen.sum, 123);
			assert_string_equal(s.code, "not_found");
			assert_string_equal(s.message, "gone");
			connect_stream_deinit(&s);
		}
	}
	buf_deinit(&b);
}

static void test_good_end(void **state)
{
	struct seen seen = {0};
	struct connect_stream s = stream_of(&seen);
	struct buf b = {0};

	add_frame(&b, 2, "{}");
	assert_int_equal(connect_stream_feed(&s, b.data, b.len, NULL), 0);
	assert_int_equal(connect_stream_finish(&s, NULL), 0);
	assert_string_equal(s.code, "");
	assert_int_equal(connect_stream_feed(&s, "x", 1, NULL), -EBADMSG); /* nothing may follow */
	connect_stream_deinit(&s);
	buf_deinit(&b);
}

static void expect_refused(const void *data, size_t len, int r, const char *why)
{
	struct seen seen = {0};
	struct connect_stream s = stream_of(&seen);
	struct problem problem = PROBLEM_INIT;

	assert_int_equal(connect_stream_feed(&s, data, len, &problem), r);
	assert_non_null(strstr(problem.message, why));
	assert_int_equal(seen.n, 0);
	connect_stream_deinit(&s);
}

static void test_refused(void **state)
{
	expect_refused("\1\0\0\0\2{}", 7, -EBADMSG, "compressed");
	expect_refused("\3\0\0\0\2{}", 7, -EBADMSG, "compressed");
	expect_refused("\4\0\0\0\2{}", 7, -EBADMSG, "unknown kind 0x04");
	expect_refused("\0\0\0\0\0", 5, -EBADMSG, "empty");
	expect_refused("\2\0\0\0\0", 5, -EBADMSG, "empty");
	expect_refused("\0\0\0\0\2{]", 7, -EBADMSG, "not a JSON object");
	expect_refused("\0\0\0\0\2[]", 7, -EBADMSG, "not a JSON object");
	expect_refused("\0\0\0\0\3{}x", 8, -EBADMSG, "not a JSON object");
	expect_refused("\0\0\100\0\1", 5, -EMSGSIZE, "4194305 bytes"); /* one more than allowed */
	expect_refused("\0\377\377\377\377", 5, -EMSGSIZE, "4294967295 bytes");
	expect_refused("HTTP/1.1 200", 12, -EBADMSG, "unknown kind 0x48");
}

static void test_listener_fails(void **state)
{
	struct seen seen = {.result = -ENOMEM};
	struct connect_stream s = stream_of(&seen);

	assert_int_equal(connect_stream_feed(&s, "\0\0\0\0\2{}", 7, NULL), -ENOMEM);
	connect_stream_deinit(&s);
}

/* What we send is what we would accept. */
static void test_own_frame(void **state)
{
	json_t *message = json_pack("{s:i}", "v", 7);
	struct seen seen = {0};
	struct connect_stream s = stream_of(&seen);
	struct buf b = {0};

	assert_int_equal(connect_stream_frame(&b, message), 0);
	assert_memory_equal(b.data, "\0\0\0\0\7{\"v\":7}", 12);
	assert_int_equal(connect_stream_feed(&s, b.data, b.len, NULL), 0);
	assert_int_equal(seen.sum, 7);
	connect_stream_deinit(&s);
	buf_deinit(&b);
	json_decref(message);
}

TEST_MAIN(cmocka_unit_test(test_every_split), cmocka_unit_test(test_good_end),
	  cmocka_unit_test(test_refused), cmocka_unit_test(test_listener_fails),
	  cmocka_unit_test(test_own_frame))
