/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <string.h>

#include "api/routes.h"

static void test_find(void **state)
{
	struct request q = {0};

	assert_ptr_equal(routes_find("POST", "/v2/sandboxes", &q, NULL), control_sandbox_create);
	assert_ptr_equal(routes_find("POST", "/v2/sandboxes/abc/connect", &q, NULL),
			 control_sandbox_connect);
	assert_string_equal(q.args[0], "abc");
	assert_ptr_equal(routes_find("GET", "/templates/t1/builds/b2/status", &q, NULL),
			 control_template_status);
	assert_string_equal(q.args[0], "t1");
	assert_string_equal(q.args[1], "b2");
}

static void refused(const char *method, const char *path, int status)
{
	struct problem p = PROBLEM_INIT;
	struct request q = {0};

	assert_null(routes_find(method, path, &q, &p));
	assert_int_equal(p.status, status);
}

static void test_refuse(void **state)
{
	char longer[400];

	refused("GET", "/", 404);
	refused("GET", "", 404);
	refused("GET", "/sandboxes/", 404);
	refused("GET", "/sandboxes//memory", 404);
	refused("GET", "/sandboxes/a/b/c", 404);
	refused("PATCH", "/sandboxes/a", 405);
	memset(longer, 'a', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	memcpy(longer, "/sandboxes/", 11);
	refused("GET", longer, 404);
}

TEST_MAIN(cmocka_unit_test(test_find), cmocka_unit_test(test_refuse))
