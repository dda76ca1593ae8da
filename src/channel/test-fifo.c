/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <string.h>

#include "channel/fifo.h"

/* Against a counter: the n-th byte that comes out must be the n-th that went in. */
static void test_order(void **state)
{
	struct fifo f = {0};
	unsigned char in[300], out[300];
	size_t put = 0, got = 0, max_cap = 0;

	for (unsigned round = 0; round < 20000; round++) {
		size_t n = (round * 7919u) % sizeof(in), m = (round * 104729u) % sizeof(out);

		for (size_t i = 0; i < n; i++)
			in[i] = (unsigned char)(put + i);
		if (f.len < 4000) {
			assert_int_equal(fifo_append(&f, in, n), 0);
			put += n;
		}
		m = fifo_take(&f, out, m);
		for (size_t i = 0; i < m; i++)
			assert_int_equal(out[i], (unsigned char)(got + i));
		got += m;
		assert_int_equal(f.len, put - got);
		if (f.cap > max_cap)
			max_cap = f.cap;
	}
	assert_true(got > 1000000);
	assert_true(max_cap <= 32768); /* consuming gives room back */
	fifo_deinit(&f);
}

static void test_empty_holds_nothing(void **state)
{
	struct fifo f = {0};

	assert_int_equal(fifo_append(&f, "abc", 3), 0);
	fifo_consume(&f, 2);
	assert_memory_equal(fifo_front(&f), "c", 1);
	fifo_consume(&f, 1);
	assert_null(f.data);
	assert_int_equal(f.cap, 0);
}

TEST_MAIN(cmocka_unit_test(test_order), cmocka_unit_test(test_empty_holds_nothing))
