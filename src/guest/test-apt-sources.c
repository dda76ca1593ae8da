/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <string.h>

#include "guest/apt-sources.h"

static void test_list(void **state)
{
	_cleanup_buf_ struct buf out = {0};

	assert_int_equal(
		apt_sources_filter_list(
			"# deb http://a/ bookworm main\n"
			"deb http://a/ bookworm main contrib\n"
			"  deb\t[arch=amd64 signed-by=/k.gpg] http://b/ bookworm-updates main\n"
			"deb-src http://a/ bookworm main\n"
			"deb http://c/ bookworm-pgdg main\n"
			"deb http://d/ bookworm stable\n"
			"deb http://e/ bookworm-backports main\n"
			"deb http://f/ trixie main\n"
			"deb http://g/ bookworm-security main\n"
			"deb\n\ndeb http://h/",
			"bookworm", &out),
		0);
	assert_string_equal(out.data,
			    "deb http://a/ bookworm main contrib\n"
			    "deb\t[arch=amd64 signed-by=/k.gpg] http://b/ bookworm-updates main\n"
			    "deb http://g/ bookworm-security main\n");
}

static void test_deb822(void **state)
{
	_cleanup_buf_ struct buf out = {0};

	assert_int_equal(apt_sources_filter_deb822("Types: deb deb-src\n"
						   "# a comment\n"
						   "URIs: http://a/\n"
						   "suites: bookworm bookworm-updates "
						   "bookworm-backports\n"
						   "Components: main\n"
						   "Signed-By:\n"
						   " -----BEGIN-----\n"
						   " .\n"
						   " -----END-----\n"
						   "\n"
						   "Types: deb\nURIs: http://b/\nSuites: nodistro\n"
						   "Components: main\n\n"
						   "Enabled: no\nTypes: deb\nURIs: http://c/\n"
						   "Suites: bookworm\nComponents: main\n\n"
						   "Types: deb-src\nURIs: http://d/\n"
						   "Suites: bookworm\nComponents: main\n",
						   "bookworm", &out),
			 0);
	assert_string_equal(out.data, "Types: deb\n"
				      "Suites: bookworm bookworm-updates\n"
				      "URIs: http://a/\n"
				      "Components: main\n"
				      "Signed-By:\n"
				      " -----BEGIN-----\n"
				      " .\n"
				      " -----END-----\n");
}

static void test_nothing(void **state)
{
	struct buf out = {0};

	assert_int_equal(apt_sources_filter_list("", "bookworm", &out), 0);
	assert_int_equal(apt_sources_filter_deb822("\n\n \nSuites", "bookworm", &out), 0);
	assert_int_equal(apt_sources_filter_deb822(" goes on with nothing\n", "bookworm", &out), 0);
	assert_int_equal(out.len, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_list),
		cmocka_unit_test(test_deb822),
		cmocka_unit_test(test_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
