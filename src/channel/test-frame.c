/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "channel/frame.h"

static const struct hello hello_a = {HELLO_VERSION, "0123456789abcdef"};
static const uint8_t marker[FRAME_MARKER_LEN];

/* Feed bytes; count what comes out, remember the last frame. */
struct feed {
	unsigned ready;
	unsigned dropped;
	uint8_t type;
	size_t len;
	uint8_t first, last;
};

static void feed(struct frame_parser *p, const void *data, size_t len, struct feed *f)
{
	const uint8_t *d = data;
	enum frame_result r;

	while ((r = frame_next(p, &d, &len)) != FRAME_MORE) {
		if (r == FRAME_DROPPED) {
			f->dropped++;
			continue;
		}
		f->ready++;
		f->type = p->type;
		f->len = p->len;
		f->first = p->len ? p->payload[0] : 0;
		f->last = p->len ? p->payload[p->len - 1] : 0;
	}
	assert_int_equal(len, 0);
}

static void frame_make(struct fifo *out, enum frame_type type, size_t len)
{
	uint8_t payload[FRAME_PAYLOAD_MAX];

	for (size_t i = 0; i < len; i++)
		payload[i] = (uint8_t)(i * 31 + 1);
	assert_int_equal(frame_put(out, type, payload, len), 0);
}

static void test_round_trip_every_split(void **state)
{
	static const size_t lens[] = {0, 1, 2, 255, 256, 300};
	struct frame_parser *p = malloc(sizeof(*p));

	for (size_t k = 0; k < sizeof(lens) / sizeof(*lens); k++) {
		struct fifo f = {0};

		frame_make(&f, FRAME_DATA, lens[k]);
		assert_int_equal(f.len, lens[k] + 4);
		for (size_t cut = 0; cut <= f.len; cut++) {
			struct feed got = {0};

			frame_parser_init(p);
			feed(p, fifo_front(&f), cut, &got);
			assert_int_equal(got.ready, cut == f.len);
			feed(p, fifo_front(&f) + cut, f.len - cut, &got);
			assert_int_equal(got.ready, 1);
			assert_int_equal(got.dropped, 0);
			assert_int_equal(got.type, FRAME_DATA);
			assert_int_equal(got.len, lens[k]);
			assert_int_equal(got.last, lens[k] ? (uint8_t)((lens[k] - 1) * 31 + 1) : 0);
		}
		fifo_deinit(&f);
	}
	free(p);
}

/* After any beginning of any frame: marker and HELLO give exactly the HELLO. */
static void truncation_is_completed(struct frame_parser *p, const char *data, size_t cut)
{
	struct feed got = {0};
	struct fifo h = {0};

	frame_parser_init(p);
	feed(p, data, cut, &got);
	assert_int_equal(got.ready, 0);
	feed(p, marker, sizeof(marker), &got);
	assert_int_equal(p->state, FRAME_STATE_BETWEEN);
	assert_int_equal(got.ready, 0);
	assert_int_equal(got.dropped, cut > 0);
	assert_int_equal(hello_put(&h, FRAME_HELLO, &hello_a), 0);
	feed(p, fifo_front(&h), h.len, &got);
	assert_int_equal(got.ready, 1);
	assert_int_equal(got.type, FRAME_HELLO);
	fifo_deinit(&h);
}

static void test_marker_completes_every_truncation(void **state)
{
	static const size_t lens[] = {0, 1, 255, 256, 4096, FRAME_PAYLOAD_MAX};
	struct frame_parser *p = malloc(sizeof(*p));

	for (size_t k = 0; k < sizeof(lens) / sizeof(*lens); k++) {
		struct fifo f = {0};

		frame_make(&f, FRAME_DATA, lens[k]);
		for (size_t cut = 0; cut < f.len; cut += cut < 300 || cut + 10 > f.len ? 1 : 7)
			truncation_is_completed(p, fifo_front(&f), cut);
		truncation_is_completed(p, fifo_front(&f), f.len - 1);
		fifo_deinit(&f);
	}
	free(p);
}

/* One zero less than the contract still works; the spare is real. */
static void test_marker_has_spare(void **state)
{
	static const uint8_t head[] = {FRAME_DATA, 0x00, 0x40};
	struct frame_parser *p = malloc(sizeof(*p));
	struct feed got = {0};

	frame_parser_init(p);
	feed(p, head, sizeof(head), &got);
	feed(p, marker, sizeof(marker) - 7, &got);
	assert_int_equal(p->state, FRAME_STATE_BETWEEN);
	frame_parser_init(p);
	feed(p, head, sizeof(head), &got);
	feed(p, marker, sizeof(marker) - 8, &got);
	assert_int_equal(p->state, FRAME_STATE_TRAILER);
	free(p);
}

