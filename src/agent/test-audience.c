/* SPDX-License-Identifier: Apache-2.0 */
/* Several clients of one program, slow ones, late ones, many at once (test-box.h). */
#include "agent/test-box.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/audience.h"
#include "base/clock.h"
#include "base/str.h"

static void open_shell(struct box *b, struct run *r, const char *script)
{
	_cleanup_free_ char *request = str_printf(
		"{\"tag\":\"it\",\"process\":{\"cmd\":\"/bin/sh\",\"args\":[\"-c\",\"%s\"]}}",
		script);

	run_open(b, r, request, NULL, 0);
	run_until_started(r);
}

static void test_several(void **state)
{
	struct box b = {0};
	struct run a = {0}, c = {0}, d = {0};

	box_start(&b);
	open_shell(&b, &a, "echo one; read x; echo two; echo err >&2; exit 7");
	run_until(&a, "one\n");
	run_connect_pid(&b, &c, a.pid);
	run_connect(&b, &d, "{\"tag\":\"it\"}", NULL, 0);
	run_until_started(&c);
	run_until_started(&d);
	assert_int_equal(c.pid, a.pid);
	assert_int_equal(d.pid, a.pid);
	assert_int_equal(box_type(&b, a.pid, "stdin", "\n"), 200);
	run_finish(&a);
	run_finish(&c);
	run_finish(&d);
	assert_string_equal(a.out.data, "one\ntwo\n");
	assert_string_equal(c.out.data, "two\n"); /* the future only */
	assert_string_equal(d.err.data, "err\n");
	assert_int_equal(a.exit_code + c.exit_code + d.exit_code, 21);
	run_deinit(&a);
	run_deinit(&c);
	run_deinit(&d);
	box_stop(&b);
}

/* How it ended is there for a while. */
static void test_late(void **state)
{
	struct box b = {0};
	struct run a, c = {0}, d = {0};

	box_start(&b);
	a = run_shell(&b, "echo gone; exit 5");
	run_connect_pid(&b, &c, a.pid);
	run_finish(&c);
	assert_true(c.started);
	assert_int_equal(c.pid, a.pid);
	assert_int_equal(c.exit_code, 5);
	assert_string_equal(c.status, "exit status 5");
	assert_int_equal(c.out.len, 0);
	run_connect_pid(&b, &d, 999999);
	run_finish(&d);
	assert_false(d.started);
	assert_string_equal(d.code, "not_found");
	assert_string_equal(d.message, "process with pid 999999 not found");
	run_deinit(&d);
	d = (struct run){0};
	run_connect(&b, &d, "{}", NULL, 0);
	run_finish(&d);
	assert_string_equal(d.code, "invalid_argument");
	run_deinit(&a);
	run_deinit(&c);
	run_deinit(&d);
	box_stop(&b);
}

static void test_retention_ends(void **state)
{
	struct box b = {0};
	struct run a, c = {0};

	box_start(&b);
	a = run_shell(&b, "exit 0");
	clock_sleep_ms(30500);
	run_connect_pid(&b, &c, a.pid);
	run_finish(&c);
	assert_string_equal(c.code, "not_found");
	run_deinit(&a);
	run_deinit(&c);
	box_stop(&b);
}

/* Connect's own deadline ends its stream and nothing else; its keepalives are its own. */
static void test_connect_deadline(void **state)
{
	const struct channel_header h[] = {{"connect-timeout-ms", "1300"},
					   {"keepalive-ping-interval", "1"}};
	struct box b = {0};
	struct run a = {0}, c = {0};

	box_start(&b);
	open_shell(&b, &a, "read x; exit 6");
	run_connect(&b, &c, "{\"tag\":\"it\"}", h, 2);
	run_finish(&c);
	assert_string_equal(c.code, "deadline_exceeded");
	assert_int_equal(c.keepalives, 1);
	assert_int_equal(box_type(&b, a.pid, "stdin", "\n"), 200);
	run_finish(&a);
	assert_int_equal(a.exit_code, 6);
	run_deinit(&a);
	run_deinit(&c);
	box_stop(&b);
}

/* The deadline of a start holds also when its client has gone; other clients see the end. */
static void test_deadline_without_client(void **state)
{
	const struct channel_header h = {"connect-timeout-ms", "1000"};
	struct box b = {0};
	struct run a = {0}, c = {0};
	uint64_t begin_ns = clock_now_ns();

	box_start(&b);
	run_open(&b, &a, "{\"process\":{\"cmd\":\"sleep\",\"args\":[\"100\"]}}", &h, 1);
	run_until_started(&a);
	run_connect_pid(&b, &c, a.pid);
	run_until_started(&c);
	run_deinit(&a);
	run_finish(&c);
	assert_string_equal(c.status, "signal: killed");
	assert_true(clock_now_ns() - begin_ns < 8000 * NSEC_PER_MSEC);
	run_deinit(&c);
	box_stop(&b);
}

