/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "sandbox/reference.h"

static void test_parse(void **state)
{
	static const struct {
		const char *text, *name; /* NULL: refused */
	} cases[] = {
		{"base", "base"},
		{"base:default", "base"},
		{"base:latest", "base"},
		{"team-1/base", "base"},
		{"ns/snap:default", "snap"},
		{"i0123456789abcdefghij", "i0123456789abcdefghij"},
		{"base:v2", NULL},
		{"base:", NULL},
		{"base:default:default", NULL},
		{":default", NULL},
		{"", NULL},
		{"/base", NULL},
		{"a/b/c", NULL},
		{"../etc", NULL},
		{"ns/..", NULL},
		{"ns/../x", NULL},
		{"Base", NULL},
		{"ns:default/base", NULL},
	};
	char longest[65], name[REFERENCE_NAME];

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct problem p = PROBLEM_INIT;
		int r;

		strcpy(name, "as before");
		r = reference_parse(cases[i].text, &p, name);
		assert_int_equal(r, cases[i].name ? 0 : -EINVAL);
		assert_string_equal(name, cases[i].name ? cases[i].name : "as before");
		assert_int_equal(p.status, cases[i].name ? 0 : 400);
	}
	memset(longest, 'a', 64);
	longest[64] = 0;
	assert_int_equal(reference_parse(longest, NULL, name), -EINVAL);
	longest[63] = 0;
	assert_int_equal(reference_parse(longest, NULL, name), 0);
}

TEST_MAIN(cmocka_unit_test(test_parse))
