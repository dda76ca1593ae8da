/* SPDX-License-Identifier: Apache-2.0 */
/* dorm exec and run with a command, against a scripted sandbox */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "cli/test-server.h"

#define assert_contains(_text, _part)                                                              \
	do {                                                                                       \
		if (!strstr((_text), (_part)))                                                     \
			fail_msg("'%s' is not in:\n%s", (_part), (_text));                         \
	} while (0)

#define START_PATH "/process.Process/Start"
#define CONNECT	   "application/connect+json"

/* A process that lives as long as one Start; input and signals come by other connections. */
struct sandbox {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool signalled, killed, closed;
	bool stubborn;	    /* ends by SIGKILL only */
	size_t n_input;	    /* bytes of standard input */
	size_t n_output;    /* KiB to write */
	const char *frames; /* raw answer of Start, when set */
	size_t n_frames;
};

static struct sandbox *sandbox_init(struct sandbox *b)
{
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->changed, NULL);
	return b;
}

static void flip(struct sandbox *b, bool *flag)
{
	pthread_mutex_lock(&b->lock);
	*flag = true;
	pthread_cond_broadcast(&b->changed);
	pthread_mutex_unlock(&b->lock);
}

static bool is_set(struct sandbox *b, const bool *flag)
{
	LOCK_SCOPE(&b->lock);
	return *flag;
}

static void data_frame(int fd, const char *stream, const char *text, size_t len)
{
	char *coded = malloc(base64_encoded_len(len) + 1), *json = NULL;

	(void)base64_encode(text, len, coded);
	if (asprintf(&json, "{\"event\":{\"data\":{\"%s\":\"%s\"}}}", stream, coded) > 0)
		test_frame(fd, 0, json);
	free(json);
	free(coded);
}

static void end_frames(int fd, int code, const char *status)
{
	char json[256];

	(void)snprintf(json, sizeof(json),
		       "{\"event\":{\"end\":{\"exitCode\":%d,\"exited\":%s,\"status\":\"%s\"}}}",
		       code, code < 0 ? "false" : "true", status);
	test_frame(fd, 0, json);
	test_frame(fd, 2, "{}");
	test_stream_end(fd);
}

/* `cat`: input is echoed as it comes, until it is closed; then exit code 7. Signals end it earlier.
 */
static void take_input(struct sandbox *b, const struct test_request *rq, int fd)
{
	const char *text = strstr(rq->body, "\"stdin\":\"");
	size_t len = text ? strcspn(text + 9, "\"") : 0;
	char *plain = malloc(len + 4);
	ssize_t n = text ? base64_decode(text + 9, len, plain) : -1;

	pthread_mutex_lock(&b->lock);
	b->n_input += n > 0 ? (size_t)n : 0;
	pthread_mutex_unlock(&b->lock);
	free(plain);
	test_reply_json(fd, 200, "{}");
}

static void live(struct sandbox *b, int fd)
{
	char text[64];

	test_stream_begin(fd, CONNECT);
	test_frame(fd, 0, "{\"event\":{\"start\":{\"pid\":7}}}");
	test_frame(fd, 0, "{\"event\":{\"keepalive\":{}}}");
	test_frame(fd, 0, "{\"event\":{\"dream\":{}}}");
	pthread_mutex_lock(&b->lock);
	while (!b->closed && !b->killed && !(b->signalled && !b->stubborn))
		pthread_cond_wait(&b->changed, &b->lock);
	(void)snprintf(text, sizeof(text), "got %zu bytes\n", b->n_input);
	pthread_mutex_unlock(&b->lock);
	data_frame(fd, "stdout", text, strlen(text));
	data_frame(fd, "stderr", "bye\n", 4);
	if (b->killed)
		end_frames(fd, -1, "signal: killed");
	else if (b->signalled)
		end_frames(fd, -1, "signal: terminated");
	else
		end_frames(fd, 7, "exit status 7");
}

/* What every session begins with. Return: was it that? */
static bool answer_access(const struct test_request *rq, int fd)
{
	if (!test_is(rq, "GET", "/sandboxes/i1"))
		return false;
	test_reply_json(fd, 200, "{\"sandboxID\":\"i1\",\"envdAccessToken\":\"secret\"}");
	return true;
}

