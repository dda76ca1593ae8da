/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>

#include "base/varint.h"

static void round_trip(uint64_t v, size_t want_len)
{
	uint8_t b[VARINT_MAX];
	const uint8_t *p = b;
	uint64_t got;
	size_t n = varint_put(b, v);

	if (want_len)
		assert_int_equal(n, want_len);
	assert_int_equal(varint_get(&p, b + n, &got), 0);
	assert_true(got == v);
	assert_ptr_equal(p, b + n);
	for (size_t cut = 0; cut < n; cut++) {
		p = b;
		assert_int_equal(varint_get(&p, b + cut, &got), -EBADMSG);
		assert_ptr_equal(p, b);
	}
}

static void test_round_trip(void **state)
{
	round_trip(0, 1);
	round_trip(127, 1);
	round_trip(128, 2);
	round_trip(300, 2);
	round_trip(UINT64_MAX, 10);
	for (unsigned s = 0; s < 64; s++)
		round_trip(1ull << s, 0);
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

TEST_MAIN(cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refuses))
