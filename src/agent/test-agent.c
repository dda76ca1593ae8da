/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's session, its gate, and programs that it runs (test-box.h). */
#include "agent/test-box.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "base/base64.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/str.h"
#include "channel/frame.h"

/* --- tests --------------------------------------------------------------------------------------
 */

static void test_health_and_routes(void **state)
{
	struct box b = {0};
	char *body, *big;

	box_start(&b);
	assert_int_equal(box_call(&b, "GET", "/health", NULL, NULL), 204);
	assert_int_equal(box_call(&b, "GET", "/health?x=1", NULL, NULL), 204);
	assert_int_equal(box_call(&b, "POST", "/health", NULL, &body), 405);
	assert_non_null(strstr(body, "\"code\":405"));
	free(body);
	assert_int_equal(box_call(&b, "GET", "/nothing", NULL, &body), 404);
	assert_non_null(strstr(body, "\"code\":404"));
	free(body);
	big = malloc(5 << 20);
	memset(big, 'x', 5 << 20);
	big[(5 << 20) - 1] = 0;
	assert_int_equal(box_call(&b, "POST", "/init", big, NULL), 413);
	free(big);
	box_stop(&b);
}

/* What dormd carries for a client is marked; such a request never reaches the host's own routes. */
static void test_client_routes(void **state)
{
	const struct channel_header client = {"x-dorm-client", "1"};
	const char *const paths[] = {"/init", "/prepare", "/health"};
	struct box b = {0};

	box_start(&b);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		_cleanup_(channel_stream_closep) struct channel_stream *s = NULL;
		int status;

		assert_int_equal(channel_stream_open(b.ch, i == 2 ? "GET" : "POST", paths[i],
						     &client, 1, true, &s),
				 0);
		assert_int_equal(channel_stream_head(s, box_soon(), &status), 0);
		assert_int_equal(status, i == 2 ? 204 : 404);
	}
	box_stop(&b);
}

static void test_gate(void **state)
{
	static const char *const bad[] = {
		"", "[]", "{\"sandboxID\":\"a\",\"hostname\":\"a\",\"timestampNs\":1}",
		"{\"sandboxID\":\"a\",\"hostname\":\"a\",\"timestampNs\":1,\"entropy\":\"c2hvcnQ="
		"\"}",
		"{\"sandboxID\":\"a\",\"hostname\":\"a\",\"timestampNs\":-5,"
		"\"entropy\":\"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\"}"};
	struct box b = {0};
	char *body;

	strcpy(b.dir, "/tmp/test-agent-XXXXXX");
	assert_non_null(mkdtemp(b.dir));
	snprintf(b.path, sizeof(b.path), "%s/s", b.dir);
	box_spawn(&b);
	box_reconnect(&b);
	assert_int_equal(box_call(&b, "GET", "/health", NULL, NULL), 204);
	assert_int_equal(box_call(&b, "POST", "/process.Process/List", "{}", &body), 503);
	assert_non_null(strstr(body, "unavailable"));
	free(body);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(box_call(&b, "POST", "/init", bad[i], NULL), 400);
	assert_int_equal(box_call(&b, "POST", "/process.Process/List", "{}", NULL), 503);
	box_init(&b, 200);
	assert_int_equal(box_call(&b, "POST", "/process.Process/List", "{}", NULL), 200);
	box_reconnect(&b); /* the daemon was restarted: still good */
	assert_int_equal(box_call(&b, "POST", "/process.Process/List", "{}", NULL), 200);
	box_stop(&b);
}

