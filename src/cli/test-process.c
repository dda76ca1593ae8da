/* SPDX-License-Identifier: Apache-2.0 */
/* dorm exec -t and -d, attach, kill, ps ID, against a scripted sandbox with one program, 7 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "cli/test-server.h"

#define assert_contains(_text, _part)                                                              \
	do {                                                                                       \
		if (!strstr((_text), (_part)))                                                     \
			fail_msg("'%s' is not in:\n%s", (_part), (_text));                         \
	} while (0)

#define START	"{\"event\":{\"start\":{\"pid\":7}}}"
#define HELLO	"{\"event\":{\"data\":{\"pty\":\"aGVsbG8K\"}}}"
#define STDOUT	"{\"event\":{\"data\":{\"stdout\":\"aGVsbG8K\"}}}"
#define END_3	"{\"event\":{\"end\":{\"exitCode\":3,\"exited\":true,\"status\":\"exit status 3\"}}}"
#define CONNECT "application/connect+json"

/* The program runs until it is told to end. */
struct sandbox {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool over;
	bool has_pty;
	bool at_once; /* it ends by itself */
};

static void end_it(struct sandbox *b)
{
	pthread_mutex_lock(&b->lock);
	b->over = true;
	pthread_cond_broadcast(&b->changed);
	pthread_mutex_unlock(&b->lock);
}

static void live(struct sandbox *b, int fd)
{
	test_stream_begin(fd, CONNECT);
	test_frame(fd, 0, START);
	test_frame(fd, 0, b->has_pty ? HELLO : STDOUT);
	pthread_mutex_lock(&b->lock);
	while (!b->over && !b->at_once)
		pthread_cond_wait(&b->changed, &b->lock);
	pthread_mutex_unlock(&b->lock);
	test_frame(fd, 0, END_3);
	test_frame(fd, 2, "{}");
	test_stream_end(fd);
}

static void handle(struct test_server *s, const struct test_request *rq, int fd)
{
	struct sandbox *b = test_server_userdata(s);

	if (test_is(rq, "GET", "/sandboxes/i1")) {
		test_reply_json(fd, 200, "{\"envdAccessToken\":\"secret\"}");
	} else if (!strstr(rq->head, "E2b-Sandbox-Id: i1\r\n") ||
		   !strstr(rq->head, "X-Access-Token: secret\r\n") ||
		   !strstr(rq->head, "E2b-Sandbox-Port: 49983\r\n")) {
		test_reply_json(fd, 400, "{\"code\":400,\"message\":\"whose?\"}");
	} else if (test_is(rq, "POST", "/process.Process/List")) {
		test_reply_json(fd, 200,
				"{\"processes\":[{\"config\":{\"cmd\":\"sh\",\"args\":[\"-c\","
				"\"sleep 9\"],\"cwd\":\"/srv\"},\"pid\":7,\"tag\":\"web\"},"
				"{\"config\":{\"cmd\":\"cat\"},\"pid\":\"8\"}]}");
	} else if (test_is(rq, "POST", "/process.Process/Update") && !b->has_pty) {
		test_reply_json(fd, 400,
				"{\"code\":\"failed_precondition\",\"message\":\"no terminal\"}");
	} else if (test_is(rq, "POST", "/process.Process/SendSignal") &&
		   strstr(rq->body, "\"pid\":9}")) {
		test_reply_json(fd, 404,
				"{\"code\":\"not_found\",\"message\":\"process with pid 9 not "
				"found\"}");
	} else if (test_is(rq, "POST", "/process.Process/Start") ||
		   test_is(rq, "POST", "/process.Process/Connect")) {
		live(b, fd);
	} else {
		test_reply_json(fd, 200, "{}");
		if (strstr(rq->body, "Cg==")) /* a line feed alone ends it */
			end_it(b);
	}
}

static struct test_server *serve(struct sandbox *b)
{
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->changed, NULL);
	return test_server_start(handle, b);
}