static void handle(struct test_server *s, const struct test_request *rq, int fd)
{
	struct sandbox *b = test_server_userdata(s);

	if (answer_access(rq, fd))
		return;

	if (test_is(rq, "POST", "/v2/sandboxes")) {
		test_reply_json(fd, 201, "{\"sandboxID\":\"i1\"}");
	} else if (test_is(rq, "DELETE", "/sandboxes/i1")) {
		test_reply_json(fd, 204, "");
	} else if (!strstr(rq->head, "E2b-Sandbox-Id: i1\r\n") ||
		   !strstr(rq->head, "E2b-Sandbox-Port: 49983\r\n") ||
		   !strstr(rq->head, "X-Access-Token: secret\r\n")) {
		test_reply_json(fd, 400,
				"{\"code\":400,\"message\":\"no sandbox in the headers\"}");
	} else if (test_is(rq, "POST", "/process.Process/SendInput")) {
		take_input(b, rq, fd);
	} else if (test_is(rq, "POST", "/process.Process/CloseStdin")) {
		flip(b, &b->closed);
		test_reply_json(fd, 200, "{}");
	} else if (test_is(rq, "POST", "/process.Process/SendSignal")) {
		flip(b, strstr(rq->body, "SIGNAL_SIGKILL") ? &b->killed : &b->signalled);
		test_reply_json(fd, 200, "{}");
	} else {
		live(b, fd);
	}
}

/* ---- input, output, exit codes
 * --------------------------------------------------------------------- */

static void test_input(void **state)
{
	struct sandbox b = {0};
	struct test_server *s = test_server_start(handle, sandbox_init(&b));
	char *input = malloc(200001);
	struct test_outcome o;
	char *log;

	memset(input, 'x', 200000);
	input[200000] = 0;
	o = test_dorm(s, input, "exec", "-i", "-u", "root", "-w", "/srv", "-e", "A=1", "--timeout", "60",
		      "i1", "cat", "-n", NULL);
	log = test_server_log(s);
	assert_int_equal(o.code, 7);
	assert_string_equal(o.out, "got 200000 bytes\n");
	assert_string_equal(o.err, "bye\n");
	assert_contains(log, START_PATH
			" {\"process\":{\"cmd\":\"cat\",\"args\":[\"-n\"],\"envs\":{\"A\":"
			"\"1\"},\"cwd\":\"/srv\"},\"stdin\":true}\n");
	assert_contains(log, "/process.Process/CloseStdin {\"process\":{\"pid\":7}}\n");
	free(log);
	free(input);
	test_outcome_deinit(&o);
	test_server_stop(s);
}

static void test_no_input(void **state)
{
	struct sandbox b = {.closed = true};
	struct test_server *s = test_server_start(handle, sandbox_init(&b));
	struct test_outcome o =
		test_dorm(s, "ignored", "exec", "i1", "--", "sh", "-c", "exit 7", NULL);
	char *log = test_server_log(s);

	assert_int_equal(o.code, 7);
	assert_string_equal(o.out, "got 0 bytes\n");
	assert_string_equal(o.err, "bye\n");
	assert_contains(
		log,
		"{\"process\":{\"cmd\":\"sh\",\"args\":[\"-c\",\"exit 7\"]},\"stdin\":false}\n");
	assert_null(strstr(log, "SendInput"));
	assert_null(strstr(log, "CloseStdin"));
	free(log);
	test_outcome_deinit(&o);
	test_server_stop(s);
}

static void test_run_rm(void **state)
{
	struct sandbox b = {.closed = true};
	struct test_server *s = test_server_start(handle, sandbox_init(&b));
	struct test_outcome o = test_dorm(s, "", "run", "--rm", "base", "--", "true", NULL);
	char *log = test_server_log(s);

	assert_int_equal(o.code, 7);
	assert_string_equal(o.out, "got 0 bytes\n");
	assert_contains(log, "DELETE /sandboxes/i1 \n");
	free(log);
	test_outcome_deinit(&o);
	test_server_stop(s);
}

/* ---- signals
 * --------------------------------------------------------------------------------------- */

static void wait_for_log(struct test_server *s, const char *text)
{
	for (int i = 0; i < 2000; i++) {
		char *log = test_server_log(s);
		bool found = strstr(log, text);

		free(log);
		if (found)
			return;
		clock_sleep_ms(5);
	}
	fail_msg("no request %s", text);
}

