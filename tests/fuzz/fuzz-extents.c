/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-extents.c - any bytes as a stream of extents
 *
 * However the stream is cut, the same pieces must come out; they ascend and lie within the limits.
 */
#include <stdbool.h>
#include <stdlib.h>

#include "cli/extents.h"
#include "fuzz.h"

struct seen {
	uint64_t sum, next;
};

static void require(bool ok)
{
	if (!ok)
		abort();
}

static int on_piece(void *userdata, uint64_t offset, const void *data, size_t len)
{
	struct seen *s = userdata;
	const uint8_t *bytes = data;

	require(len > 0 && offset >= s->next && len <= EXTENTS_MAX - offset);
	for (size_t i = 0; i < len; i++)
		s->sum = (s->sum * 31 + offset + i) * 31 + bytes[i];
	s->next = offset + len;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct extents_parser whole = {0}, cut = {0};
	struct seen a = {0}, b = {0};
	size_t at = size ? data[size - 1] % size : 0;
	int r = extents_parse(&whole, data, size, on_piece, &a, NULL), q;

	q = extents_parse(&cut, data, at, on_piece, &b, NULL);
	if (!q)
		q = extents_parse(&cut, data + at, size - at, on_piece, &b, NULL);
	require(q == r && a.sum == b.sum && a.next == b.next);
	if (!r)
		require(extents_finish(&whole, NULL) == extents_finish(&cut, NULL));
	return 0;
}