static void wait_for_log(struct test_server *s, const char *text)
{
	_cleanup_free_ char *log = NULL;

	for (int i = 0; i < 2000; i++) {
		free(log);
		log = test_server_log(s);
		if (strstr(log, text))
			return;
		clock_sleep_ms(5);
	}
	fail_msg("no request %s in:\n%s", text, log);
}

/* ---- without a terminal of ours
 * -------------------------------------------------------------------- */

static void test_list(void **state)
{
	struct sandbox b = {0};
	struct test_server *s = serve(&b);
	struct test_outcome o = test_dorm(s, "", "ps", "i1", NULL);

	assert_int_equal(o.code, 0);
	assert_contains(o.out, "PID");
	assert_contains(o.out, "web");
	assert_contains(o.out, "/srv");
	assert_contains(o.out, "sh -c 'sleep 9'");
	test_outcome_deinit(&o);
	o = test_dorm(s, "", "ps", "--json", "i1", NULL);
	assert_int_equal(o.code, 0);
	assert_contains(o.out, "\"tag\": \"web\"");
	test_outcome_deinit(&o);
	test_server_stop(s);
}

static void test_kill(void **state)
{
	struct sandbox b = {0};
	struct test_server *s = serve(&b);
	struct test_outcome o = test_dorm(s, "", "kill", "i1", "7", "web", NULL);
	char *log = test_server_log(s);

	assert_int_equal(o.code, 0);
	assert_contains(log, "{\"process\":{\"pid\":7},\"signal\":\"SIGNAL_SIGKILL\"}");
	assert_contains(log, "{\"process\":{\"tag\":\"web\"},\"signal\":\"SIGNAL_SIGKILL\"}");
	free(log);
	test_outcome_deinit(&o);
	o = test_dorm(s, "", "kill", "-s", "TERM", "i1", "9", "7", NULL);
	log = test_server_log(s);
	assert_int_equal(o.code, 1);
	assert_contains(o.err, "process with pid 9 not found");
	assert_contains(log, "{\"process\":{\"pid\":7},\"signal\":\"SIGNAL_SIGTERM\"}");
	free(log);
	test_outcome_deinit(&o);
	test_server_stop(s);
}

static void test_detach(void **state)
{
	struct sandbox b = {0};
	struct test_server *s = serve(&b);
	struct test_outcome o =
		test_dorm(s, "x", "exec", "-d", "--tag", "web", "i1", "--", "sleep", "9", NULL);
	char *log = test_server_log(s);

	assert_int_equal(o.code, 0);
	assert_string_equal(o.out, "7\n");
	assert_string_equal(o.err, "");
	assert_contains(log, "{\"process\":{\"cmd\":\"sleep\",\"args\":[\"9\"]},\"stdin\":false,"
			     "\"tag\":\"web\"}");
	assert_null(strstr(log, "SendSignal"));
	free(log);
	test_outcome_deinit(&o);
	end_it(&b);
	test_server_stop(s);
}

static void test_attach(void **state)
{
	struct sandbox b = {.at_once = true};
	struct test_server *s = serve(&b);
	struct test_outcome o = test_dorm(s, "", "attach", "i1", "web", NULL);
	char *log = test_server_log(s);

	assert_int_equal(o.code, 3);
	assert_string_equal(o.out, "hello\n");
	assert_contains(log, "/process.Process/Connect {\"process\":{\"tag\":\"web\"}}");
	assert_null(strstr(log, "/process.Process/Update")); /* we have no terminal to offer */
	free(log);
	test_outcome_deinit(&o);
	test_server_stop(s);
}

/* Following is not owning: Ctrl-C leaves, and so does a reader that goes away. */
static void test_attach_leaves(void **state)
{
	const char *args[] = {"attach", "i1", "7", NULL};
	struct sandbox b = {0};
	struct test_server *s = serve(&b);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), fds[3] = {null, null, null};
	pid_t pid = test_spawn(s, fds, args);
	char *log;

	wait_for_log(s, "/process.Process/Connect");
	clock_sleep_ms(200);
	assert_int_equal(kill(pid, SIGINT), 0);
	assert_int_equal(test_wait(pid), 128 + SIGINT);
	log = test_server_log(s);
	assert_null(strstr(log, "SendSignal"));
	free(log);
	fd_close(null);
	end_it(&b);
	test_server_stop(s);
}