static int signal_run(bool stubborn, int n_signals, const char *const *args, char **ret_log)
{
	struct sandbox b = {.stubborn = stubborn};
	struct test_server *s = test_server_start(handle, sandbox_init(&b));
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), fds[3] = {null, null, null};
	pid_t pid = test_spawn(s, fds, args);
	int code;

	wait_for_log(s, START_PATH);
	for (int i = 0; i < n_signals; i++) {
		assert_int_equal(kill(pid, SIGINT), 0);
		if (!i)
			wait_for_log(s, "SIGNAL_SIGTERM");
	}
	code = test_wait(pid);
	fd_close(null);
	*ret_log = test_server_log(s);
	test_server_stop(s);
	return code;
}

static void test_signals(void **state)
{
	const char *exec[] = {"exec", "i1", "sleep", "100", NULL};
	const char *run[] = {"run", "--rm", "base", "--", "sleep", "100", NULL};
	char *log;

	assert_int_equal(signal_run(false, 1, exec, &log), 128 + SIGTERM);
	free(log);
	assert_int_equal(signal_run(true, 2, exec, &log), 128 + SIGKILL);
	free(log);
	assert_int_equal(signal_run(false, 1, run, &log), 128 + SIGTERM);
	assert_contains(log, "DELETE /sandboxes/i1"); /* nothing is left behind */
	free(log);
}

/* ---- what can go wrong
 * ----------------------------------------------------------------------------- */

static void raw(struct test_server *s, const struct test_request *rq, int fd)
{
	struct sandbox *b = test_server_userdata(s);

	if (answer_access(rq, fd))
		return;
	test_stream_begin(fd, CONNECT);
	for (size_t i = 0; i < b->n_frames; i++)
		test_stream(fd, b->frames + i, 1); /* every byte by itself */
	test_stream_end(fd);
}

static struct test_outcome answer(const char *frames, size_t n)
{
	struct sandbox b = {.frames = frames, .n_frames = n};
	struct test_server *s = test_server_start(raw, &b);
	struct test_outcome o = test_dorm(s, "", "exec", "i1", "--", "prog", NULL);

	test_server_stop(s);
	return o;
}

static void add_frame(struct buf *b, unsigned char flags, const char *json)
{
	size_t len = strlen(json);
	unsigned char h[5] = {flags, 0, 0, (unsigned char)(len >> 8), (unsigned char)len};

	(void)buf_append(b, h, 5);
	(void)buf_append(b, json, len);
}

#define PID_FRAME "{\"event\":{\"start\":{\"pid\":7}}}"

