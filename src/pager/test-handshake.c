/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "pager/handshake.h"

#define PAGES 256

static int parse(const char *text, struct handshake *ret)
{
	struct problem problem = PROBLEM_INIT;
	int r = handshake_parse(text, strlen(text), PAGES, ret, &problem);

	assert_int_equal(r == HANDSHAKE_E_BAD, problem_is_set(&problem));
	return r;
}

static void test_firecracker(void **state)
{
	/* as Firecracker 1.12 writes it, with members of before and after */
	const char *text = "[{\"base_host_virt_addr\":139000000004096,\"size\":524288,\"offset\":0,"
			   "\"page_size\":4096,\"page_size_kib\":4096},"
			   "{\"base_host_virt_addr\":138999999471616,\"size\":524288,"
			   "\"offset\":524288,\"page_size_kib\":4,\"future\":{\"a\":[1,\"]\"]}}]\n";
	struct handshake h;

	assert_int_equal(parse(text, &h), 0);
	assert_int_equal(h.n_regions, 2);
	assert_int_equal(h.regions[0].hva, 138999999471616);
	assert_int_equal(h.regions[0].gfn, 128);
	assert_int_equal(h.regions[0].n_pages, 128);
	assert_int_equal(h.regions[1].gfn, 0);
	/* every beginning asks for more, wherever the stream was cut */
	for (size_t n = 0; n < strlen(text) - 1; n++)
		assert_int_equal(handshake_parse(text, n, PAGES, &h, NULL), HANDSHAKE_E_MORE);
}

static void test_refused(void **state)
{
	static const char *const texts[] = {
		"x",
		"{}",
		"\"[\"",
		"[]",
		"[1]",
		"[[]]",
		"[}",
		"[] []",
		"[{}]",
		"[{\"base_host_virt_addr\":4096,\"size\":4096}]",
		"[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":-4096}]",
		"[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":1}]",
		"[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0.0}]",
		"[{\"base_host_virt_addr\":\"4096\",\"size\":4096,\"offset\":0}]",
		"[{\"base_host_virt_addr\":0,\"size\":4096,\"offset\":0}]",
		"[{\"base_host_virt_addr\":4097,\"size\":4096,\"offset\":0}]",
		"[{\"base_host_virt_addr\":4096,\"size\":0,\"offset\":0}]",
		"[{\"base_host_virt_addr\":4096,\"size\":100,\"offset\":0}]",
		"[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":1048576}]",
		"[{\"base_host_virt_addr\":4096,\"size\":1052672,\"offset\":0}]",
		"[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0,\"page_size\":2097152}]",
		"[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0,\"page_size_kib\":2048}"
		"]",
		"[{\"base_host_virt_addr\":9223372036854771712,\"size\":4096,\"offset\":0}]",
		"[{\"base_host_virt_addr\":4096,\"size\":9223372036854771712,\"offset\":4096}]",
		"[{\"base_host_virt_addr\":99999999999999999999,\"size\":4096,\"offset\":0}]",
		"[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0,\"offset\":0}]",
		/* the same addresses twice, the same memory twice */
		"[{\"base_host_virt_addr\":8192,\"size\":8192,\"offset\":0},"
		"{\"base_host_virt_addr\":12288,\"size\":4096,\"offset\":65536}]",
		"[{\"base_host_virt_addr\":8192,\"size\":8192,\"offset\":0},"
		"{\"base_host_virt_addr\":65536,\"size\":4096,\"offset\":4096}]",
	};
	struct handshake h = {.n_regions = 77};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		assert_int_equal(parse(texts[i], &h), HANDSHAKE_E_BAD);
	assert_int_equal(h.n_regions, 77);
}

static void test_limits(void **state)
{
	_cleanup_buf_ struct buf b = {0};
	struct handshake h;

	for (int n = 1; n <= 65; n++) {
		b.len = 0;
		for (int i = 0; i < n; i++)
			assert_int_equal(buf_printf(&b,
						    "%s{\"base_host_virt_addr\":%d,\"size\":4096,"
						    "\"offset\":%d}",
						    i ? "," : "[", (i + 1) * 4096, i * 4096),
					 0);
		assert_int_equal(buf_printf(&b, "]"), 0);
		assert_int_equal(parse(b.data, &h), n <= 64 ? 0 : HANDSHAKE_E_BAD);
	}
	b.len = 0;
	assert_int_equal(buf_printf(&b, "[\""), 0);
	while (b.len < HANDSHAKE_MAX_BYTES) {
		assert_int_equal(handshake_parse(b.data, b.len, PAGES, &h, NULL), HANDSHAKE_E_MORE);
		assert_int_equal(buf_printf(&b, "xxxxxxxxxxxxx"), 0);
	}
	assert_int_equal(handshake_parse(b.data, b.len, PAGES, &h, NULL), HANDSHAKE_E_BAD);
}

TEST_MAIN(cmocka_unit_test(test_firecracker), cmocka_unit_test(test_refused),
	  cmocka_unit_test(test_limits))
