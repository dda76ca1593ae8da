/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * varint.h - unsigned LEB128: 7 bits per byte, least significant first, high bit means "more"
 *
 * 300 is AC 02. At most 10 bytes for 64 bits. Decoding refuses input that ends early, runs past 64
 * bits, or is longer than it needs to be (so every number has exactly one encoding).
 * Nothing here allocates. How it is fast: see varint.c.
 * Source: DWARF 5 section 7.6; Protocol Buffers encoding guide.
 */
#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define VARINT_MAX   10
#define VARINT_HIGHS 0x8080808080808080ull /* the "more" bits of eight bytes */

/** varint_spread() - the low 56 bits of @v in eight groups of 7, one per byte */
static inline uint64_t varint_spread(uint64_t v)
{
	v = (v & 0x000000000fffffff) | (v & 0x00fffffff0000000) << 4;
	v = (v & 0x00003fff00003fff) | (v & 0x0fffc0000fffc000) << 2;
	return (v & 0x007f007f007f007f) | (v & 0x3f803f803f803f80) << 1;
}

/** varint_join() - the reverse; the high bit of each byte is ignored */
static inline uint64_t varint_join(uint64_t v)
{
	v = (v & 0x007f007f007f007f) | (v & 0x7f007f007f007f00) >> 1;
	v = (v & 0x00003fff00003fff) | (v & 0x3fff00003fff0000) >> 2;
	return (v & 0x000000000fffffff) | (v & 0x0fffffff00000000) >> 4;
}

/**
 * varint_put() - encode @v at @out
 * @out: VARINT_MAX bytes of room, all of which may be written whatever the length
 * Return: bytes that count
 */
static inline size_t varint_put(uint8_t *out, uint64_t v)
{
	uint64_t groups = varint_spread(v);

	if (v >> 56 == 0) {
		size_t n = (size_t)(70 - __builtin_clzll(v | 1)) / 7;

		groups = htole64(groups | (VARINT_HIGHS & ((1ull << 8 * (n - 1)) - 1)));
		memcpy(out, &groups, sizeof(groups));
		return n;
	}
	groups = htole64(groups | VARINT_HIGHS);
	memcpy(out, &groups, sizeof(groups));
	out[8] = (uint8_t)(v >> 56); /* bit 63 is where "more" belongs */
	out[9] = 1;
	return 9 + (size_t)(v >> 63);
}

/* What varint_get() does with numbers of more than one byte, and without bytes. */
int varint_get_long(const uint8_t **p, const uint8_t *end, uint64_t *ret);

/**
 * varint_get() - decode at *@p, which advances past the number
 * @end: first byte that must not be read
 * Return: 0; -EBADMSG, with *@p and *@ret untouched
 */
static inline int varint_get(const uint8_t **p, const uint8_t *end, uint64_t *ret)
{
	if (*p < end && **p < 0x80) {
		*ret = *(*p)++;
		return 0;
	}
	return varint_get_long(p, end, ret);
}

/**
 * varint_get_many() - decode @n numbers at *@p, faster than one at a time where lengths vary
 * Return: 0, and *@p is past the last; -EBADMSG, with *@p untouched and @out undefined
 */
int varint_get_many(const uint8_t **p, const uint8_t *end, uint64_t *out, size_t n);

/** varint_zigzag() - map small negative numbers to small unsigned ones: 0 -1 1 -2 -> 0 1 2 3 */
static inline uint64_t varint_zigzag(int64_t v)
{
	return ((uint64_t)v << 1) ^ (uint64_t)(v >> 63);
}

static inline int64_t varint_unzigzag(uint64_t v)
{
	return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}
