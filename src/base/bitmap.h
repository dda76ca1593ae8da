/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * bitmap.h - a fixed number of bits
 *
 * bitmap_new() gives zeroed words (free() releases them). The plain functions are for one thread;
 * the _atomic ones may race with each other.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t bitmap_word;

/** bitmap_new() - @n_bits zero bits. Return: NULL when out of memory */
bitmap_word *bitmap_new(size_t n_bits);

static inline bool bitmap_test(const bitmap_word *b, size_t i)
{
	return b[i / 64] >> (i % 64) & 1;
}

static inline void bitmap_set(bitmap_word *b, size_t i)
{
	b[i / 64] |= 1ull << (i % 64);
}

static inline void bitmap_clear(bitmap_word *b, size_t i)
{
	b[i / 64] &= ~(1ull << (i % 64));
}

static inline bool bitmap_test_atomic(const bitmap_word *b, size_t i)
{
	return __atomic_load_n(&b[i / 64], __ATOMIC_ACQUIRE) >> (i % 64) & 1;
}

/** bitmap_set_atomic() - set bit @i. Return: its value before */
static inline bool bitmap_set_atomic(bitmap_word *b, size_t i)
{
	return __atomic_fetch_or(&b[i / 64], 1ull << (i % 64), __ATOMIC_ACQ_REL) >> (i % 64) & 1;
}

/** bitmap_clear_atomic() - clear bit @i. Return: its value before */
static inline bool bitmap_clear_atomic(bitmap_word *b, size_t i)
{
	return __atomic_fetch_and(&b[i / 64], ~(1ull << (i % 64)), __ATOMIC_ACQ_REL) >> (i % 64) &
	       1;
}

/** bitmap_count() - number of set bits among the first @n_bits */
size_t bitmap_count(const bitmap_word *b, size_t n_bits);

/** bitmap_next() - first set bit at or after @i, or @n_bits */
size_t bitmap_next(const bitmap_word *b, size_t n_bits, size_t i);