static void test_run(void **state)
{
	struct box b = {0};
	struct run r;

	box_start(&b);
	run_expect(&b, "echo hello", 0, "hello\n");
	run_expect(&b, "echo $COLOUR $E2B_SANDBOX $E2B_SANDBOX_ID", 0, "blue true i123\n");
	run_expect(&b, "exit 3", 3, "");
	run_expect(&b, "cat; echo $?", 0, "0\n"); /* stdin is /dev/null */
	run_expect(&b,
		   "read -r pid comm state ppid pgrp rest < /proc/$$/stat; "
		   "[ $pgrp = $$ ] && echo leader",
		   0, "leader\n");
	run_expect(&b, "echo again > /dev/stdout", 0, "again\n");
	r = run_shell(&b, "echo out; echo err >&2; exit 3");
	assert_string_equal(r.out.data, "out\n");
	assert_string_equal(r.err.data, "err\n");
	assert_string_equal(r.status, "exit status 3");
	assert_true(r.exited);
	run_deinit(&r);
	r = run_shell(&b, "kill -KILL $$");
	assert_int_equal(r.exit_code, -1);
	assert_false(r.exited);
	assert_string_equal(r.status, "signal: killed");
	run_deinit(&r);
	box_stop(&b);
}

static void expect_error(struct box *b, const char *request, const struct channel_header *h,
			 size_t n, const char *code, const char *message)
{
	struct run r = {0};

	run_open(b, &r, request, h, n);
	run_finish(&r);
	if (strcmp(r.code, code) || !strstr(r.message, message))
		fail_msg("%s: %s %s", request, r.code, r.message);
	assert_false(r.started);
	run_deinit(&r);
}

static void test_bad_starts(void **state)
{
	const struct channel_header nobody = {"authorization", "Basic bm8tc3VjaC11c2VyOg=="},
				    junk = {"authorization", "Bearer x"},
				    timeout = {"connect-timeout-ms", "soon"};
	struct box b = {0};

	box_start(&b);
	expect_error(&b, "{\"process\":{\"cmd\":\"/bin/true\",\"cwd\":\"/no/such\"}}", NULL, 0,
		     "invalid_argument", "cwd '/no/such' does not exist");
	expect_error(&b, "{\"process\":{\"cmd\":\"/bin/true\",\"cwd\":\"/etc/passwd\"}}", NULL, 0,
		     "invalid_argument", "Not a directory");
	expect_error(&b, "{\"process\":{\"cmd\":\"no-such-program\"}}", NULL, 0, "invalid_argument",
		     "cannot run 'no-such-program': No such file");
	expect_error(&b, "{\"process\":{\"cmd\":\"/etc/passwd\"}}", NULL, 0, "invalid_argument",
		     "Permission denied");
	expect_error(&b, "{\"process\":{}}", NULL, 0, "invalid_argument", "process.cmd");
	expect_error(&b, "{\"process\":{\"cmd\":\"a\",\"args\":[1]}}", NULL, 0, "invalid_argument",
		     "process.args[0]");
	expect_error(&b, "{\"process\":{\"cmd\":\"a\",\"envs\":{\"A=\":\"\"}}}", NULL, 0,
		     "invalid_argument", "process.envs");
	expect_error(&b, "not json", NULL, 0, "invalid_argument", "bad request message");
	expect_error(&b, "{\"process\":{\"cmd\":\"true\"}}", &nobody, 1, "unauthenticated",
		     "no-such-user");
	expect_error(&b, "{\"process\":{\"cmd\":\"true\"}}", &junk, 1, "unauthenticated", "Basic");
	expect_error(&b, "{\"process\":{\"cmd\":\"true\"}}", &timeout, 1, "invalid_argument",
		     "Connect-Timeout-Ms");
	run_expect(&b, "echo fine", 0, "fine\n");
	box_stop(&b);
}

static void test_user(void **state)
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
		 "{\"process\":{\"cmd\":\"sh\",\"args\":[\"-c\",\"id -un; echo $USER; id -G; pwd; "
		 "echo open > /dev/stdout\"]}}",
		 &nobody, 1);
	run_finish(&r);
	assert_string_equal(r.out.data, "nobody\nnobody\n65534\n/\nopen\n");
	run_deinit(&r);
	box_stop(&b);
}

