/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-http1.c - any bytes as the answer of a server in a guest
 *
 * The first byte says whether a HEAD is answered and how the rest is cut into pieces. However it is
 * cut, the same must come out of it, and never more body than went in.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "api/http1.h"

static void require(bool ok)
{
	if (!ok)
		abort();
}

/* A sum over everything that came out; order counts, where bodies are cut does not. */
static uint64_t take(const char *data, size_t size, size_t step, bool to_head)
{
	struct http1 p;
	uint64_t sum = 1;
	size_t at = 0, bodies = 0;
	int r = HTTP1_MORE;

	http1_init(&p, to_head);
	do {
		const char *body = NULL;
		size_t used = 0, len = 0, give = size - at < step ? size - at : step;

		r = http1_next(&p, data + at, give, &used, &body, &len);
		if (r < 0)
			break;
		require(used <= give && (r != HTTP1_MORE || used == give || p.status == 101));
		at += used;
		if (r == HTTP1_HEAD) {
			sum = sum * 31 + (uint64_t)p.status + p.n_fields;
			require(p.n_fields <= HTTP1_FIELDS_MAX && p.head.len <= HTTP1_HEAD_MAX);
			for (size_t i = 0; i < p.n_fields; i++)
				require(http1_is_token(p.fields[i].name) &&
					http1_is_value(p.fields[i].value));
		}
		if (r == HTTP1_BODY)
			require(len && body >= data && body + len <= data + size);
		for (size_t i = 0; r == HTTP1_BODY && i < len; i++)
			sum = sum * 31 + (uint8_t)body[i];
		bodies += len;
		if (p.status == 101 && r == HTTP1_MORE)
			break;
	} while (r != HTTP1_END && at < size);
	require(bodies <= size);
	if (r != HTTP1_END && r >= 0)
		r = http1_eof(&p);
	sum = sum * 31 + (r < 0);
	http1_deinit(&p);
	return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data + 1;
	uint64_t whole;

	if (size == 0)
		return 0;
	whole = take(text, size - 1, size, data[0] & 1);
	require(whole == take(text, size - 1, 1, data[0] & 1));
	require(whole == take(text, size - 1, 2 + (data[0] >> 1), data[0] & 1));
	return 0;
}