static void test_stream_errors(void **state)
{
	static const struct {
		const char *message, *end;
		int code;
		const char *err;
	} cases[] = {
		{NULL,
		 "{\"error\":{\"code\":\"invalid_argument\",\"message\":\"prog: No such file or "
		 "directory\"}}",
		 127, "dorm: prog: No such file or directory"},
		{NULL,
		 "{\"error\":{\"code\":\"invalid_argument\",\"message\":\"prog: Permission "
		 "denied\"}}",
		 126, "Permission denied"},
		{NULL,
		 "{\"error\":{\"code\":\"invalid_argument\",\"message\":\"cwd '/x' does not "
		 "exist\"}}",
		 125, "cwd '/x' does not exist"},
		{PID_FRAME, "{\"error\":{\"code\":\"deadline_exceeded\"}}", 124,
		 "deadline_exceeded"},
		{PID_FRAME, "{\"error\":{\"code\":\"unavailable\",\"message\":\"gone\"}}", 125,
		 "dorm: gone"},
		{PID_FRAME, "{}", 125, "did not say how 'prog' ended"},
		{PID_FRAME, NULL, 125, "broke off before its end"},
		{"{\"event\":{\"data\":{\"stdout\":\"?\"}}}", "{}", 125, "not base64"},
		{"[1]", "{}", 125, "not a JSON object"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct buf b = {0};
		struct test_outcome o;

		if (cases[i].message)
			add_frame(&b, 0, cases[i].message);
		if (cases[i].end)
			add_frame(&b, 2, cases[i].end);
		o = answer(b.data, b.len);
		assert_contains(o.err, cases[i].err);
		assert_int_equal(o.code, cases[i].code);
		test_outcome_deinit(&o);
		buf_deinit(&b);
	}
}

static void gone(struct test_server *s, const struct test_request *rq, int fd)
{
	int *variant = test_server_userdata(s);

	if (*variant == 3)
		test_reply_json(fd, 404, "{\"code\":404,\"message\":\"there is no sandbox i1\"}");
	else if (answer_access(rq, fd))
		return;
	else if (*variant == 0)
		test_reply_json(fd, 502,
				"{\"sandboxId\":\"i1\",\"message\":\"The sandbox was not "
				"found\",\"code\":502}");
	else if (*variant == 1)
		test_reply(fd, 200, "text/html", "", "<html>");
	else
		(void)shutdown(fd, 2);
}

static void test_http_errors(void **state)
{
	static const char *const errors[] = {"hint: see what state it is in",
					     "answered with text/html", "closed the connection",
					     "dorm: there is no sandbox i1\nhint: see what state"};

	for (int i = 0; i < 4; i++) {
		struct test_server *s = test_server_start(gone, &i);
		struct test_outcome o = test_dorm(s, "", "exec", "i1", "--", "prog", NULL);

		assert_int_equal(o.code, 125);
		assert_contains(o.err, errors[i]);
		test_outcome_deinit(&o);
		test_server_stop(s);
	}
}

/* ---- much output, and nobody to read it
 * ------------------------------------------------------------- */

static void flood(struct test_server *s, const struct test_request *rq, int fd)
{
	struct sandbox *b = test_server_userdata(s);
	char kib[1024];

	if (answer_access(rq, fd))
		return;
	if (strcmp(rq->target, START_PATH) != 0) {
		flip(b, &b->signalled);
		test_reply_json(fd, 200, "{}");
		return;
	}
	memset(kib, 'y', sizeof(kib));
	test_stream_begin(fd, CONNECT);
	test_frame(fd, 0, PID_FRAME);
	for (size_t i = 0; i < b->n_output && !is_set(b, &b->signalled); i++)
		data_frame(fd, "stdout", kib, sizeof(kib));
	if (is_set(b, &b->signalled))
		end_frames(fd, -1, "signal: terminated");
	else
		end_frames(fd, 0, "exit status 0");
}

static void test_slow_reader(void **state)
{
	const char *args[] = {"exec", "i1", "yes", NULL};
	struct sandbox b = {.n_output = 4096};
	struct test_server *s = test_server_start(flood, sandbox_init(&b));
	int p[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
	uint64_t start_ns = clock_now_ns();
	size_t total = 0;
	char data[65536];
	pid_t pid;
	ssize_t n;

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	pid = test_spawn(s, (int[3]){null, p[1], null}, args);
	close(p[1]);
	clock_sleep_ms(300); /* buffers fill up: ours, the pipe's, the sockets' */
	while ((n = read(p[0], data, sizeof(data))) > 0)
		total += (size_t)n;
	assert_int_equal(total, 4096 * 1024);
	assert_true(clock_now_ns() - start_ns <
		    20 * NSEC_PER_SEC); /* it never waited for a timeout */
	assert_int_equal(test_wait(pid), 0);
	close(p[0]);
	close(null);
	test_server_stop(s);
}

static void test_reader_leaves(void **state)
{
	const char *args[] = {"exec", "i1", "yes", NULL};
	struct sandbox b = {.n_output = SIZE_MAX};
	struct test_server *s = test_server_start(flood, sandbox_init(&b));
	int p[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
	char data[100];
	pid_t pid;

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	pid = test_spawn(s, (int[3]){null, p[1], null}, args);
	close(p[1]);
	assert_int_equal(fd_read_full(p[0], data, sizeof(data)), 0);
	close(p[0]);
	assert_int_equal(test_wait(pid), 128 + SIGPIPE);
	assert_true(is_set(&b, &b.signalled)); /* the command was ended, as by a pipe */
	close(null);
	test_server_stop(s);
}

TEST_MAIN(cmocka_unit_test(test_input), cmocka_unit_test(test_no_input),
	  cmocka_unit_test(test_run_rm), cmocka_unit_test(test_signals),
	  cmocka_unit_test(test_stream_errors), cmocka_unit_test(test_http_errors),
	  cmocka_unit_test(test_slow_reader), cmocka_unit_test(test_reader_leaves))
