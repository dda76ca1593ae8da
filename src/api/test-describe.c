/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <string.h>

#include "api/describe.h"
#include "base/str.h"

static const char *text(json_t *o, const char *name)
{
	return json_string_value(json_object_get(o, name));
}

static struct sandbox_info an_info(void)
{
	struct sandbox_info info = {.state = SANDBOX_RUNNING,
				    .created_ns = 1,
				    .started_ns = 1500000000ull * 1000000000,
				    .memory_bytes = 128 << 20,
				    .cpus = 2};

	str_copy(info.id, sizeof(info.id), "i00000000000000000001");
	str_copy(info.template_id, sizeof(info.template_id), "base");
	return info;
}

static void test_info(void **state)
{
	struct sandbox_info info = an_info();
	json_t *o = describe_info(&info);

	assert_string_equal(text(o, "alias"), "base");
	assert_string_equal(text(o, "startedAt"), "2017-07-14T02:40:00.000Z");
	assert_string_equal(text(o, "endAt"), "9999-12-31T23:59:59.000Z");
	assert_null(json_object_get(o, "failure"));
	assert_null(json_object_get(o, "metadata"));
	json_decref(o);
	str_copy(info.template_id, sizeof(info.template_id), "s00000000000000000001");
	info.state = SANDBOX_FAILED;
	str_copy(info.failure, sizeof(info.failure), "qemu said \xff\xc3");
	o = describe_info(&info);
	assert_null(json_object_get(o, "alias"));
	assert_string_equal(text(o, "state"), "failed");
	assert_string_equal(text(o, "failure"), "qemu said \xef\xbf\xbd\xef\xbf\xbd");
	json_decref(o);
}

static void test_states(void **state)
{
	static const char *const shown[] = {
		[SANDBOX_CREATING] = "running", [SANDBOX_RUNNING] = "running",
		[SANDBOX_PAUSING] = "running",	[SANDBOX_ASLEEP] = "paused",
		[SANDBOX_WAKING] = "paused",	[SANDBOX_DELETING] = "running",
		[SANDBOX_FAILED] = "failed"};

	for (int s = 0; s < SANDBOX_N_STATES; s++)
		assert_string_equal(describe_state((enum sandbox_state)s), shown[s]);
}

static void test_details(void **state)
{
	const struct caller user = {.scope = SCOPE_USE}, reader = {.scope = SCOPE_READ};
	struct sandbox_info info = an_info();
	json_t *o = describe_details(&user, &info);

	assert_null(json_object_get(o, "network"));
	assert_null(json_object_get(o, "envdAccessToken"));
	assert_string_equal(text(json_object_get(o, "lifecycle"), "onTimeout"), "kill");
	assert_true(json_is_null(json_object_get(o, "domain")));
	json_decref(o);
	info.auto_pause = info.auto_resume = true;
	str_copy(info.token, sizeof(info.token), "secret");
	str_copy(info.traffic_token, sizeof(info.traffic_token), "other");
	str_copy(info.mask_host, sizeof(info.mask_host), "x:${PORT}");
	o = describe_details(&user, &info);
	assert_string_equal(text(json_object_get(o, "lifecycle"), "onTimeout"), "pause");
	assert_true(json_is_true(json_object_get(json_object_get(o, "lifecycle"), "autoResume")));
	assert_string_equal(text(o, "envdAccessToken"), "secret");
	assert_string_equal(text(o, "trafficAccessToken"), "other");
	assert_string_equal(text(json_object_get(o, "network"), "maskRequestHost"), "x:${PORT}");
	assert_true(json_is_false(
		json_object_get(json_object_get(o, "network"), "allowPublicTraffic")));
	json_decref(o);
	o = describe_details(&reader, &info); /* who only looks learns no secret */
	assert_null(json_object_get(o, "envdAccessToken"));
	assert_null(json_object_get(o, "trafficAccessToken"));
	json_decref(o);
}

static void test_problem(void **state)
{
	struct problem p = PROBLEM_INIT;
	json_t *o;

	problem_set(&p, 503, "there is no room for \xff");
	problem_code(&p, "sandbox_capacity_unavailable");
	problem_code(&p, "another");
	o = reply_problem(&p, -12);
	assert_int_equal(json_integer_value(json_object_get(o, "code")), 503);
	assert_string_equal(text(o, "message"), "there is no room for \xef\xbf\xbd");
	assert_string_equal(text(o, "error_code"), "sandbox_capacity_unavailable");
	assert_null(json_object_get(o, "hint"));
	json_decref(o);
	p = PROBLEM_INIT; /* nobody has said anything */
	o = reply_problem(&p, -28);
	assert_int_equal(json_integer_value(json_object_get(o, "code")), 507);
	assert_non_null(text(o, "hint"));
	json_decref(o);
}

TEST_MAIN(cmocka_unit_test(test_info), cmocka_unit_test(test_states),
	  cmocka_unit_test(test_details), cmocka_unit_test(test_problem))
