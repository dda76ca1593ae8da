/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <string.h>

#include "api/unsupported.h"

static void expect(const char *text, const char *want)
{
	json_t *o = json_loads(text, 0, NULL);
	struct problem p = PROBLEM_INIT;
	int r;

	assert_non_null(o);
	r = unsupported_refuse(o, &p);
	json_decref(o);
	if (want ? r != -EINVAL || p.status != 400 || !strstr(p.message, want) : r != 0)
		fail_msg("%s: %d %d %s", text, r, p.status, p.message);
}

static void test_nothing_is_fine(void **state)
{
	static const char *const fine[] = {
		"{}",
		"{\"somethingElse\":[1]}",
		"{\"volumeMounts\":[],\"iam\":{\"tokens\":{}}}",
		"{\"autoResume\":{\"enabled\":true},\"mcp\":null}",
		"{\"memory\":false,\"autoPauseMemory\":false,\"allow_internet_access\":true}",
	};

	for (size_t i = 0; i < sizeof(fine) / sizeof(*fine); i++)
		expect(fine[i], NULL);
}

static void test_something_is_refused(void **state)
{
	expect("{\"iam\":{\"tokens\":{\"a\":{\"audience\":\"x\"}}}}", "iam: ");
	expect("{\"mcp\":{\"x\":{\"y\":0}}}", "mcp: ");
	expect("{\"volumeMounts\":[{\"name\":\"v\",\"path\":\"/v\"}]}", "volumeMounts: ");
	expect("{\"fromImage\":\"x\",\"steps\":[{\"type\":\"RUN\"}]}", "steps: is not supported");
	expect("{\"fromTemplate\":\"base\"}", "fromTemplate: ");
}

TEST_MAIN(cmocka_unit_test(test_nothing_is_fine), cmocka_unit_test(test_something_is_refused))
