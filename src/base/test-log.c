/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log-format.h"

#include <pthread.h>
#include <string.h>

#include "base/test.h"

static const struct log_record woke = {.real_ns = 1767323045678000000ull,
				       .program = "dormd",
				       .level = LOG_LEVEL_INFO,
				       .request = "4f1c",
				       .message = "sandbox=x1 it \"woke\"\n\x1b[2J"};

static void expect(enum log_format format, const struct log_record *r, const char *want)
{
	char line[LOG_LINE_MAX];
	size_t n = log_format(format, r, line, sizeof(line));

	assert_true(n < sizeof(line));
	line[n] = 0;
	assert_string_equal(line, want);
}

static void test_formats(void **state)
{
	expect(LOG_FORMAT_TEXT, &woke,
	       "2026-01-02T03:04:05.678Z dormd info: request=4f1c sandbox=x1 it \"woke\"  [2J\n");
	expect(LOG_FORMAT_JSON, &woke,
	       "{\"time\":\"2026-01-02T03:04:05.678Z\",\"program\":\"dormd\",\"level\":\"info\","
	       "\"request\":\"4f1c\",\"sandbox\":\"x1\",\"message\":\"it \\\"woke\\\"  [2J\"}\n");
	expect(LOG_FORMAT_JOURNAL, &woke,
	       "PRIORITY=6\nSYSLOG_IDENTIFIER=dormd\nREQUEST=4f1c\nSANDBOX=x1\n"
	       "MESSAGE=it \"woke\"  [2J\n");
}

/* Without a request, and about no sandbox, there are no such fields. */
static void test_nobody(void **state)
{
	struct log_record r = woke;

	r.request = "";
	r.message = "it says sandbox=x1 \xc3\xa9\xff";
	expect(LOG_FORMAT_JSON, &r,
	       "{\"time\":\"2026-01-02T03:04:05.678Z\",\"program\":\"dormd\",\"level\":\"info\","
	       "\"message\":\"it says sandbox=x1 \xc3\xa9\\ufffd\"}\n");
	expect(LOG_FORMAT_JOURNAL, &r,
	       "PRIORITY=6\nSYSLOG_IDENTIFIER=dormd\nMESSAGE=it says sandbox=x1 \xc3\xa9\xff\n");
}

/* What is too long is cut, and ends as it should. */
static void test_long(void **state)
{
	char message[2 * LOG_LINE_MAX], line[LOG_LINE_MAX];
	struct log_record r = woke;

	memset(message, '"', sizeof(message) - 1);
	message[sizeof(message) - 1] = 0;
	r.message = message;
	for (enum log_format f = LOG_FORMAT_TEXT; f <= LOG_FORMAT_JOURNAL; f++) {
		size_t n = log_format(f, &r, line, sizeof(line));

		assert_in_range(n, LOG_LINE_MAX - 32, LOG_LINE_MAX);
		assert_int_equal(line[n - 1], '\n');
		assert_int_equal(line[n - 2], f == LOG_FORMAT_JSON ? '}' : '"');
		if (f == LOG_FORMAT_JOURNAL)
			assert_ptr_equal((char *)memrchr(line, '\n', n - 1) + 1,
					 strstr(line, "MESSAGE="));
	}
}

static void *look(void *arg)
{
	return (void *)(uintptr_t)strlen(log_request());
}

/* Each thread works for its own. */
static void test_request(void **state)
{
	char too_long[LOG_REQUEST_MAX + 20];
	pthread_t thread;
	void *len;

	log_set_request("abc");
	assert_string_equal(log_request(), "abc");
	assert_int_equal(pthread_create(&thread, NULL, look, NULL), 0);
	pthread_join(thread, &len);
	assert_null(len);
	memset(too_long, 'x', sizeof(too_long) - 1);
	too_long[sizeof(too_long) - 1] = 0;
	log_set_request(too_long);
	assert_int_equal(strlen(log_request()), LOG_REQUEST_MAX);
	log_set_request(NULL);
	assert_string_equal(log_request(), "");
}

TEST_MAIN(cmocka_unit_test(test_formats), cmocka_unit_test(test_nobody),
	  cmocka_unit_test(test_long), cmocka_unit_test(test_request))