static void test_stdin(void **state)
{
	struct box b = {0};
	struct run r = {0};
	char request[256];
	char *big = malloc(400000), *message;

	box_start(&b);
	run_open(&b, &r, "{\"tag\":\"cat\",\"process\":{\"cmd\":\"cat\"}}", NULL, 0);
	run_until_started(&r);
	snprintf(request, sizeof(request),
		 "{\"process\":{\"pid\":%d},\"input\":{\"stdin\":\"aGVsbG8=\"}}", r.pid);
	assert_int_equal(box_call(&b, "POST", "/process.Process/SendInput", request, NULL), 200);
	/* more than a pipe holds: answered when cat has taken it */
	memset(big, 'A', 399999);
	big[399999] = 0;
	big[399996] = 0;
	message = str_printf("{\"process\":{\"tag\":\"cat\"},\"input\":{\"stdin\":\"%s\"}}", big);
	assert_int_equal(box_call(&b, "POST", "/process.Process/SendInput", message, NULL), 200);
	snprintf(request, sizeof(request), "{\"process\":{\"pid\":%d}}", r.pid);
	assert_int_equal(box_call(&b, "POST", "/process.Process/CloseStdin", request, NULL), 200);
	run_finish(&r);
	assert_int_equal(r.exit_code, 0);
	assert_int_equal(r.out.len, 5 + 399996 / 4 * 3);
	assert_memory_equal(r.out.data, "hello", 5);
	assert_int_equal(box_call(&b, "POST", "/process.Process/SendInput", request, NULL), 404);
	assert_int_equal(
		box_call(&b, "POST", "/process.Process/SendInput", "{\"process\":{}}", NULL), 400);
	run_deinit(&r);
	free(message);
	free(big);
	box_stop(&b);
}

static void test_stdin_without_reader(void **state)
{
	struct box b = {0};
	struct run r = {0};
	char request[128];
	char *body;

	box_start(&b);
	run_open(&b, &r, "{\"stdin\":false,\"process\":{\"cmd\":\"sleep\",\"args\":[\"100\"]}}",
		 NULL, 0);
	run_until_started(&r);
	snprintf(request, sizeof(request),
		 "{\"process\":{\"pid\":%d},\"input\":{\"stdin\":\"eA==\"}}", r.pid);
	assert_int_equal(box_call(&b, "POST", "/process.Process/SendInput", request, &body), 400);
	assert_non_null(strstr(body, "failed_precondition"));
	free(body);
	kill(-r.pid, SIGKILL);
	run_deinit(&r);
	r = (struct run){0};
	run_open(&b, &r, "{\"process\":{\"cmd\":\"sh\",\"args\":[\"-c\",\"exec <&-; sleep 100\"]}}",
		 NULL, 0);
	run_until_started(&r);
	clock_sleep_ms(100);
	snprintf(request, sizeof(request),
		 "{\"process\":{\"pid\":%d},\"input\":{\"stdin\":\"eA==\"}}", r.pid);
	assert_int_equal(box_call(&b, "POST", "/process.Process/SendInput", request, &body), 400);
	assert_non_null(strstr(body, "failed_precondition"));
	free(body);
	kill(-r.pid, SIGKILL);
	run_deinit(&r);
	box_stop(&b);
}

static void test_list_and_signal(void **state)
{
	struct box b = {0};
	struct run r = {0};
	char request[128], *body;

	box_start(&b);
	run_open(
		&b, &r,
		"{\"tag\":\"nap\",\"process\":{\"cmd\":\"sh\",\"args\":[\"-c\",\"sleep 100; :\"]}}",
		NULL, 0);
	run_until_started(&r);
	assert_int_equal(box_call(&b, "POST", "/process.Process/List", "{}", &body), 200);
	snprintf(request, sizeof(request), "\"pid\":%d", r.pid);
	assert_non_null(strstr(body, request));
	assert_non_null(strstr(body, "\"tag\":\"nap\""));
	assert_non_null(strstr(body, "\"cmd\":\"sh\""));
	free(body);
	snprintf(request, sizeof(request), "{\"process\":{\"pid\":%d},\"signal\":\"SIGNAL_X\"}",
		 r.pid);
	assert_int_equal(box_call(&b, "POST", "/process.Process/SendSignal", request, NULL), 400);
	assert_int_equal(box_call(&b, "POST", "/process.Process/SendSignal",
				  "{\"process\":{\"tag\":\"nap\"},\"signal\":\"SIGNAL_SIGTERM\"}",
				  NULL),
			 200);
	run_finish(&r);
	assert_string_equal(r.status, "signal: terminated");
	assert_int_equal(box_call(&b, "POST", "/process.Process/SendSignal",
				  "{\"process\":{\"pid\":999999999},\"signal\":\"SIGNAL_SIGKILL\"}",
				  NULL),
			 404);
	assert_int_equal(box_call(&b, "POST", "/process.Process/List", "{}", &body), 200);
	assert_string_equal(body, "{\"processes\":[]}");
	free(body);
	run_deinit(&r);
	box_stop(&b);
}

