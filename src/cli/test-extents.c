/* SPDX-License-Identifier: Apache-2.0 */
/* extents: whole and cut anywhere, and everything that must be refused */
#include "base/test.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "cli/extents.h"

#define PAGE DORM_PAGE_SIZE

struct memory {
	unsigned char bytes[8 * PAGE];
	uint64_t next;
	int fail;
};

static int on_piece(void *userdata, uint64_t offset, const void *data, size_t len)
{
	struct memory *m = userdata;

	if (m->fail)
		return m->fail;
	assert_true(len > 0 && offset >= m->next && offset + len <= sizeof(m->bytes));
	memcpy(m->bytes + offset, data, len);
	m->next = offset + len;
	return 0;
}

/* Page 1 of 'a', page 3 of 'b'; 6 pages in all. */
static size_t make_stream(unsigned char *out)
{
	unsigned char *p = out;

	extents_head(PAGE, PAGE, p);
	memset(p + 16, 'a', PAGE);
	p += 16 + PAGE;
	extents_head(3 * PAGE, PAGE, p);
	memset(p + 16, 'b', PAGE);
	p += 16 + PAGE;
	extents_head(6 * PAGE, 0, p);
	return (size_t)(p - out) + 16;
}

static void test_head(void **state)
{
	static const unsigned char want[] = {0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0};
	unsigned char head[EXTENTS_HEAD];

	extents_head(0x1000, 0x20000, head);
	assert_memory_equal(head, want, sizeof(want));
}

static void test_cut(void **state)
{
	static unsigned char stream[3 * PAGE];
	size_t len = make_stream(stream);
	static struct memory m, zero;

	for (size_t step = 1; step <= len; step = step < 40 ? step + 1 : step * 2) {
		struct extents_parser p = {0};

		m = zero;
		for (size_t at = 0; at < len; at += step)
			assert_int_equal(extents_parse(&p, stream + at, MIN(step, len - at),
						       on_piece, &m, NULL),
					 0);
		assert_int_equal(extents_finish(&p, NULL), 0);
		assert_int_equal(p.size, 6 * PAGE);
		assert_int_equal(m.bytes[PAGE], 'a');
		assert_int_equal(m.bytes[2 * PAGE - 1], 'a');
		assert_int_equal(m.bytes[2 * PAGE], 0);
		assert_int_equal(m.bytes[3 * PAGE], 'b');
		assert_int_equal(m.next, 4 * PAGE);
	}
}

static void test_early_end(void **state)
{
	static unsigned char stream[3 * PAGE];
	size_t len = make_stream(stream);
	static struct memory m, zero;

	for (size_t cut = 0; cut < len; cut++) {
		struct extents_parser p = {0};
		struct problem problem = PROBLEM_INIT;

		m = zero;
		assert_int_equal(extents_parse(&p, stream, cut, on_piece, &m, NULL), 0);
		assert_int_equal(extents_finish(&p, &problem), -EBADMSG);
		assert_true(problem_is_set(&problem));
	}
}

static void test_refused(void **state)
{
	static const struct {
		uint64_t offset, len;
		const char *why;
	} bad[] = {
		{1, PAGE, "whole pages"},
		{PAGE, 1, "whole pages"},
		{EXTENTS_MAX, PAGE, "beyond any memory"},
		{PAGE, EXTENTS_MAX, "beyond any memory"},
		{UINT64_MAX - PAGE + 1, PAGE, "beyond any memory"},
		{PAGE, UINT64_MAX - PAGE + 1, "beyond any memory"},
		{EXTENTS_MAX + PAGE, 0, "beyond any memory"},
	};
	static struct memory m;
	unsigned char head[EXTENTS_HEAD];

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct extents_parser p = {0};
		struct problem problem = PROBLEM_INIT;

		extents_head(bad[i].offset, bad[i].len, head);
		assert_int_equal(extents_parse(&p, head, sizeof(head), on_piece, &m, &problem),
				 -EBADMSG);
		assert_non_null(strstr(problem.message, bad[i].why));
	}
}

static void test_order(void **state)
{
	static unsigned char stream[3 * PAGE];
	size_t len = make_stream(stream);
	struct extents_parser p = {0};
	struct problem problem = PROBLEM_INIT;
	static struct memory m;

	assert_int_equal(extents_parse(&p, stream, len, on_piece, &m, NULL), 0);
	assert_int_equal(extents_parse(&p, stream, 1, on_piece, &m, &problem), -EBADMSG);
	assert_non_null(strstr(problem.message, "more follows"));
	problem = PROBLEM_INIT;
	p = (struct extents_parser){0};
	m.next = 0;
	assert_int_equal(extents_parse(&p, stream, 16 + PAGE, on_piece, &m, NULL), 0);
	assert_int_equal(extents_parse(&p, stream, 16, on_piece, &m, &problem), -EBADMSG);
	assert_non_null(strstr(problem.message, "ascend"));
	p = (struct extents_parser){0};
	m.fail = -EIO;
	assert_int_equal(extents_parse(&p, stream, len, on_piece, &m, NULL), -EIO);
}

TEST_MAIN(cmocka_unit_test(test_head), cmocka_unit_test(test_cut), cmocka_unit_test(test_early_end),
	  cmocka_unit_test(test_refused), cmocka_unit_test(test_order))
