/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>

#include "cli/cli.h"
#include "cli/process-event.h"

static int parse(const char *text, struct process_event *ret)
{
	json_t *json = json_loads(text, 0, NULL);
	int r;

	assert_non_null(json);
	r = process_event_parse(json, NULL, ret);
	json_decref(json);
	return r;
}

static void test_kinds(void **state)
{
	struct process_event e;

	assert_int_equal(parse("{\"event\":{\"start\":{\"pid\":7}}}", &e), 0);
	assert_int_equal(e.kind, PROCESS_EVENT_START);
	assert_int_equal(e.pid, 7);
	assert_int_equal(parse("{\"event\":{\"data\":{\"stderr\":\"aGk=\"}}}", &e), 0);
	assert_int_equal(e.kind, PROCESS_EVENT_DATA);
	assert_int_equal(e.fd, 2);
	assert_int_equal(e.len, 2);
	assert_memory_equal(e.data, "hi", 2);
	process_event_deinit(&e);
	assert_int_equal(parse("{\"event\":{\"data\":{\"pty\":\"\"}}}", &e), 0);
	assert_int_equal(e.fd, 1);
	assert_int_equal(e.len, 0);
	process_event_deinit(&e);
	assert_int_equal(parse("{\"event\":{\"keepalive\":{}}}", &e), 0);
	assert_int_equal(e.kind, PROCESS_EVENT_KEEPALIVE);
}

static void test_unknown_is_passed_over(void **state)
{
	static const char *const texts[] = {"{}", "{\"event\":null}", "{\"event\":{\"dream\":{}}}",
					    "{\"event\":{\"data\":{\"smell\":\"aGk=\"}}}",
					    "{\"other\":1}"};
	struct process_event e;

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		assert_int_equal(parse(texts[i], &e), 0);
		assert_int_equal(e.kind, PROCESS_EVENT_OTHER);
	}
}

static void test_bad(void **state)
{
	struct process_event e;

	assert_int_equal(parse("{\"event\":{\"start\":{}}}", &e), -EBADMSG);
	assert_int_equal(parse("{\"event\":{\"start\":{\"pid\":-1}}}", &e), -EBADMSG);
	assert_int_equal(parse("{\"event\":{\"data\":{\"stdout\":\"!!\"}}}", &e), -EBADMSG);
	assert_int_equal(parse("{\"event\":{\"data\":{\"stdout\":5}}}", &e), -EBADMSG);
	assert_null(e.data);
}

static int exit_of(const char *end)
{
	char text[256];
	struct process_event e;

	(void)snprintf(text, sizeof(text), "{\"event\":{\"end\":%s}}", end);
	assert_int_equal(parse(text, &e), 0);
	assert_int_equal(e.kind, PROCESS_EVENT_END);
	return e.exit_code;
}

static void test_exit_codes(void **state)
{
	assert_int_equal(exit_of("{}"), 0); /* proto3 leaves defaults out */
	assert_int_equal(exit_of("{\"exitCode\":3,\"exited\":true,\"status\":\"exit status 3\"}"),
			 3);
	assert_int_equal(exit_of("{\"exitCode\":-1,\"status\":\"signal: killed\"}"), 137);
	assert_int_equal(exit_of("{\"exitCode\":-1,\"status\":\"signal: aborted (core dumped)\"}"),
			 134);
	assert_int_equal(exit_of("{\"exitCode\":-1,\"status\":\"signal: strange\"}"), CLI_ODD_END);
	assert_int_equal(exit_of("{\"exitCode\":-1}"), CLI_ODD_END);
	assert_int_equal(exit_of("{\"exitCode\":256}"), CLI_ODD_END);
}

static void test_signals(void **state)
{
	assert_int_equal(process_signal_number("terminated"), 15);
	assert_int_equal(process_signal_number("Segmentation fault (core dumped)"), 11);
	assert_int_equal(process_signal_number("SIGKILL"), 9);
	assert_int_equal(process_signal_number("hangup"), 1);
	assert_int_equal(process_signal_number("9"), 9);
	assert_int_equal(process_signal_number("SIG"), 0);
	assert_int_equal(process_signal_number(""), 0);
	assert_int_equal(process_signal_number("999"), 0);
}

static void test_start_errors(void **state)
{
	assert_int_equal(process_start_error("invalid_argument",
					     "cannot run 'x': No such file or directory"),
			 CLI_NOT_FOUND);
	assert_int_equal(
		process_start_error("invalid_argument", "exec /etc/passwd: permission denied"),
		CLI_CANNOT_RUN);
	assert_int_equal(process_start_error("invalid_argument", "cwd '/x' does not exist"),
			 CLI_OWN);
	assert_int_equal(process_start_error("not_found", "No such file or directory"), CLI_OWN);
	assert_int_equal(process_start_error("deadline_exceeded", ""), CLI_TIMEOUT);
	assert_int_equal(process_start_error("unavailable", "busy"), CLI_OWN);
}

TEST_MAIN(cmocka_unit_test(test_kinds), cmocka_unit_test(test_unknown_is_passed_over),
	  cmocka_unit_test(test_bad), cmocka_unit_test(test_exit_codes),
	  cmocka_unit_test(test_signals), cmocka_unit_test(test_start_errors))
