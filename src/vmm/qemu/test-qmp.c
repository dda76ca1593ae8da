/* SPDX-License-Identifier: Apache-2.0 */
/* The client against a peer that follows a script: every step sends something, or awaits a line. */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "vmm/qemu/qmp.h"

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n"
#define OK(id)	 "{\"return\": {}, \"id\": " #id "}\r\n"
#define SOON	 deadline_after_ms(5000)

/* A step: text is sent; AWAIT takes a line; PAUSE waits a moment; FLOOD sends without an end. */
#define AWAIT	  ((const char *)1)
#define PAUSE	  ((const char *)2)
#define FLOOD	  ((const char *)3)
#define HUGE_LINE ((const char *)4)

struct peer {
	int fd;
	const char *const *steps;
	struct buf heard;
	size_t n_fds;
	pthread_t thread;
	struct qmp *q;
};

static void await_line(struct peer *p)
{
	char c = 0;

	while (c != '\n') {
		int fd = -1;
		size_t n = 0;

		if (fd_poll(p->fd, POLLIN, SOON) <= 0 || fd_recv(p->fd, &c, 1, &fd, 1, &n) <= 0)
			return;
		p->n_fds += n;
		fd_close(fd);
		assert_int_equal(buf_append(&p->heard, &c, 1), 0);
	}
}

static void send_endless(struct peer *p, const char *piece)
{
	while (fd_write_deadline(p->fd, piece, strlen(piece), SOON) == 0)
		;
}