static void test_deadline_and_keepalive(void **state)
{
	const struct channel_header h[] = {{"connect-timeout-ms", "1500"},
					   {"keepalive-ping-interval", "1"}};
	struct box b = {0};
	struct run r = {0};
	uint64_t begin_ns = clock_now_ns(), took_ns;

	box_start(&b);
	run_open(&b, &r, "{\"process\":{\"cmd\":\"sleep\",\"args\":[\"100\"]}}", h, 2);
	run_finish(&r);
	took_ns = clock_now_ns() - begin_ns;
	assert_string_equal(r.code, "deadline_exceeded");
	assert_int_equal(r.keepalives, 1);
	assert_true(took_ns >= 1500 * NSEC_PER_MSEC && took_ns < 5000 * NSEC_PER_MSEC);
	clock_sleep_ms(100);
	assert_int_equal(kill(r.pid, 0), -1); /* killed and reaped */
	run_deinit(&r);
	box_stop(&b);
}

/* All output comes before `end`, to the last byte, however much it is. */
static void test_large_output(void **state)
{
	struct box b = {0};
	struct run r;

	box_start(&b);
	r = run_shell(&b, "head -c 20000000 /dev/zero; echo tail");
	assert_int_equal(r.exit_code, 0);
	assert_int_equal(r.out.len, 20000005);
	assert_string_equal(r.out.data + 20000000, "tail\n");
	run_deinit(&r);
	box_stop(&b);
}

/* A client that does not read stops the program; what the agent holds is bounded. */
static void test_backpressure(void **state)
{
	struct box b = {0};
	struct run r = {0};
	long before, after;

	box_start(&b);
	run_expect(&b, "head -c 3000000 /dev/zero | wc -c", 0, "3000000\n");
	before = box_rss_kb(&b);
	run_open(&b, &r,
		 "{\"process\":{\"cmd\":\"sh\",\"args\":[\"-c\","
		 "\"head -c 100000000 /dev/zero; exit 7\"]}}",
		 NULL, 0);
	clock_sleep_ms(500);
	after = box_rss_kb(&b);
	assert_true(after - before < 4096);
	run_expect(&b, "echo others go on", 0, "others go on\n");
	run_finish(&r);
	assert_int_equal(r.out.len, 100000000);
	assert_int_equal(r.exit_code, 7);
	run_deinit(&r);
	box_stop(&b);
}

/* A slow client whose program has long ended still gets all of it. */
static void test_slow_client_gets_everything(void **state)
{
	struct box b = {0};
	struct run r = {0};

	box_start(&b);
	run_open(&b, &r,
		 "{\"process\":{\"cmd\":\"sh\",\"args\":[\"-c\",\"head -c 480000 /dev/zero\"]}}",
		 NULL, 0);
	clock_sleep_ms(1800); /* longer than any grace */
	run_finish(&r);
	assert_int_equal(r.out.len, 480000);
	assert_true(r.ended);
	run_deinit(&r);
	box_stop(&b);
}

static void test_background_child(void **state)
{
	struct box b = {0};
	struct run r;
	uint64_t begin_ns = clock_now_ns();
	char script[128];

	box_start(&b);
	r = run_shell(&b, "sleep 100 & echo started");
	assert_string_equal(r.out.data, "started\n");
	assert_true(clock_now_ns() - begin_ns < 900 * NSEC_PER_MSEC); /* silent: short grace */
	kill(-r.pid, SIGKILL);
	run_deinit(&r);
	snprintf(script, sizeof(script), "(sleep 0.6; echo late; touch %s/alive) & echo now",
		 b.dir);
	run_expect(&b, script, 0, "now\n");
	clock_sleep_ms(900); /* its late output did not kill it */
	snprintf(script, sizeof(script), "rm %s/alive", b.dir);
	run_expect(&b, script, 0, "");
	begin_ns = clock_now_ns();
	r = run_shell(&b, "yes & exit 5"); /* chatter: long grace, then cut */
	assert_int_equal(r.exit_code, 5);
	assert_true(clock_now_ns() - begin_ns < 8000 * NSEC_PER_MSEC);
	run_deinit(&r);
	box_stop(&b);
}

