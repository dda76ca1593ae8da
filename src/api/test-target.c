/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/target.h"

#define ID "iabcdefghij0123456789"

/* "id:port", "control", or the status of the problem */
static const char *find(const char *host, const char *id, const char *port)
{
	static char out[96];
	struct problem p = PROBLEM_INIT;
	struct target t = {0};
	int r = target_find(host, id, port, &p, &t);

	if (r == 0)
		snprintf(out, sizeof(out), "%s:%u", t.sandbox_id, t.port);
	else if (r == TARGET_CONTROL)
		snprintf(out, sizeof(out), "control");
	else
		snprintf(out, sizeof(out), "%d", p.status);
	return out;
}

static void test_headers(void **state)
{
	assert_string_equal(find("127.0.0.1:3000", ID, "8080"), ID ":8080");
	assert_string_equal(find("localhost", ID, "49983"), ID ":49983");
	assert_string_equal(find("sandbox.example", ID, "1"), ID ":1");
	assert_string_equal(find(NULL, "nobody", "65535"), "nobody:65535");
	assert_string_equal(find("localhost", NULL, NULL), "control");
	assert_string_equal(find(NULL, NULL, NULL), "control");
	assert_string_equal(find("localhost", ID, NULL), "400");
	assert_string_equal(find("localhost", NULL, "80"), "400");
	assert_string_equal(find("localhost", ID, "0"), "400");
	assert_string_equal(find("localhost", ID, "65536"), "400");
	assert_string_equal(find("localhost", ID, "-1"), "400");
	assert_string_equal(find("localhost", ID, ""), "400");
}

static void test_host_names(void **state)
{
	assert_string_equal(find("3000-" ID ".localhost:8000", NULL, NULL), ID ":3000");
	assert_string_equal(find("3000-" ID ".e2b.example", NULL, NULL), ID ":3000");
	assert_string_equal(find("3000-IABCDEFGHIJ0123456789.x", NULL, NULL), ID ":3000");
	assert_string_equal(find("3000-" ID ".x", "other", "1"), ID ":3000"); /* the name decides */
	assert_string_equal(find("3000-" ID ".x", "other", NULL), ID ":3000");
	assert_string_equal(find("0-" ID ".x", NULL, NULL), "400");
	assert_string_equal(find("70000-" ID ".x", NULL, NULL), "400");
	assert_string_equal(find("99999999999999999999-" ID ".x", NULL, NULL), "control");
	assert_string_equal(find("3000-" ID, NULL, NULL), "control");
	assert_string_equal(find("3000-" ID ":80", NULL, NULL), "control");
	assert_string_equal(find("3000-" ID "9.x", NULL, NULL), "control");
	assert_string_equal(find("3000-iabc.x", NULL, NULL), "control");
	assert_string_equal(find("-" ID ".x", NULL, NULL), "control");
	assert_string_equal(find("x3000-" ID ".x", NULL, NULL), "control");
	assert_string_equal(find("", NULL, NULL), "control");
	assert_string_equal(find("[::1]:80", NULL, NULL), "control");
}

TEST_MAIN(cmocka_unit_test(test_headers), cmocka_unit_test(test_host_names))