/* One client has stopped reading: the other one waits, but not for ever, and memory stays. */
static void test_stopped_client(void **state)
{
	struct box b = {0};
	struct run a = {0}, c = {0};
	uint64_t begin_ns, took_ms;
	long before;

	box_start(&b);
	run_expect(&b, "head -c 3000000 /dev/zero | wc -c", 0, "3000000\n");
	open_shell(&b, &a, "read x; head -c 20000000 /dev/zero; exit 9");
	run_connect_pid(&b, &c, a.pid);
	run_until_started(&c);
	before = box_rss_kb(&b);
	begin_ns = clock_now_ns();
	assert_int_equal(box_type(&b, a.pid, "stdin", "\n"), 200);
	run_finish(&a); /* c reads nothing all the while */
	took_ms = (clock_now_ns() - begin_ns) / NSEC_PER_MSEC;
	assert_int_equal(a.exit_code, 9);
	assert_int_equal(a.out.len, 20000000);
	assert_true(took_ms >= AUDIENCE_PATIENCE_MS && took_ms < AUDIENCE_PATIENCE_MS + 8000);
	if (strstr(box_program, "dev") == NULL) /* sanitizers keep what was freed */
		assert_true(box_rss_kb(&b) - before < 4096);
	run_finish(&c);
	assert_string_equal(c.code, "resource_exhausted");
	assert_true(c.out.len > 0 && c.out.len < 20000000);
	run_deinit(&a);
	run_deinit(&c);
	box_stop(&b);
}

/* Alone it may stop for as long as it likes; the program waits, and nothing is lost. */
static void test_slow_client_alone(void **state)
{
	struct box b = {0};
	struct run a = {0};

	box_start(&b);
	open_shell(&b, &a, "head -c 3000000 /dev/zero; exit 2");
	clock_sleep_ms(AUDIENCE_PATIENCE_MS + 1000);
	run_finish(&a);
	assert_int_equal(a.out.len, 3000000);
	assert_int_equal(a.exit_code, 2);
	run_deinit(&a);
	box_stop(&b);
}

/* One that comes later and reads sees all from then on while the first has gone. */
static void test_starter_leaves(void **state)
{
	struct box b = {0};
	struct run a = {0}, c = {0};

	box_start(&b);
	open_shell(&b, &a, "yes | head -c 50000000; echo; echo end");
	run_connect_pid(&b, &c, a.pid);
	run_until_started(&c);
	run_deinit(&a); /* held, with everything it had not read */
	run_finish(&c);
	assert_true(c.out.len > 40000000);
	assert_memory_equal(c.out.data + c.out.len - 5, "\nend\n", 5);
	run_deinit(&c);
	box_stop(&b);
}

/* 200 streams with a lot of output each, at the same time, none of them read for a while. */
static void test_200_streams(void **state)
{
	struct run *r = calloc(200, sizeof(*r));
	struct box b = {0};
	char *body;

	box_start(&b);
	for (int i = 0; i < 200; i++) {
		_cleanup_free_ char *request =
			str_printf("{\"stdin\":false,\"process\":{\"cmd\":\"sh\",\"args\":[\"-c\","
				   "\"yes | head -c 1000000; echo; echo %d; exit %d\"]}}",
				   i, i % 100);

		run_open(&b, &r[i], request, NULL, 0);
	}
	for (int i = 0; i < 200; i++)
		run_until_started(&r[i]);
	assert_int_equal(box_call(&b, "POST", "/process.Process/List", "{}", &body), 200);
	free(body);
	if (strstr(box_program, "dev") == NULL) {
		print_message("agent with 200 streams: %ld KiB\n", box_rss_kb(&b));
		assert_true(box_rss_kb(&b) < 100 * 1024);
	}
	for (int i = 0; i < 200; i++) {
		char want[16];
		int n = snprintf(want, sizeof(want), "\n%d\n", i);

		run_finish(&r[i]);
		assert_int_equal(r[i].exit_code, i % 100);
		assert_int_equal(r[i].out.len, 1000000 + (size_t)n);
		assert_memory_equal(r[i].out.data + 1000000, want, (size_t)n);
		run_deinit(&r[i]);
	}
	free(r);
	box_stop(&b);
}

/* More programs than there may be: a clear refusal, and none of those that run is harmed. */
static void test_too_many(void **state)
{
	struct box b = {0};
	struct run r = {0};
	int pids[1100];
	unsigned n = 0;

	box_start(&b);
	while (n < ARRAY_SIZE(pids)) {
		run_open(&b, &r, "{\"process\":{\"cmd\":\"sleep\",\"args\":[\"1000\"]}}", NULL, 0);
		while (!r.started && !r.over)
			assert_true(run_step(&r, box_soon()) > 0);
		if (r.over)
			break;
		pids[n++] = r.pid;
		run_deinit(&r); /* the program goes on */
		r = (struct run){0};
	}
	assert_int_equal(n, 1024);
	assert_string_equal(r.code, "resource_exhausted");
	assert_string_equal(r.message, "cannot start a process: 1024 are running already");
	run_deinit(&r);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(kill(pids[i], SIGKILL), 0);
	run_expect(&b, "echo room again", 0, "room again\n");
	box_stop(&b);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_several),
		cmocka_unit_test(test_late),
		cmocka_unit_test(test_retention_ends),
		cmocka_unit_test(test_connect_deadline),
		cmocka_unit_test(test_deadline_without_client),
		cmocka_unit_test(test_stopped_client),
		cmocka_unit_test(test_slow_client_alone),
		cmocka_unit_test(test_starter_leaves),
		cmocka_unit_test(test_200_streams),
		cmocka_unit_test(test_too_many),
	};

	return box_main(argc, argv, tests, ARRAY_SIZE(tests));
}
