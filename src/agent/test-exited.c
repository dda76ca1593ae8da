/* SPDX-License-Identifier: Apache-2.0 */
/* How programs ended: what is kept of it, and what clients are told. */
#include "base/test.h"

#include <signal.h>
#include <string.h>

#include "agent/event.h"
#include "agent/exited.h"
#include "base/clock.h"

static void test_newest_first(void **state)
{
	struct exited_list l = {0};

	assert_null(exited_find(&l, 7, NULL));
	exited_add(&l, 7, NULL, 0, 1);
	exited_add(&l, 8, "web", 256, 2);
	exited_add(&l, 7, "web", 512, 3); /* the number was used again */
	assert_int_equal(exited_find(&l, 7, NULL)->wait_status, 512);
	assert_int_equal(exited_find(&l, 8, NULL)->wait_status, 256);
	assert_int_equal(exited_find(&l, 0, "web")->pid, 7);
	assert_null(exited_find(&l, 7, "other"));
	exited_clear(&l);
	assert_null(exited_find(&l, 7, NULL));
	assert_int_equal(l.n, 0);
}

static void test_at_most(void **state)
{
	struct exited_list l = {0};

	for (int i = 1; i <= (int)EXITED_MAX + 10; i++)
		exited_add(&l, i, NULL, 0, 0);
	assert_int_equal(l.n, EXITED_MAX);
	assert_null(exited_find(&l, 10, NULL));
	assert_non_null(exited_find(&l, 11, NULL));
	exited_clear(&l);
}

static void test_for_a_while(void **state)
{
	struct exited_list l = {0};

	exited_add(&l, 1, NULL, 0, 0);
	clock_sleep_ms(1100);
	exited_add(&l, 2, NULL, 0, 0);
	clock_sleep_ms(EXITED_KEEP_MS - 600);
	assert_null(exited_find(&l, 1, NULL));
	assert_non_null(exited_find(&l, 2, NULL));
	assert_int_equal(l.n, 1);
	exited_clear(&l);
}

static void test_texts(void **state)
{
	static const struct {
		int status;
		const char *want;
	} cases[] = {
		{0, "{\"exitCode\":0,\"exited\":true,\"status\":\"exit status 0\","},
		{3 << 8, "{\"exitCode\":3,\"exited\":true,\"status\":\"exit status 3\","},
		{SIGKILL, "{\"exitCode\":-1,\"exited\":false,\"status\":\"signal: killed\","},
		{SIGSEGV | 0x80, "\"status\":\"signal: segmentation fault (core dumped)\","},
	};
	char text[EVENT_TEXT_MAX], data[EVENT_DATA_TEXT_MAX], big[EVENT_DATA_MAX];

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		size_t n = event_end(cases[i].status, 5, text);

		assert_int_equal(n, strlen(text));
		assert_non_null(strstr(text, cases[i].want));
		assert_int_equal(strstr(text, "\"error\"") != NULL, cases[i].status != 0);
	}
	assert_int_equal(event_data("pty", "hi", 2, data), 33);
	assert_string_equal(data, "{\"event\":{\"data\":{\"pty\":\"aGk=\"}}}");
	memset(big, 'x', sizeof(big));
	assert_true(event_data("stdout", big, sizeof(big), data) < EVENT_DATA_TEXT_MAX);
}

TEST_MAIN(cmocka_unit_test(test_newest_first), cmocka_unit_test(test_at_most),
	  cmocka_unit_test(test_for_a_while), cmocka_unit_test(test_texts))
