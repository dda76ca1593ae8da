/* SPDX-License-Identifier: Apache-2.0 */
/*
 * varint.c - decoding without a branch per byte
 *
 * The obvious loop costs a mispredicted branch per number as soon as lengths vary, which is more
 * than all the arithmetic. So a number is decoded from one load of eight bytes: the lowest clear
 * high bit says where it ends, three shift-and-mask steps squeeze the "more" bits out. Numbers of
 * 9 and 10 bytes have 56 bits in those eight and the others in the next two, again without a branch
 * between 9 and 10. Near the end of the input the same is done on a copy, padded with "more" so
 * that a number that is cut off never ends.
 *
 * One at a time, the next load must wait until the length is known: load, count, add, about 11
 * cycles. varint_get_many() takes four numbers per round instead: the high bits of 16 bytes become
 * a mask, in which the four ends are found with few cycles between them. The loads of the four do
 * not wait for each other, and are decoded in pairs with SSE2, which every x86-64 has. What does
 * not fit that (a number of more than eight bytes, or fewer than four in 16) is taken singly.
 *
 * (pext of BMI2 would do the three steps in one, but where it is microcoded it is slower, and a
 * choice at run time costs what it saves.)
 */
#include "base/varint.h"

#include <emmintrin.h>
#include <errno.h>
#include <stdbool.h>

#define PER_ROUND   4u
#define ROUND_BYTES 24u /* 16 looked at, and eight loaded for a number that begins in them */

static uint64_t load(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

/* A number of 9 or 10 bytes: the first eight are @low, all with "more". Return: bytes; 0: none */
static inline size_t get_longest(const uint8_t *p, uint64_t low, uint64_t *ret)
{
	uint64_t b8 = p[8], b9 = p[9], more = b8 >> 7;

	/* the last byte must not be zero, and of the tenth only one bit fits */
	if ((b8 == 0) | (more & (b9 != 1)))
		return 0;
	*ret = varint_join(low) |
	       b8 << 56; /* bit 63 of a number of 10 bytes is set, as "more" is */
	return 9 + more;
}

/* One number at @p, where VARINT_MAX bytes can be read. Return: its bytes, 0: none */
static inline size_t get_one(const uint8_t *p, uint64_t *ret)
{
	uint64_t low = load(p), ends = ~low & VARINT_HIGHS;
	size_t n;

	if (!ends)
		return get_longest(p, low, ret);
	n = ((size_t)__builtin_ctzll(ends) >> 3) + 1;
	low &= ends ^ (ends - 1);
	if (n > 1 && low >> 8 * (n - 1) == 0)
		return 0; /* padded */
	*ret = varint_join(low);
	return n;
}

int varint_get_long(const uint8_t **p, const uint8_t *end, uint64_t *ret)
{
	size_t left = (size_t)(end - *p), n;

	if (left >= VARINT_MAX) {
		n = get_one(*p, ret);
	} else {
		uint8_t copy[VARINT_MAX];

		memset(copy, 0x80, sizeof(copy));
		memcpy(copy, *p, left);
		n = get_one(copy, ret);
	}
	*p += n;
	return n ? 0 : -EBADMSG;
}

/* Two numbers of at most eight bytes, one beginning at each pointer. */
static inline __m128i get_pair(const uint8_t *p, const uint8_t *q)
{
	__m128i v = _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)p),
				       _mm_loadl_epi64((const __m128i *)q));
	__m128i ends = _mm_andnot_si128(v, _mm_set1_epi64x((long long)VARINT_HIGHS));
	__m128i mine = _mm_xor_si128(ends, _mm_add_epi64(ends, _mm_set1_epi64x(-1)));

	v = _mm_and_si128(_mm_and_si128(v, mine), _mm_set1_epi8(0x7f));
	/* as varint_join() */
	v = _mm_or_si128(_mm_and_si128(v, _mm_set1_epi16(0x007f)),
			 _mm_srli_epi16(_mm_and_si128(v, _mm_set1_epi16(0x7f00)), 1));
	v = _mm_or_si128(_mm_and_si128(v, _mm_set1_epi32(0x3fff)),
			 _mm_srli_epi32(_mm_and_si128(v, _mm_set1_epi32(0x3fff0000)), 2));
	return _mm_or_si128(
		_mm_and_si128(v, _mm_set1_epi64x(0x0fffffff)),
		_mm_srli_epi64(_mm_and_si128(v, _mm_set1_epi64x(0x0fffffff00000000)), 4));
}

/*
 * Four numbers from the 16 bytes at @p, ROUND_BYTES of which can be read. Return: bytes; 0: there
 * are not four that are easy. (What is wrong with a bad one is found when it is taken singly.)
 */
static inline size_t get_round(const uint8_t *p, uint64_t *out)
{
	__m128i v = _mm_loadu_si128((const __m128i *)p);
	unsigned more = (unsigned)_mm_movemask_epi8(v), ends = ~more & 0xffff, at[PER_ROUND];
	unsigned zeros = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(v, _mm_setzero_si128()));
	unsigned long_ones = more & more >> 1;

	long_ones &= long_ones >> 2;
	long_ones &= long_ones >> 4; /* eight with "more" in a row */
	for (unsigned i = 0; i < PER_ROUND - 1; i++) {
		at[i] = (unsigned)__builtin_ctz(ends | 0x10000);
		ends &= ends - 1;
	}
	if (!ends | (long_ones != 0) | ((zeros & more << 1) != 0))
		return 0;
	at[3] = (unsigned)__builtin_ctz(ends);
	_mm_storeu_si128((__m128i *)out, get_pair(p, p + at[0] + 1));
	_mm_storeu_si128((__m128i *)(out + 2), get_pair(p + at[1] + 1, p + at[2] + 1));
	return at[3] + 1;
}

int varint_get_many(const uint8_t **p, const uint8_t *end, uint64_t *out, size_t n)
{
	const uint8_t *q = *p;

	while (n >= PER_ROUND && (size_t)(end - q) >= ROUND_BYTES) {
		bool longest = (load(q) & VARINT_HIGHS) == VARINT_HIGHS;
		size_t step = longest ? 0 : get_round(q, out), taken = PER_ROUND;

		if (!step) {
			step = get_one(q, out);
			taken = 1;
		}
		if (!step)
			return -EBADMSG;
		q += step;
		out += taken;
		n -= taken;
	}
	for (; n; n--)
		if (varint_get(&q, end, out++) < 0)
			return -EBADMSG;
	*p = q;
	return 0;
}
