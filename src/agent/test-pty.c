/* SPDX-License-Identifier: Apache-2.0 */
/* Programs in a terminal (test-box.h). */
#include "agent/test-box.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"

#define PTY "\"pty\":{\"size\":{\"cols\":100,\"rows\":40}}"

static void open_shell(struct box *b, struct run *r, const char *script)
{
	_cleanup_free_ char *request =
		str_printf("{" PTY ",\"process\":{\"cmd\":\"/bin/sh\",\"args\":[\"-c\",\"%s\"],"
			   "\"envs\":{\"TERM\":\"vt100\"}}}",
			   script);

	run_open(b, r, request, NULL, 0);
	run_until_started(r);
}

static void test_terminal(void **state)
{
	struct box b = {0};
	struct run r = {0};

	box_start(&b);
	open_shell(&b, &r,
		   "test -t 0 && test -t 1 && test -t 2 && tty; stty size; echo $TERM; "
		   "echo err >&2; echo got-it >/dev/tty; exit 3");
	run_finish(&r);
	assert_non_null(strstr(r.out.data, "/dev/pts/"));
	assert_non_null(strstr(r.out.data, "40 100\r\n"));
	assert_non_null(strstr(r.out.data, "vt100\r\n"));
	assert_non_null(strstr(r.out.data, "err\r\n"));
	assert_non_null(strstr(r.out.data, "got-it\r\n")); /* it is the controlling one */
	assert_int_equal(r.err.len, 0);
	assert_int_equal(r.exit_code, 3);
	assert_string_equal(r.status, "exit status 3");
	run_deinit(&r);
	r = (struct run){0};
	run_open(&b, &r, "{\"pty\":{},\"process\":{\"cmd\":\"stty\",\"args\":[\"size\"]}}", NULL,
		 0);
	run_finish(&r);
	assert_string_equal(r.out.data, "24 80\r\n");
	run_deinit(&r);
	box_stop(&b);
}

static void test_owner(void **state)
{
	const struct channel_header nobody = {"authorization", "Basic bm9ib2R5Og=="};
	struct box b = {0};
	struct run r = {0};

	if (geteuid() != 0) {
		print_message("needs root to become another user\n");
		skip();
	}
	box_start(&b);
	run_open(&b, &r,
		 "{" PTY ",\"process\":{\"cmd\":\"sh\",\"args\":[\"-c\",\"stat -c %U `tty`; "
		 "echo open >`tty`\"]}}",
		 &nobody, 1);
	run_finish(&r);
	assert_string_equal(r.out.data, "nobody\r\nopen\r\n");
	run_deinit(&r);
	box_stop(&b);
}

static void test_typing(void **state)
{
	struct box b = {0};
	struct run r = {0};

	box_start(&b);
	open_shell(&b, &r, "read x; echo =$x=; cat; echo done");
	assert_int_equal(box_type(&b, r.pid, "pty", "hello\r"), 200); /* Enter is CR */
	run_until(&r, "=hello=\r\n");
	assert_int_equal(box_type(&b, r.pid, "stdin", "x"), 400);
	assert_int_equal(box_about(&b, "CloseStdin", r.pid, "", NULL), 400);
	assert_int_equal(box_type(&b, r.pid, "pty", "\x04"), 200); /* Ctrl-D */
	run_until(&r, "done\r\n");
	run_finish(&r);
	assert_int_equal(r.exit_code, 0);
	run_deinit(&r);
	r = (struct run){0};
	open_shell(&b, &r, "sleep 100");
	assert_int_equal(box_type(&b, r.pid, "pty", "\x03"), 200); /* Ctrl-C */
	run_finish(&r);
	assert_string_equal(r.status, "signal: interrupt");
	run_deinit(&r);
	box_stop(&b);
}

static void test_resize(void **state)
{
	struct box b = {0};
	struct run r = {0}, plain = {0};
	char *body;

	box_start(&b);
	open_shell(&b, &r, "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.1; done");
	run_until(&r, "ready");
	assert_int_equal(box_about(&b, "Update", r.pid,
				   ",\"pty\":{\"size\":{\"cols\":70000,\"rows\":1}}", &body),
			 400);
	assert_non_null(strstr(body, "pty.size.cols must be a number from 1 to 65535"));
	free(body);
	assert_int_equal(box_about(&b, "Update", r.pid, "", NULL), 200); /* nothing to do */
	assert_int_equal(box_about(&b, "Update", r.pid,
				   ",\"pty\":{\"size\":{\"cols\":132,\"rows\":50}}", NULL),
			 200);
	run_until(&r, "50 132\r\n");
	run_finish(&r);
	assert_int_equal(box_about(&b, "Update", r.pid,
				   ",\"pty\":{\"size\":{\"cols\":132,\"rows\":50}}", NULL),
			 404);
	run_open(&b, &plain, "{\"process\":{\"cmd\":\"cat\"}}", NULL, 0);
	run_until_started(&plain);
	assert_int_equal(
		box_about(&b, "Update", plain.pid, ",\"pty\":{\"size\":{\"cols\":9}}", &body), 400);
	assert_non_null(strstr(body, "no terminal"));
	free(body);
	assert_int_equal(box_type(&b, plain.pid, "pty", "x"), 400);
	assert_int_equal(box_about(&b, "SendSignal", plain.pid, ",\"signal\":9", NULL), 200);
	run_finish(&plain);
	run_deinit(&plain);
	run_deinit(&r);
	box_stop(&b);
}

