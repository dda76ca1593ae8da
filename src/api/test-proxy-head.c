/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include "api/proxy-internal.h"

static void test_what_goes_on(void **state)
{
	static const char *const stay[] = {"Connection",
					   "keep-alive",
					   "TE",
					   "Trailer",
					   "Upgrade",
					   "Transfer-Encoding",
					   "Content-Length",
					   "Host",
					   "Proxy-Authorization",
					   "Expect",
					   "E2b-Sandbox-Id",
					   "E2B-SANDBOX-PORT",
					   "e2b-traffic-access-token",
					   "X-API-KEY"};
	static const char *const go[] = {"Accept",
					 "Cookie",
					 "Authorization",
					 "X-Access-Token",
					 "Sec-WebSocket-Key",
					 "X-Forwarded-Host",
					 "Connections"};

	for (size_t i = 0; i < sizeof(stay) / sizeof(*stay); i++)
		assert_false(proxy_is_forwarded(stay[i], NULL));
	for (size_t i = 0; i < sizeof(go) / sizeof(*go); i++)
		assert_true(proxy_is_forwarded(go[i], "close"));
	assert_false(proxy_is_forwarded("X-Mine", "close, x-mine"));
	assert_true(proxy_is_forwarded("X-Mine", "close, x-mine-too"));
}

static void test_paths(void **state)
{
	assert_string_equal(proxy_path("/a%2Fb?c=%20"), "/a%2Fb?c=%20");
	assert_string_equal(proxy_path("*"), "*");
	assert_string_equal(proxy_path("http://host:80/a?b"), "/a?b");
	assert_string_equal(proxy_path("HTTP://host/"), "/");
	assert_string_equal(proxy_path("http://host"), "/");
	assert_string_equal(proxy_path("http://host?x=/y"), "/");
	assert_string_equal(proxy_path("//host/a"), "//host/a");
}

TEST_MAIN(cmocka_unit_test(test_what_goes_on), cmocka_unit_test(test_paths))