/* A terminal in the sandbox without one here: output is plain, and the end of input is Ctrl-D. */
static void test_tty_without_ours(void **state)
{
	struct sandbox b = {.has_pty = true, .at_once = true};
	struct test_server *s = serve(&b);
	struct test_outcome o = test_dorm(s, "", "exec", "-t", "i1", "--", "sh", NULL);
	char *log = test_server_log(s);

	assert_int_equal(o.code, 3);
	assert_string_equal(o.out, "hello\n");
	assert_contains(log, "\"stdin\":false,\"pty\":{\"size\":{\"cols\":80,\"rows\":24}}}");
	free(log);
	test_outcome_deinit(&o);
	b.at_once = false;
	o = test_dorm(s, "\n", "exec", "-i", "-t", "i1", "--", "sh", NULL);
	log = test_server_log(s);
	assert_int_equal(o.code, 3);
	assert_contains(log, "{\"input\":{\"pty\":\"Cg==\"},\"process\":{\"pid\":7}}");
	free(log);
	test_outcome_deinit(&o);
	test_server_stop(s);
}

/* ---- with a terminal
 * ------------------------------------------------------------------------------- */

struct tty {
	int master, slave;
	struct termios before;
};

static void tty_open(struct tty *t, unsigned short cols, unsigned short rows)
{
	const struct winsize w = {.ws_col = cols, .ws_row = rows};

	t->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(t->master >= 0);
	assert_int_equal(grantpt(t->master) | unlockpt(t->master), 0);
	t->slave = open(ptsname(t->master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(t->slave >= 0);
	assert_int_equal(ioctl(t->slave, TIOCSWINSZ, &w), 0);
	assert_int_equal(tcgetattr(t->slave, &t->before), 0);
}

static bool tty_is_raw(const struct tty *t)
{
	struct termios now;

	assert_int_equal(tcgetattr(t->slave, &now), 0);
	return !(now.c_lflag & (ICANON | ECHO | ISIG));
}

static void tty_expect_restored(const struct tty *t)
{
	struct termios now;

	assert_int_equal(tcgetattr(t->slave, &now), 0);
	assert_int_equal(now.c_lflag, t->before.c_lflag);
	assert_int_equal(now.c_iflag, t->before.c_iflag);
	assert_int_equal(now.c_oflag, t->before.c_oflag);
}

static void tty_close(struct tty *t)
{
	tty_expect_restored(t);
	fd_close(t->master);
	fd_close(t->slave);
}

static pid_t tty_spawn(struct test_server *s, struct tty *t, const char *const *args)
{
	pid_t pid = test_spawn(s, (int[3]){t->slave, t->slave, t->slave}, args);

	for (int i = 0; i < 2000 && !tty_is_raw(t); i++)
		clock_sleep_ms(5);
	assert_true(tty_is_raw(t));
	return pid;
}

static const char *const exec_t[] = {"exec", "-t", "-e", "A=1", "i1", "--", "sh", NULL};

static void test_tty(void **state)
{
	const struct winsize w = {.ws_col = 132, .ws_row = 50};
	struct sandbox b = {.has_pty = true};
	struct test_server *s = serve(&b);
	struct tty t;
	char text[64] = "";
	pid_t pid;

	(void)setenv("TERM", "vt100", 1);
	tty_open(&t, 100, 40);
	pid = tty_spawn(s, &t, exec_t);
	wait_for_log(s, "\"envs\":{\"A\":\"1\",\"TERM\":\"vt100\"}},\"stdin\":true,"
			"\"pty\":{\"size\":{\"cols\":100,\"rows\":40}}}");
	assert_true(read(t.master, text, sizeof(text) - 1) > 0);
	assert_string_equal(text, "hello\n");		 /* untouched: raw */
	assert_int_equal(write(t.master, "\x03", 1), 1); /* Ctrl-C is a key like any other */
	wait_for_log(s, "{\"input\":{\"pty\":\"Aw==\"},\"process\":{\"pid\":7}}");
	assert_int_equal(ioctl(t.slave, TIOCSWINSZ, &w), 0);
	assert_int_equal(kill(pid, SIGWINCH), 0);
	wait_for_log(s, "/process.Process/Update {\"pty\":{\"size\":{\"cols\":132,\"rows\":50}},"
			"\"process\":{\"pid\":7}}");
	assert_int_equal(write(t.master, "\n", 1), 1);
	assert_int_equal(test_wait(pid), 3);
	tty_close(&t);
	test_server_stop(s);
}

/* Ctrl-] leaves, after what was typed before it has been delivered. */
static void test_leave_key(void **state)
{
	struct sandbox b = {.has_pty = true};
	struct test_server *s = serve(&b);
	struct tty t;
	char text[256] = "", *log;
	pid_t pid;
	ssize_t n;

	tty_open(&t, 80, 24);
	pid = tty_spawn(s, &t, exec_t);
	assert_int_equal(write(t.master, "x\x1dy", 3), 3);
	assert_int_equal(test_wait(pid), 0);
	log = test_server_log(s);
	assert_contains(log, "{\"input\":{\"pty\":\"eA==\"}");
	assert_null(strstr(log, "SendSignal"));
	free(log);
	for (size_t at = 0; !strstr(text, "dorm attach i1 7"); at += (size_t)n) {
		n = read(t.master, text + at, sizeof(text) - 1 - at);
		assert_true(n > 0);
	}
	tty_close(&t);
	end_it(&b);
	test_server_stop(s);
}

/* However it ends, the terminal is as before: lost stream, signals that end us, a lost terminal. */
static void test_restored(void **state)
{
	static const struct {
		int signal;
		int code;
	} cases[] = {{SIGHUP, 128 + SIGHUP}, {SIGQUIT, -SIGQUIT}, {SIGABRT, -SIGABRT}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct sandbox b = {.has_pty = true};
		struct test_server *s = serve(&b);
		struct tty t;
		pid_t pid;

		tty_open(&t, 80, 24);
		pid = tty_spawn(s, &t, exec_t);
		assert_int_equal(kill(pid, cases[i].signal), 0);
		assert_int_equal(test_wait(pid), cases[i].code);
		tty_close(&t);
		end_it(&b);
		test_server_stop(s);
	}
}

/* attach finds out by itself whether there is a terminal to take over. */
static void test_attach_tty(void **state)
{
	static const char *const attach[] = {"attach", "i1", "7", NULL};
	struct sandbox b = {.has_pty = true};
	struct test_server *s = serve(&b);
	struct tty t;
	pid_t pid;

	tty_open(&t, 90, 30);
	pid = tty_spawn(s, &t, attach);
	wait_for_log(s, "/process.Process/Update {\"process\":{\"pid\":7},"
			"\"pty\":{\"size\":{\"cols\":90,\"rows\":30}}}");
	assert_int_equal(write(t.master, "\n", 1), 1);
	assert_int_equal(test_wait(pid), 3);
	b = (struct sandbox){.at_once = true};
	pthread_mutex_init(&b.lock, NULL);
	pid = test_spawn(s, (int[3]){t.slave, t.slave, t.slave}, attach);
	assert_int_equal(test_wait(pid), 3);
	tty_close(&t);
	test_server_stop(s);
}

TEST_MAIN(cmocka_unit_test(test_list), cmocka_unit_test(test_kill), cmocka_unit_test(test_detach),
	  cmocka_unit_test(test_attach), cmocka_unit_test(test_attach_leaves),
	  cmocka_unit_test(test_tty_without_ours), cmocka_unit_test(test_tty),
	  cmocka_unit_test(test_leave_key), cmocka_unit_test(test_restored),
	  cmocka_unit_test(test_attach_tty))
