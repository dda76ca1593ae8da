/* SPDX-License-Identifier: Apache-2.0 */
/* test-transfer-format.c - the worked example of docs/format-transfer.md, and single pieces */
#include "image/test-stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/outcome.h"

#define DOC DORM_SOURCE_DIR "/docs/format-transfer.md"

/* The bytes of the block "```hexdump <name>", which has no repeated lines. */
static void read_example(const char *name, struct buf *ret)
{
	char start[64], line[256];
	bool inside = false;
	FILE *f = fopen(DOC, "re");

	assert_non_null(f);
	(void)snprintf(start, sizeof(start), "```hexdump %s\n", name);
	while (fgets(line, sizeof(line), f)) {
		char *p = line;
		uint8_t byte;

		if (!inside) {
			inside = !strcmp(line, start);
			continue;
		}
		if (!strncmp(line, "```", 3))
			break;
		assert_int_equal(strtoul(line, &p, 16), ret->len);
		while (sscanf(p, " %2hhx", &byte) == 1 && *p != '|') {
			assert_int_equal(buf_append(ret, &byte, 1), 0);
			p += strspn(p, " ") + 2;
		}
	}
	(void)fclose(f);
	assert_true(inside);
}

static void assert_example(const char *name, const void *made, size_t len)
{
	_cleanup_buf_ struct buf want = {0};

	read_example(name, &want);
	if (want.len != len || memcmp(want.data, made, len)) {
		for (size_t i = 0; i < len; i++)
			print_message("%02x%c", ((const uint8_t *)made)[i],
				      i % 16 == 15 ? '\n' : ' ');
		fail_msg("%s: %zu bytes, not the %zu of the document", name, len, want.len);
	}
}

/* A manifest of one byte and a layer that is left out: not a snapshot, but pieces of every kind. */
static void make_stream(struct buf *ret)
{
	struct transfer_item items[] = {
		{.kind = TRANSFER_MANIFEST, .bytes = 1},
		{.kind = TRANSFER_LAYER, .flags = TRANSFER_LEFT_OUT, .bytes = 8296},
	};
	struct stream s = {.n = 2};

	for (unsigned i = 0; i < LAYER_ID_BYTES; i++)
		items[1].layer[i] = (uint8_t)i;
	s.items[0].item = items[0];
	stream_set(&s.items[0], "{", 1);
	s.items[1].item = items[1];
	stream_build(&s, ret);
	stream_deinit(&s);
}

static void test_example(void **state)
{
	_cleanup_buf_ struct buf data = {0};
	struct transfer_chunk zero = {.bytes = 65536, .flags = TRANSFER_ZERO};
	uint8_t raw[TRANSFER_CHUNK_HEAD_BYTES];

	make_stream(&data);
	assert_example("stream", data.data, data.len);
	zero.tag = transfer_tag(2, 3, NULL, 0);
	transfer_chunk_encode(&zero, raw);
	assert_example("zero", raw, sizeof(raw));
}

static void test_header(void **state)
{
	uint8_t raw[TRANSFER_HEADER_BYTES];
	struct problem problem = PROBLEM_INIT;
	uint64_t total = 0;

	transfer_header_encode(1234567, raw);
	assert_int_equal(transfer_header_decode(raw, &problem, &total), 0);
	assert_int_equal(total, 1234567);
	for (size_t i = 0; i < sizeof(raw); i++) {
		int r;

		raw[i] ^= 4;
		total = 1;
		r = transfer_header_decode(raw, &problem, &total);
		assert_true(r == TRANSFER_E_STREAM || r == IMAGE_E_VERSION);
		assert_int_equal(total, 1);
		raw[i] ^= 4;
	}
}

static void test_item(void **state)
{
	const struct transfer_item item = {
		.kind = TRANSFER_LAYER, .number = 7, .bytes = 99, .layer = {1, 2, 3}};
	uint8_t raw[TRANSFER_ITEM_BYTES];
	struct problem problem = PROBLEM_INIT;
	struct transfer_item have;

	transfer_item_encode(&item, raw);
	assert_int_equal(transfer_item_decode(raw, 7, &problem, &have), 0);
	assert_int_equal(have.kind, item.kind);
	assert_int_equal(have.bytes, item.bytes);
	assert_memory_equal(have.layer, item.layer, sizeof(item.layer));
	assert_int_equal(transfer_item_decode(raw, 8, &problem, &have), TRANSFER_E_STREAM);
	for (size_t i = 0; i < sizeof(raw); i++) {
		raw[i] ^= 0x10;
		assert_int_equal(transfer_item_decode(raw, 7, &problem, &have), TRANSFER_E_STREAM);
		raw[i] ^= 0x10;
	}
}

static void test_chunks(void **state)
{
	static const struct {
		uint64_t bytes, n;
		uint32_t last;
	} cases[] = {{0, 0, 0},
		     {1, 1, 1},
		     {1u << 20, 1, 1u << 20},
		     {(1u << 20) + 1, 2, 1},
		     {TRANSFER_MAX_ITEM_BYTES, 1u << 24, 1u << 20}};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(transfer_n_chunks(cases[i].bytes), cases[i].n);
		if (cases[i].n)
			assert_int_equal(transfer_chunk_bytes(cases[i].bytes, cases[i].n - 1),
					 cases[i].last);
	}
	/* the same bytes have another tag in every place */
	assert_true(transfer_tag(1, 0, "a", 1) != transfer_tag(1, 1, "a", 1));
	assert_true(transfer_tag(1, 0, "a", 1) != transfer_tag(2, 0, "a", 1));
	assert_true(transfer_tag(1, 0, "a", 1) != transfer_tag(1, 0, "b", 1));
}

static void test_zero_chunks(void **state)
{
	struct transfer_item item = {.kind = TRANSFER_DISK, .bytes = 100};
	struct transfer_chunk chunk = {.bytes = 100, .flags = TRANSFER_ZERO}, have;
	uint8_t raw[TRANSFER_CHUNK_HEAD_BYTES];
	struct problem problem = PROBLEM_INIT;

	transfer_chunk_encode(&chunk, raw);
	assert_int_equal(transfer_chunk_decode(raw, &item, 0, &problem, &have), 0);
	item.kind = TRANSFER_LAYER;
	assert_int_equal(transfer_chunk_decode(raw, &item, 0, &problem, &have), TRANSFER_E_STREAM);
	item.kind = TRANSFER_DISK;
	item.bytes = 101;
	assert_int_equal(transfer_chunk_decode(raw, &item, 0, &problem, &have), TRANSFER_E_STREAM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_example),	    cmocka_unit_test(test_header),
		cmocka_unit_test(test_item),	    cmocka_unit_test(test_chunks),
		cmocka_unit_test(test_zero_chunks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
