/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * varint.h - unsigned LEB128: 7 bits per byte, least significant first, high bit means "more"
 *
 * 300 is AC 02. At most 10 bytes for 64 bits. Decoding refuses input that ends early, runs past 64
 * bits, or is longer than it needs to be (so every number has exactly one encoding).
 * Source: DWARF 5 section 7.6; Protocol Buffers encoding guide.
 */
#include <stddef.h>
#include <stdint.h>

#define VARINT_MAX 10

/** varint_put() - encode @v at @out (VARINT_MAX bytes of room). Return: bytes written */
static inline size_t varint_put(uint8_t *out, uint64_t v)
{
	size_t n = 0;

	while (v >= 0x80) {
		out[n++] = (uint8_t)v | 0x80;
		v >>= 7;
	}
	out[n++] = (uint8_t)v;
	return n;
}

/**
 * varint_get() - decode at *@p, which advances past the number
 * @end: first byte that must not be read
 * Return: 0; -EBADMSG, with *@p and *@ret untouched
 */
int varint_get(const uint8_t **p, const uint8_t *end, uint64_t *ret);

/** varint_zigzag() - map small negative numbers to small unsigned ones: 0 -1 1 -2 -> 0 1 2 3 */
static inline uint64_t varint_zigzag(int64_t v)
{
	return ((uint64_t)v << 1) ^ (uint64_t)(v >> 63);
}

static inline int64_t varint_unzigzag(uint64_t v)
{
	return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}