static void *peer_run(void *userdata)
{
	struct peer *p = userdata;

	for (const char *const *s = p->steps; *s; s++)
		if (*s == AWAIT)
			await_line(p);
		else if (*s == PAUSE)
			clock_sleep_ms(30);
		else if (*s == FLOOD)
			send_endless(p, "{\"event\": \"NOISE\"}\r\n");
		else if (*s == HUGE_LINE)
			send_endless(p,
				     "{\"return\": \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
		else if (fd_write_deadline(p->fd, *s, strlen(*s), SOON) < 0)
			break;
	return NULL;
}

static void peer_start(struct peer *p, const char *const *steps)
{
	int s[2];

	*p = (struct peer){.steps = steps};
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	p->fd = s[1];
	assert_int_equal(qmp_new_take(s[0], &p->q), 0);
	assert_int_equal(pthread_create(&p->thread, NULL, peer_run, p), 0);
}

/* The client goes first: a peer that is still sending then stops. */
static void peer_stop(struct peer *p)
{
	p->q = qmp_free(p->q);
	pthread_join(p->thread, NULL);
	fd_close(p->fd);
	buf_deinit(&p->heard);
}

static void test_conversation(void **state)
{
	const char *const steps[] = {
		"{\"QMP\": {\"ver",
		PAUSE,
		"sion\": {}}}\r",
		"\n",
		AWAIT,
		OK(1),
		AWAIT,
		"{\"event\": \"STOP\", \"data\": {}}\r\n{\"return\": {\"a\": 5}, \"id\": 2}\r\n"
		"{\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"guest\\u0007-panic\"}}\r\n",
		AWAIT,
		"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\\nsuch\"}, \"id\": 3}\n",
		AWAIT,
		OK(4),
		NULL};
	struct problem problem = PROBLEM_INIT;
	json_t *value = NULL;
	struct peer p;
	int fd = dup(0);

	peer_start(&p, steps);
	assert_int_equal(qmp_handshake(p.q, SOON), 0);
	assert_int_equal(
		qmp_call(p.q, "one", json_pack("{s:s}", "k", "v\n"), -1, SOON, NULL, &value), 0);
	assert_int_equal(json_integer_value(json_object_get(value, "a")), 5);
	json_decref(value);
	assert_int_equal(qmp_call(p.q, "two", NULL, -1, SOON, &problem, NULL), -EREMOTEIO);
	assert_string_equal(problem.message, "QEMU refused \"two\": no such");
	assert_false(qmp_is_broken(p.q));
	assert_int_equal(qmp_call(p.q, "getfd", NULL, fd, SOON, NULL, NULL), 0);
	assert_string_equal(qmp_shutdown_reason(p.q), "guest?-panic");
	pthread_join(p.thread, NULL);
	assert_int_equal(p.n_fds, 1);
	assert_string_equal(p.heard.data,
			    "{\"execute\":\"qmp_capabilities\",\"id\":1}\n"
			    "{\"execute\":\"one\",\"id\":2,\"arguments\":{\"k\":\"v\\n\"}}\n"
			    "{\"execute\":\"two\",\"id\":3}\n"
			    "{\"execute\":\"getfd\",\"id\":4}\n");
	qmp_free(p.q);
	fd_close(p.fd);
	buf_deinit(&p.heard);
	fd_close(fd);
}

/* Silence is -ETIMEDOUT; the connection stays good, and the late answer is nobody else's. */
static void test_late_reply(void **state)
{
	const char *const steps[] = {GREETING,
				     AWAIT,
				     OK(1),
				     AWAIT,
				     PAUSE,
				     PAUSE,
				     PAUSE,
				     PAUSE,
				     "{\"return\": \"late\", \"id\": 2}\n",
				     AWAIT,
				     "{\"return\": \"right\", \"id\": 3}\n",
				     NULL};
	struct problem problem = PROBLEM_INIT;
	json_t *value = NULL;
	struct peer p;

	peer_start(&p, steps);
	assert_int_equal(qmp_handshake(p.q, SOON), 0);
	assert_int_equal(qmp_call(p.q, "stop", NULL, -1, deadline_after_ms(20), &problem, NULL),
			 -ETIMEDOUT);
	assert_int_equal(problem.status, 504);
	assert_false(qmp_is_broken(p.q));
	assert_int_equal(qmp_call(p.q, "x", NULL, -1, SOON, NULL, &value), 0);
	assert_string_equal(json_string_value(value), "right");
	json_decref(value);
	peer_stop(&p);
}

static int call_against(const char *step)
{
	const char *const steps[] = {GREETING, AWAIT, OK(1), AWAIT, step, NULL};
	uint64_t t = clock_now_ns();
	struct peer p;
	int r;

	peer_start(&p, steps);
	assert_int_equal(qmp_handshake(p.q, SOON), 0);
	r = qmp_call(p.q, "x", NULL, -1, deadline_after_ms(2000), NULL, NULL);
	assert_true(clock_now_ns() - t < 4 * NSEC_PER_SEC);
	if (r != -ETIMEDOUT) {
		assert_true(qmp_is_broken(p.q));
		assert_int_equal(qmp_call(p.q, "y", NULL, -1, SOON, NULL, NULL), -EPIPE);
	}
	peer_stop(&p);
	return r;
}

static void test_hostile(void **state)
{
	char deep[8192];

	assert_int_equal(call_against("garbage\n"), -EPROTO);
	assert_int_equal(call_against("\n"), -EPROTO);
	assert_int_equal(call_against("[1]\n"), -EPROTO);
	assert_int_equal(call_against("{\"a\": 1} x\n"), -EPROTO);
	assert_int_equal(call_against("{\"a\": 1, \"a\": 2}\n"), -EPROTO);
	assert_int_equal(call_against("{\"return\": \"\xff\xfe\", \"id\": 2}\n"), -EPROTO);
	memset(deep, '[', sizeof(deep) - 2);
	memcpy(deep + sizeof(deep) - 2, "\n", 2);
	assert_int_equal(call_against(deep), -EPROTO);
	assert_int_equal(call_against(HUGE_LINE), -EPROTO);
	assert_int_equal(call_against(FLOOD), -EPROTO);
	/* answers to what was not asked, with ids of every type, are no answers */
	assert_int_equal(call_against("{\"return\": 1}\n{\"return\": 1, \"id\": \"2\"}\n"
				      "{\"return\": 1, \"id\": 99}\n{\"error\": 5, \"id\": -2}\n"),
			 -ETIMEDOUT);
	/* an error of the wrong shape is an error still */
	{
		const char *const steps[] = {
			GREETING, AWAIT, OK(1), AWAIT, "{\"error\": 5, \"id\": 2}\n", NULL};
		struct peer p;

		peer_start(&p, steps);
		assert_int_equal(qmp_handshake(p.q, SOON), 0);
		assert_int_equal(qmp_call(p.q, "x", NULL, -1, SOON, NULL, NULL), -EREMOTEIO);
		peer_stop(&p);
	}
}

static void test_end(void **state)
{
	const char *const cut[] = {GREETING, AWAIT, OK(1), AWAIT, "{\"return\"", NULL};
	const char *const wrong[] = {"{\"hello\": 1}\n", NULL};
	const char *const silent[] = {PAUSE, NULL};
	struct problem problem = PROBLEM_INIT;
	struct peer p;

	peer_start(&p, cut);
	assert_int_equal(qmp_handshake(p.q, SOON), 0);
	assert_int_equal(shutdown(p.fd, SHUT_RD), 0); /* it hears nothing of the next command */
	pthread_join(p.thread, NULL);
	fd_close(p.fd);
	assert_int_equal(qmp_call(p.q, "x", NULL, -1, SOON, &problem, NULL), -EPIPE);
	assert_non_null(strstr(problem.message, "closed its control connection"));
	assert_true(qmp_is_broken(p.q));
	assert_null(qmp_shutdown_reason(p.q));
	qmp_free(p.q);
	buf_deinit(&p.heard);

	peer_start(&p, wrong);
	assert_int_equal(qmp_handshake(p.q, SOON), -EPROTO);
	peer_stop(&p);
	peer_start(&p, silent);
	assert_int_equal(qmp_handshake(p.q, deadline_after_ms(20)), -ETIMEDOUT);
	peer_stop(&p);
}

TEST_MAIN(cmocka_unit_test(test_conversation), cmocka_unit_test(test_late_reply),
	  cmocka_unit_test(test_hostile), cmocka_unit_test(test_end))