static void lost_is_found(struct frame_parser *p, const void *junk, size_t len)
{
	struct feed got = {0};
	struct fifo h = {0};

	frame_parser_init(p);
	feed(p, junk, len, &got);
	assert_int_equal(got.dropped, 1);
	assert_int_equal(p->state, FRAME_STATE_LOST);
	assert_int_equal(hello_put(&h, FRAME_HELLO, &hello_a), 0);
	feed(p, fifo_front(&h), h.len, &got); /* without a marker nothing is believed */
	assert_int_equal(got.ready, 0);
	feed(p, marker, sizeof(marker), &got);
	feed(p, fifo_front(&h), h.len, &got);
	assert_int_equal(got.ready, 1);
	fifo_deinit(&h);
}

static void test_lost(void **state)
{
	static const uint8_t unknown_type[] = {0x7F}, too_long[] = {FRAME_DATA, 0x01, 0x40},
			     bad_trailer[] = {FRAME_DATA, 1, 0, 'x', 0x5B};
	struct frame_parser *p = malloc(sizeof(*p));

	lost_is_found(p, unknown_type, sizeof(unknown_type));
	lost_is_found(p, too_long, sizeof(too_long));
	lost_is_found(p, bad_trailer, sizeof(bad_trailer));
	free(p);
}

static void test_put_data_splits(void **state)
{
	struct frame_parser *p = malloc(sizeof(*p));
	uint8_t *data = calloc(1, 2 * FRAME_PAYLOAD_MAX + 5);
	struct fifo f = {0};
	struct feed got = {0};

	assert_int_equal(frame_put_data(&f, data, 2 * FRAME_PAYLOAD_MAX + 5), 0);
	frame_parser_init(p);
	feed(p, fifo_front(&f), f.len, &got);
	assert_int_equal(got.ready, 3);
	assert_int_equal(got.len, 5);
	fifo_deinit(&f);
	free(data);
	free(p);
}

static void test_hello_parse(void **state)
{
	struct fifo f = {0};
	struct hello h;
	char payload[HELLO_PAYLOAD_LEN];

	assert_int_equal(hello_put(&f, FRAME_HELLO, &hello_a), 0);
	assert_int_equal(f.len, HELLO_FRAME_LEN);
	memcpy(payload, fifo_front(&f) + 3, sizeof(payload));
	assert_int_equal(hello_parse(payload, sizeof(payload), &h), 0);
	assert_memory_equal(&h, &hello_a, sizeof(h));
	assert_int_equal(hello_parse(payload, sizeof(payload) - 1, &h), -EBADMSG);
	for (size_t i = 0; i < 8; i++) {
		payload[i] ^= 1;
		assert_int_equal(hello_parse(payload, sizeof(payload), &h), -EBADMSG);
		payload[i] ^= 1;
	}
	fifo_deinit(&f);
}

/* Old output of every length before it, other nonces, other versions; seen only when complete. */
static void test_find_reply(void **state)
{
	struct hello other = hello_a, newer = hello_a;
	struct fifo f = {0};
	uint8_t version;
	size_t end;

	other.nonce[15] ^= 1;
	newer.version = 9;
	for (size_t junk = 0; junk < 70; junk++) {
		size_t full;

		for (size_t i = 0; i < junk; i++)
			assert_int_equal(fifo_append(&f, i % 3 ? "\xD2" : "\x19", 1), 0);
		assert_int_equal(hello_put(&f, FRAME_HELLO_REPLY, &other), 0);
		assert_int_equal(hello_put(&f, FRAME_HELLO, &hello_a), 0);
		assert_int_equal(hello_put(&f, FRAME_HELLO_REPLY, junk % 2 ? &newer : &hello_a), 0);
		full = f.len;
		assert_int_equal(fifo_append(&f, "next", 4), 0);
		for (size_t len = 0; len <= f.len; len++) {
			bool found = hello_find_reply(fifo_front(&f), len, hello_a.nonce, &version,
						      &end);

			assert_int_equal(found, len >= full);
			if (found) {
				assert_int_equal(end, full);
				assert_int_equal(version, junk % 2 ? 9 : HELLO_VERSION);
			}
		}
		fifo_deinit(&f);
	}
}

TEST_MAIN(cmocka_unit_test(test_round_trip_every_split),
	  cmocka_unit_test(test_marker_completes_every_truncation),
	  cmocka_unit_test(test_marker_has_spare), cmocka_unit_test(test_lost),
	  cmocka_unit_test(test_put_data_splits), cmocka_unit_test(test_hello_parse),
	  cmocka_unit_test(test_find_reply))