/* The client's disappearance does not kill, and does not block, the program. */
static void test_client_goes_away(void **state)
{
	struct box b = {0};
	struct run r = {0};
	char request[256], path[64];

	box_start(&b);
	snprintf(path, sizeof(path), "%s/done", b.dir);
	snprintf(request, sizeof(request),
		 "{\"process\":{\"cmd\":\"sh\",\"args\":[\"-c\","
		 "\"head -c 3000000 /dev/zero; touch %s\"]}}",
		 path);
	run_open(&b, &r, request, NULL, 0);
	run_until_started(&r);
	run_deinit(&r);
	box_reconnect(&b);
	for (int i = 0; i < 200 && access(path, F_OK) < 0; i++)
		clock_sleep_ms(10);
	assert_int_equal(unlink(path), 0);
	run_expect(&b, "echo still here", 0, "still here\n");
	box_stop(&b);
}

static void test_200_at_once(void **state)
{
	struct run *r = calloc(200, sizeof(*r));
	struct box b = {0};

	box_start(&b);
	for (int i = 0; i < 200; i++) {
		char request[128];

		snprintf(request, sizeof(request),
			 "{\"process\":{\"cmd\":\"sh\",\"args\":[\"-c\",\"read x; echo %d $x\"]}}",
			 i);
		run_open(&b, &r[i], request, NULL, 0);
	}
	for (int i = 0; i < 200; i++) {
		char request[128];

		run_until_started(&r[i]);
		snprintf(request, sizeof(request),
			 "{\"process\":{\"pid\":%d},\"input\":{\"stdin\":\"Z28K\"}}", r[i].pid);
		assert_int_equal(box_call(&b, "POST", "/process.Process/SendInput", request, NULL),
				 200);
	}
	for (int i = 0; i < 200; i++) {
		char want[32];

		run_finish(&r[i]);
		snprintf(want, sizeof(want), "%d go\n", i);
		assert_string_equal(r[i].out.data, want);
		run_deinit(&r[i]);
	}
	free(r);
	box_stop(&b);
}

/* When only the disks are kept, they are written to the end, and the page cache is nobody's
 * business. */
static void test_prepare_for_the_disks(void **state)
{
	struct box b = {0};
	char *body;

	box_start(&b);
	assert_int_equal(box_call(&b, "POST", "/prepare", "{\"disks\":true}", &body), 200);
	assert_non_null(strstr(body, "\"name\":\"sync\",\"ok\":true"));
	assert_non_null(strstr(body, "\"name\":\"freeze_disk\",\"ok\":true"));
	assert_null(strstr(body, "drop_caches"));
	free(body);
	box_reconnect(&b);
	assert_int_equal(box_call(&b, "POST", "/prepare", "{}", &body), 200);
	assert_null(strstr(body, "freeze_disk"));
	free(body);
	box_stop(&b);
}

