/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/varint.h"

/* ---- the same by the book, to compare with ----------------------------------------------------
 */

static size_t naive_put(uint8_t *out, uint64_t v)
{
	size_t n = 0;

	while (v >= 0x80) {
		out[n++] = (uint8_t)v | 0x80;
		v >>= 7;
	}
	out[n++] = (uint8_t)v;
	return n;
}

static int naive_get(const uint8_t **p, const uint8_t *end, uint64_t *ret)
{
	const uint8_t *q = *p;
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 70; shift += 7) {
		uint8_t b;

		if (q >= end)
			return -EBADMSG;
		b = *q++;
		if (shift == 63 && b > 1)
			return -EBADMSG;
		v |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80)) {
			if (b == 0 && shift)
				return -EBADMSG;
			*p = q;
			*ret = v;
			return 0;
		}
	}
	return -EBADMSG;
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Any bytes: the same outcome, value and length. The copy ends where the allocation ends. */
static void compare(const uint8_t *bytes, size_t len)
{
	_cleanup_free_ uint8_t *copy = malloc(len ? len : 1);
	const uint8_t *p = copy, *q = copy, *end = copy + len;
	uint64_t got = 0, want = 0, v = 77;
	size_t n = 0, before;
	int r;

	assert_non_null(copy);
	memcpy(copy, bytes, len);
	do {
		before = (size_t)(p - copy);
		r = naive_get(&q, end, &want);
		assert_int_equal(varint_get(&p, end, &got), r);
		assert_ptr_equal(p, q);
		assert_true(r < 0 || got == want);
		n += r == 0;
	} while (r == 0);
	assert_int_equal(before, p - copy);
	/* the same all at once */
	if (n) {
		_cleanup_free_ uint64_t *all = calloc(n, sizeof(*all));

		assert_non_null(all);
		p = q = copy;
		assert_int_equal(varint_get_many(&p, end, all, n), 0);
		for (size_t i = 0; i < n; i++) {
			assert_int_equal(naive_get(&q, end, &want), 0);
			assert_true(all[i] == want);
		}
		assert_ptr_equal(p, q);
	}
	p = copy;
	if (n == 0) {
		assert_int_equal(varint_get_many(&p, end, &v, 1), -EBADMSG);
		assert_ptr_equal(p, copy);
	}
}

static void round_trip(uint64_t v, size_t want_len)
{
	uint8_t b[VARINT_MAX], naive[VARINT_MAX];
	const uint8_t *p = b;
	uint64_t got = 1234;
	size_t n = varint_put(b, v);

	if (want_len)
		assert_int_equal(n, want_len);
	assert_int_equal(n, naive_put(naive, v));
	assert_memory_equal(b, naive, n);
	assert_int_equal(varint_get(&p, b + n, &got), 0);
	assert_true(got == v);
	assert_ptr_equal(p, b + n);
	for (size_t cut = 0; cut < n; cut++) {
		p = b;
		got = 99;
		assert_int_equal(varint_get(&p, b + cut, &got), -EBADMSG);
		assert_ptr_equal(p, b);
		assert_int_equal(got, 99);
		compare(b, cut);
	}
}

static void test_round_trip(void **state)
{
	round_trip(0, 1);
	round_trip(127, 1);
	round_trip(128, 2);
	round_trip(300, 2);
	round_trip(UINT64_MAX, 10);
	for (uint64_t v = 0; v < 40000; v++)
		round_trip(v, 0);
	for (unsigned s = 0; s < 64; s++)
		for (int64_t d = -2; d <= 2; d++)
			round_trip((1ull << s) + (uint64_t)d, 0);
	for (int64_t v = -300; v < 300; v++)
		assert_true(varint_unzigzag(varint_zigzag(v)) == v);
	assert_true(varint_unzigzag(varint_zigzag(INT64_MIN)) == INT64_MIN);
}

static void refuse(const uint8_t *b, size_t n)
{
	const uint8_t *p = b;
	uint64_t v;

	assert_int_equal(varint_get(&p, b + n, &v), -EBADMSG);
}

static void test_refuses(void **state)
{
	static const uint8_t padded[] = {0x80, 0x00};
	static const uint8_t wide[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02};
	static const uint8_t endless[] = {0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
					  0x80, 0x80, 0x80, 0x80, 0x01};

	refuse(padded, sizeof(padded));
	refuse(wide, sizeof(wide));
	refuse(endless, sizeof(endless));
}

/* Every pattern of bytes from a few that matter, up to nine of them, with and without more after */
static void test_patterns(void **state)
{
	static const uint8_t kinds[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
	uint8_t b[48];

	for (size_t len = 1; len <= 6; len++) {
		size_t n = 1;

		for (size_t i = 0; i < len; i++)
			n *= ARRAY_SIZE(kinds);
		for (size_t x = 0; x < n; x++) {
			size_t rest = x;

			for (size_t i = 0; i < len; i++, rest /= ARRAY_SIZE(kinds))
				b[i] = kinds[rest % ARRAY_SIZE(kinds)];
			compare(b, len);
		}
	}
	/* around the two ends of a long number, and in the middle of a long input */
	for (size_t before = 0; before <= 24; before++)
		for (unsigned x = 0; x < 625; x++) {
			memset(b, 0x01, sizeof(b));
			memset(b + before, 0x80, 10);
			b[before + 7] = kinds[x % 5];
			b[before + 8] = kinds[x / 5 % 5];
			b[before + 9] = kinds[x / 25 % 5];
			b[before + 1] = kinds[x / 125];
			compare(b, sizeof(b));
			compare(b, before + 10);
		}
}

/* Numbers of random lengths, cut at every place near the end, and with one byte changed. */
static void test_random(void **state)
{
	uint64_t seed = 42;
	uint8_t b[40 * VARINT_MAX];

	for (unsigned round = 0; round < 20000; round++) {
		unsigned widest = (unsigned)(next_random(&seed) % 10);
		size_t len = 0;

		for (unsigned i = next_random(&seed) % 40; i; i--) {
			uint64_t v =
				next_random(&seed) >> (63 - next_random(&seed) % (7 * widest + 1));

			len += varint_put(b + len, v);
		}
		compare(b, len);
		if (len)
			compare(b, next_random(&seed) % len);
		if (len)
			b[next_random(&seed) % len] = (uint8_t)next_random(&seed);
		compare(b, len);
	}
}

TEST_MAIN(cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refuses),
	  cmocka_unit_test(test_patterns), cmocka_unit_test(test_random))
