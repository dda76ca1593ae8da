/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bitmap.h"

#include <stdlib.h>

bitmap_word *bitmap_new(size_t n_bits)
{
	return calloc(n_bits / 64 + 1, sizeof(bitmap_word));
}

size_t bitmap_count(const bitmap_word *b, size_t n_bits)
{
	size_t n = 0;

	for (size_t w = 0; w < n_bits / 64; w++)
		n += (size_t)__builtin_popcountll(b[w]);
	if (n_bits % 64)
		n += (size_t)__builtin_popcountll(b[n_bits / 64] & ((1ull << (n_bits % 64)) - 1));
	return n;
}

size_t bitmap_next(const bitmap_word *b, size_t n_bits, size_t i)
{
	while (i < n_bits) {
		bitmap_word w = b[i / 64] >> (i % 64);

		if (w) {
			i += (size_t)__builtin_ctzll(w);
			return i < n_bits ? i : n_bits;
		}
		i = (i / 64 + 1) * 64;
	}
	return n_bits;
}
