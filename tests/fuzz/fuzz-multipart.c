/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-multipart.c - any body, after a line that stands for its Content-Type
 *
 * What comes out must not depend on how the body arrives: whole, and in pieces whose size is the
 * first byte.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "agent/multipart.h"

/* A sum over the calls and the data; order counts, cuts do not. */
static int on_begin(void *userdata, const char *name, const char *filename)
{
	uint64_t *sum = userdata;

	*sum = *sum * 31 + 1;
	for (; name && *name; name++)
		*sum = *sum * 31 + (uint8_t)*name;
	for (; filename && *filename; filename++)
		*sum = *sum * 37 + (uint8_t)*filename;
	return 0;
}

static int on_data(void *userdata, const void *data, size_t len)
{
	uint64_t *sum = userdata;

	for (size_t i = 0; i < len; i++)
		*sum = *sum * 41 + ((const uint8_t *)data)[i];
	return 0;
}

static int on_end(void *userdata)
{
	uint64_t *sum = userdata;

	*sum = *sum * 31 + 2;
	return 0;
}

static const struct multipart_ops ops = {on_begin, on_data, on_end};

static uint64_t parse(const char *type, const char *data, size_t size, size_t piece)
{
	struct multipart m;
	uint64_t sum = 0;
	int r = multipart_init(&m, type, &ops, &sum);

	for (size_t at = 0; r == 0 && at < size; at += piece)
		r = multipart_feed(&m, data + at, size - at < piece ? size - at : piece);
	if (r == 0)
		r = multipart_finish(&m);
	/* what came before an error may have been handed on or not, depending on the cut */
	sum = r ? 0 : sum;
	multipart_deinit(&m);
	return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *end = size ? memchr(data, '\n', size) : NULL;
	char type[256] = "";
	size_t piece, n;

	if (!end)
		return 0;
	piece = data[0] % 16 + 1;
	n = (size_t)(end - data);
	memcpy(type, data, n < sizeof(type) ? n : sizeof(type) - 1);
	data = end + 1;
	size -= n + 1;
	if (parse(type, (const char *)data, size, piece) !=
	    parse(type, (const char *)data, size, size + 1))
		abort();
	return 0;
}
