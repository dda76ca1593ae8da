/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/network.h"
#include "base/mem.h"

/* What is made of @text; "none", "nothing" (was said), or an error's first words. */
static const char *made(const char *text, bool wanted, bool change)
{
	static char buf[512];
	json_t *body = json_loads(text, 0, NULL), *policy = NULL;
	struct problem p = PROBLEM_INIT;
	char *dump = NULL;
	int r;

	assert_non_null(body);
	r = change ? network_from_change(body, &p, &policy)
		   : network_from_body(body, wanted, &p, &policy);
	if (r < 0) {
		assert_int_equal(r, -EINVAL);
		assert_int_equal(p.status, 400);
	} else if (policy && !json_is_null(policy)) {
		dump = json_dumps(policy, JSON_COMPACT | JSON_SORT_KEYS);
	}
	(void)snprintf(buf, sizeof(buf), "%s",
		       r < 0	? p.message
		       : dump	? dump
		       : policy ? "none"
				: "nothing");
	free(dump);
	json_decref(policy);
	json_decref(body);
	return buf;
}

static void test_create(void **state)
{
	static const struct {
		const char *body;
		bool wanted;
		const char *made;
	} cases[] = {
		{"{}", false, "nothing"},
		{"{}", true, "nothing"},
		{"{\"allow_internet_access\":true}", false, "nothing"},
		{"{\"allow_internet_access\":true}", true, "{\"internet\":true}"},
		{"{\"allow_internet_access\":false}", true, "none"},
		{"{\"allow_internet_access\":null,\"network\":null}", true, "nothing"},
		{"{\"network\":{\"allowPublicTraffic\":false}}", true, "nothing"},
		{"{\"network\":{\"allowOut\":[]}}", false, "{\"allow\":[],\"internet\":true}"},
		{"{\"network\":{\"denyOut\":[\"1.2.3.4\"],\"rules\":{}}}", false,
		 "{\"deny\":[\"1.2.3.4\"],\"internet\":true}"},
		{"{\"allow_internet_access\":false,\"network\":{\"allowOut\":[\"1.2.3.4:5\"]}}",
		 false, "{\"allow\":[\"1.2.3.4:5\"],\"internet\":false}"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_string_equal(made(cases[i].body, cases[i].wanted, false), cases[i].made);
}

static void test_change(void **state)
{
	assert_string_equal(made("{}", false, true), "{\"internet\":true}");
	assert_string_equal(made("{\"allow_internet_access\":false}", false, true), "nothing");
	assert_string_equal(made("{\"allow_internet_access\":false,\"allowOut\":[]}", false, true),
			    "{\"allow\":[],\"internet\":false}");
}

static void test_refused(void **state)
{
	static const struct {
		const char *body, *word;
	} cases[] = {
		{"{\"network\":[]}", "must be an object"},
		{"{\"allow_internet_access\":1}", "allow_internet_access"},
		{"{\"network\":{\"allowOut\":\"x\"}}", "array"},
		{"{\"network\":{\"allowOut\":[7]}}", "text"},
		{"{\"network\":{\"allowOut\":[\"api.example.com\"]}}", "names of hosts"},
		{"{\"network\":{\"egressProxy\":{\"address\":\"x\"}}}", "not supported"},
		{"{\"network\":{\"rules\":{\"x\":[]}}}", "not supported"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		if (!strstr(made(cases[i].body, false, false), cases[i].word))
			fail_msg("%s: %s", cases[i].body, made(cases[i].body, false, false));
}

static void test_described(void **state)
{
	json_t *o = json_object(),
	       *policy = json_loads("{\"internet\":false,\"allow\":[\"1.2.3.4\"]}", 0, NULL);

	network_describe(o, NULL);
	assert_true(json_is_false(json_object_get(o, "allowInternetAccess")));
	assert_null(json_object_get(o, "network"));
	network_describe(o, policy);
	assert_int_equal(
		json_array_size(json_object_get(json_object_get(o, "network"), "allowOut")), 1);
	assert_int_equal(json_array_size(json_object_get(json_object_get(o, "network"), "denyOut")),
			 0);
	json_decref(policy);
	json_decref(o);
}

TEST_MAIN(cmocka_unit_test(test_create), cmocka_unit_test(test_change),
	  cmocka_unit_test(test_refused), cmocka_unit_test(test_described))