/* All of it, in pieces of at most 16 KiB, also when the client is slower than every grace. */
static void test_all_output(void **state)
{
	struct box b = {0};
	struct run r = {0};
	const char *last;

	box_start(&b);
	open_shell(&b, &r, "seq 1 300000");
	clock_sleep_ms(1500);
	run_finish(&r);
	last = r.out.data + r.out.len - 8;
	assert_memory_equal(last, "300000\r\n", 8);
	assert_int_equal(r.out.len, 1988895 + 300000); /* seq's own, and a CR for each line */
	assert_true(r.largest <= 16384);
	assert_int_equal(r.exit_code, 0);
	run_deinit(&r);
	for (int i = 0; i < 20; i++) { /* the end is never lost in between */
		r = (struct run){0};
		open_shell(&b, &r, "head -c 30000 /dev/zero | tr '\\\\0' x; echo end");
		run_finish(&r);
		assert_int_equal(r.out.len, 30005);
		run_deinit(&r);
	}
	box_stop(&b);
}

/* The end is the session leader's, whoever else has the terminal open. */
static void test_leader_ends(void **state)
{
	struct box b = {0};
	struct run r = {0};
	uint64_t begin_ns = clock_now_ns();

	box_start(&b);
	open_shell(&b, &r, "trap '' HUP; sleep 100 & echo bye; exit 4");
	run_finish(&r);
	assert_int_equal(r.exit_code, 4);
	assert_string_equal(r.out.data, "bye\r\n");
	assert_true(clock_now_ns() - begin_ns < 5000 * NSEC_PER_MSEC);
	kill(-r.pid, SIGKILL);
	run_deinit(&r);
	box_stop(&b);
}

/* It goes on without a client, and another one finds it again. */
static void test_attach_again(void **state)
{
	struct box b = {0};
	struct run r = {0}, second = {0};
	int pid;

	box_start(&b);
	open_shell(&b, &r, "while read x; do echo =$x=; done");
	pid = r.pid;
	run_deinit(&r);
	box_reconnect(&b);
	assert_int_equal(box_type(&b, pid, "pty", "lost\r"), 200);
	clock_sleep_ms(100);
	run_connect_pid(&b, &second, pid);
	run_until_started(&second);
	assert_int_equal(second.pid, pid);
	assert_int_equal(box_type(&b, pid, "pty", "seen\r"), 200);
	run_until(&second, "=seen=\r\n");
	assert_null(strstr(second.out.data, "lost")); /* the future only */
	assert_int_equal(box_about(&b, "SendSignal", pid, ",\"signal\":\"SIGNAL_SIGKILL\"", NULL),
			 200);
	run_finish(&second);
	assert_string_equal(second.status, "signal: killed");
	run_deinit(&second);
	box_stop(&b);
}

static void test_bad_sizes(void **state)
{
	static const char *const bad[] = {"1", "{\"size\":7}", "{\"size\":{\"rows\":0}}",
					  "{\"size\":{\"cols\":\"x\"}}"};
	struct box b = {0};

	box_start(&b);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_free_ char *request =
			str_printf("{\"pty\":%s,\"process\":{\"cmd\":\"true\"}}", bad[i]);
		struct run r = {0};

		run_open(&b, &r, request, NULL, 0);
		run_finish(&r);
		assert_string_equal(r.code, "invalid_argument");
		assert_non_null(strstr(r.message, "pty"));
		run_deinit(&r);
	}
	box_stop(&b);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_terminal),     cmocka_unit_test(test_owner),
		cmocka_unit_test(test_typing),	     cmocka_unit_test(test_resize),
		cmocka_unit_test(test_all_output),   cmocka_unit_test(test_leader_ends),
		cmocka_unit_test(test_attach_again), cmocka_unit_test(test_bad_sizes),
	};

	return box_main(argc, argv, tests, ARRAY_SIZE(tests));
}
