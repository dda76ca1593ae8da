/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz-base.c - the decoders of base/: varint, base64, numbers and sizes as text, hexadecimal */
#include "fuzz.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/str.h"
#include "base/varint.h"

/* What decodes must encode to the very same bytes: there is one encoding of each number. */
static void varints(const uint8_t *data, size_t size)
{
	const uint8_t *p = data, *before = p;
	uint64_t *all = malloc((size + 1) * sizeof(*all));
	uint8_t again[VARINT_MAX];
	uint64_t v;
	size_t n = 0;

	assert(all);

	while (p < data + size && varint_get(&p, data + size, &v) == 0) {
		assert(varint_put(again, v) == (size_t)(p - before));
		assert(!memcmp(again, before, (size_t)(p - before)));
		before = p;
		n++;
	}
	/* all at once: the same, and not one more */
	p = data;
	assert(varint_get_many(&p, data + size, all, n) == 0 && p == before);
	for (p = data, n = 0; p < before; n++)
		assert(varint_get(&p, data + size, &v) == 0 && v == all[n]);
	p = data;
	assert(varint_get_many(&p, data + size, all, n + 1) < 0 && p == data);
	free(all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), *out = malloc(size + 1), *encoded;
	uint64_t number;
	ssize_t n;

	assert(text && out);
	memcpy(text, data, size);
	text[size] = 0;
	varints(data, size);
	(void)str_to_u64(text, &number);
	(void)str_to_bytes(text, &number);
	(void)str_is_name(text);
	(void)str_unhex(text, out, strlen(text) / 2);
	n = base64_decode(text, size, out);
	if (n >= 0) {
		encoded = malloc(base64_encoded_len((size_t)n) + 1);
		assert(encoded && (size_t)n <= size / 4 * 3 + 3);
		(void)base64_encode(out, (size_t)n, encoded);
		free(encoded);
	}
	free(out);
	free(text);
	return 0;
}