/* After prepare: no request is executed, not even one that is complete and well-framed. */
static void test_prepare_seals(void **state)
{
	struct box b = {0};
	struct run r = {0};
	struct channel_stream *s;
	char *body;
	int status;

	box_start(&b);
	run_open(&b, &r, "{\"process\":{\"cmd\":\"sleep\",\"args\":[\"100\"]}}", NULL, 0);
	run_until_started(&r);
	assert_int_equal(box_call(&b, "POST", "/prepare", NULL, &body), 200);
	assert_non_null(strstr(body, "\"name\":\"freeze\",\"ok\":false")); /* no cgroup here */
	assert_non_null(strstr(body, "\"name\":\"sync\",\"ok\":true"));
	assert_non_null(strstr(body, "\"name\":\"drop_caches\",\"ok\":true"));
	free(body);
	assert_int_equal(run_step(&r, box_soon()), -ECONNRESET); /* at once, not never */
	assert_int_equal(channel_stream_open(b.ch, "GET", "/health", NULL, 0, true, &s), 0);
	assert_int_equal(channel_stream_head(s, deadline_after_ms(200), &status), -ETIMEDOUT);
	channel_stream_close(s);
	run_deinit(&r);
	box_reconnect(&b);
	assert_int_equal(box_call(&b, "GET", "/health", NULL, NULL), 204);
	assert_int_equal(box_call(&b, "POST", "/process.Process/List", "{}", NULL), 503);
	box_init(&b, 200);
	assert_int_equal(box_call(&b, "POST", "/process.Process/List", "{}", &body), 200);
	assert_non_null(strstr(body, "\"cmd\":\"sleep\"")); /* it lived through it */
	free(body);
	kill(-r.pid, SIGKILL);
	box_stop(&b);
}

static int counted(const char *path)
{
	struct stat st;

	return stat(path, &st) < 0 ? -1 : (int)st.st_size;
}

static void test_freeze_and_thaw(void **state)
{
	struct box b = {0};
	struct run r = {0};
	char request[256], path[64], *body;
	int before;

	if (!box_make_cgroup(&b))
		skip();
	box_start(&b);
	snprintf(path, sizeof(path), "%s/count", b.dir);
	snprintf(request, sizeof(request),
		 "{\"process\":{\"cmd\":\"sh\",\"args\":[\"-c\","
		 "\"while sleep 0.02; do echo -n x >> %s; done\"]}}",
		 path);
	run_open(&b, &r, request, NULL, 0);
	run_until_started(&r);
	clock_sleep_ms(200);
	assert_int_equal(box_call(&b, "POST", "/prepare", NULL, &body), 200);
	assert_non_null(strstr(body, "\"name\":\"freeze\",\"ok\":true"));
	free(body);
	before = counted(path);
	assert_true(before > 0);
	clock_sleep_ms(200);
	assert_int_equal(counted(path), before); /* frozen */
	run_deinit(&r);
	box_reconnect(&b);
	box_init(&b, 200);
	clock_sleep_ms(300);
	assert_true(counted(path) > before); /* thawed */
	kill(-r.pid, SIGKILL);
	unlink(path);
	box_stop(&b);
	unlink(path); /* it may have had the time for one more */
	rmdir(b.dir);
}

/* What a dead host left in the pipe: half a frame of a request is not glued to the next session. */
static void test_stale_bytes(void **state)
{
	struct box b = {0};
	int fd;

	box_start(&b);
	b.ch = channel_free(b.ch);
	fd = fd_unix_connect(b.path, SOCK_STREAM);
	assert_int_equal(fd_write_full(fd, "\xD3\x40\x00PRI * HT", 11), 0);
	fd_close(fd);
	assert_int_equal(channel_connect(b.path, -1, -1, box_soon(), &b.ch), 0);
	run_expect(&b, "echo clean", 0, "clean\n");
	box_stop(&b);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_health_and_routes),
		cmocka_unit_test(test_client_routes),
		cmocka_unit_test(test_gate),
		cmocka_unit_test(test_run),
		cmocka_unit_test(test_bad_starts),
		cmocka_unit_test(test_user),
		cmocka_unit_test(test_stdin),
		cmocka_unit_test(test_stdin_without_reader),
		cmocka_unit_test(test_list_and_signal),
		cmocka_unit_test(test_deadline_and_keepalive),
		cmocka_unit_test(test_large_output),
		cmocka_unit_test(test_backpressure),
		cmocka_unit_test(test_slow_client_gets_everything),
		cmocka_unit_test(test_background_child),
		cmocka_unit_test(test_client_goes_away),
		cmocka_unit_test(test_200_at_once),
		cmocka_unit_test(test_prepare_for_the_disks),
		cmocka_unit_test(test_prepare_seals),
		cmocka_unit_test(test_freeze_and_thaw),
		cmocka_unit_test(test_stale_bytes),
	};

	return box_main(argc, argv, tests, ARRAY_SIZE(tests));
}
