/* SPDX-License-Identifier: Apache-2.0 */
/* Connections to loopback through the agent, and its list of who listens (test-box.h). */
#include "agent/test-box.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/fd.h"

#define BIG (3u << 20)

static int listen_on(int family, unsigned *ret_port)
{
	struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_in b = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr *sa = family == AF_INET6 ? (void *)&a : (void *)&b;
	socklen_t len = family == AF_INET6 ? sizeof(a) : sizeof(b);
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, sa, len) < 0) {
		fd_close(fd);
		return -1;
	}
	assert_int_equal(listen(fd, 300), 0);
	assert_int_equal(getsockname(fd, sa, &len), 0);
	*ret_port = ntohs(b.sin_port);
	if (family == AF_INET6)
		*ret_port = ntohs(a.sin6_port);
	return fd;
}

/* Return: the status */
static int dial(struct box *b, unsigned port, struct channel_stream **ret)
{
	char path[64];
	int status;

	snprintf(path, sizeof(path), "/connect/%u", port);
	assert_int_equal(channel_stream_open(b->ch, "POST", path, NULL, 0, false, ret), 0);
	assert_int_equal(channel_stream_head(*ret, box_soon(), &status), 0);
	return status;
}

static void test_echo(void **state)
{
	static const int families[] = {AF_INET, AF_INET6};
	struct box b = {0};

	box_start(&b);
	for (int i = 0; i < 2; i++) {
		struct channel_stream *s;
		char buf[16] = "";
		unsigned port;
		int fd, l = listen_on(families[i], &port);

		if (l < 0)
			continue; /* a machine without IPv6 */
		assert_int_equal(dial(&b, port, &s), 200);
		fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);
		assert_true(fd >= 0);
		assert_int_equal(channel_stream_write(s, "hello", 5, false, box_soon()), 0);
		assert_int_equal(fd_read_full(fd, buf, 5), 0);
		assert_string_equal(buf, "hello");
		/* the end of one direction leaves the other open */
		assert_int_equal(channel_stream_write(s, NULL, 0, true, box_soon()), 0);
		assert_int_equal(read(fd, buf, sizeof(buf)), 0);
		assert_int_equal(fd_write_full(fd, "world", 5), 0);
		assert_int_equal(shutdown(fd, SHUT_WR), 0);
		assert_int_equal(channel_stream_read(s, buf, sizeof(buf), box_soon()), 5);
		assert_int_equal(channel_stream_read(s, buf, sizeof(buf), box_soon()), 0);
		channel_stream_close(s);
		close(fd);
		close(l);
	}
	box_stop(&b);
}

static void expect_dial(struct box *b, const char *path, int want)
{
	struct channel_stream *s;
	int status;

	assert_int_equal(channel_stream_open(b->ch, "POST", path, NULL, 0, false, &s), 0);
	assert_int_equal(channel_stream_head(s, box_soon(), &status), 0);
	if (status != want)
		fail_msg("%s: %d", path, status);
	channel_stream_close(s);
}

static void test_refused(void **state)
{
	const struct channel_header client = {"x-dorm-client", "1"};
	struct channel_stream *s;
	struct box b = {0};
	char path[64];
	unsigned port;
	int status;

	box_start(&b);
	close(listen_on(AF_INET, &port)); /* nobody listens there any more */
	snprintf(path, sizeof(path), "/connect/%u", port);
	expect_dial(&b, path, 502);
	expect_dial(&b, "/connect/0", 400);
	expect_dial(&b, "/connect/65536", 400);
	expect_dial(&b, "/connect/", 400);
	expect_dial(&b, "/connect/80/x", 400);
	expect_dial(&b, "/connect/99999999999999999999", 400);
	assert_int_equal(channel_stream_open(b.ch, "POST", path, &client, 1, false, &s), 0);
	assert_int_equal(channel_stream_head(s, box_soon(), &status), 0);
	assert_int_equal(status, 404); /* not for clients */
	channel_stream_close(s);
	box_stop(&b);
}

static void test_resets(void **state)
{
	const struct linger now = {.l_onoff = 1};
	struct channel_stream *s;
	struct box b = {0};
	char c;
	unsigned port;
	int fd, l;

	box_start(&b);
	l = listen_on(AF_INET, &port);
	/* the server's reset reaches the host */
	assert_int_equal(dial(&b, port, &s), 200);
	fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)), 0);
	close(fd);
	assert_int_equal(channel_stream_read(s, &c, 1, box_soon()), -ECONNRESET);
	channel_stream_close(s);
	/* the host's reset reaches the server */
	assert_int_equal(dial(&b, port, &s), 200);
	fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	channel_stream_close(s);
	assert_int_equal(read(fd, &c, 1), -1);
	assert_int_equal(errno, ECONNRESET);
	close(fd);
	/* an end that was said is an end, not a reset */
	assert_int_equal(dial(&b, port, &s), 200);
	fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	assert_int_equal(channel_stream_write(s, NULL, 0, true, box_soon()), 0);
	channel_stream_close(s);
	assert_int_equal(read(fd, &c, 1), 0);
	close(fd);
	/* an answer that came before the server hung up without reading is still delivered */
	assert_int_equal(dial(&b, port, &s), 200);
	fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	assert_int_equal(channel_stream_write(s, "unread", 6, false, box_soon()), 0);
	assert_true(fd_poll(fd, POLLIN, box_soon()) > 0);
	assert_int_equal(fd_write_full(fd, "x", 1), 0);
	close(fd);
	assert_int_equal(channel_stream_read(s, &c, 1, box_soon()), 1);
	assert_int_equal(c, 'x');
	channel_stream_close(s);
	close(l);
	box_stop(&b);
}

/* Neither end that stops reading makes the agent hold more than a window, and nothing is lost. */
static void test_back_pressure(void **state)
{
	char *big = malloc(BIG), *got = malloc(BIG);
	struct channel_stream *s;
	struct box b = {0};
	size_t sent = 0, n = 0;
	unsigned port;
	int fd, l;

	box_start(&b);
	for (size_t i = 0; i < BIG; i++)
		big[i] = (char)(i * 2654435761u >> 11);
	l = listen_on(AF_INET, &port);
	assert_int_equal(dial(&b, port, &s), 200);
	fd = accept4(l, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	/* guest to host: the writer is stopped, far below what a reader could not hold */
	while (fd_poll(fd, POLLOUT, deadline_after_ms(500)) > 0 && sent < 64u * BIG) {
		ssize_t w = write(fd, big + sent % BIG, BIG - sent % BIG);

		sent += w > 0 ? (size_t)w : 0;
	}
	assert_true(sent < 32u * BIG);
	for (n = 0; n < sent;) {
		ssize_t r = channel_stream_read(s, got, BIG, box_soon());

		assert_true(r > 0);
		for (ssize_t i = 0; i < r; i++)
			assert_int_equal(got[i], big[(n + (size_t)i) % BIG]);
		n += (size_t)r;
	}
	/* host to guest */
	assert_int_equal(channel_stream_write(s, big, BIG, false, deadline_after_ms(1)),
			 0 - ETIMEDOUT);
	channel_stream_close(s);
	close(fd);
	assert_int_equal(box_call(&b, "GET", "/health", NULL, NULL), 204);
	close(l);
	box_stop(&b);
	free(big);
	free(got);
}

static void test_upload(void **state)
{
	char *big = malloc(BIG), *got = malloc(BIG);
	struct channel_stream *s;
	struct box b = {0};
	unsigned port;
	int fd, l, status = 0;
	pid_t pid;

	box_start(&b);
	memset(big, 'u', BIG);
	l = listen_on(AF_INET, &port);
	pid = fork(); /* a slow reader */
	if (pid == 0) {
		fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);
		clock_sleep_ms(200);
		_exit(fd_read_full(fd, got, BIG) == 0 && !memcmp(got, big, BIG) ? 0 : 1);
	}
	assert_int_equal(dial(&b, port, &s), 200);
	assert_int_equal(channel_stream_write(s, big, BIG, true, box_soon()), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	channel_stream_close(s);
	close(l);
	box_stop(&b);
	free(big);
	free(got);
}

static void test_limit(void **state)
{
	struct channel_stream *s[230];
	struct box b = {0};
	unsigned port;
	int l, ok = 0, refused = 0;

	box_start(&b);
	l = listen_on(AF_INET, &port);
	for (int i = 0; i < 230; i++) {
		int status = dial(&b, port, &s[i]);

		ok += status == 200;
		refused += status == 429;
	}
	assert_int_equal(ok, 224);
	assert_int_equal(refused, 6);
	assert_int_equal(box_call(&b, "GET", "/health", NULL, NULL), 204);
	for (int i = 0; i < 230; i++)
		channel_stream_close(s[i]);
	assert_int_equal(dial(&b, port, &s[0]), 200);
	channel_stream_close(s[0]);
	close(l);
	box_stop(&b);
}

/* A new session is what follows a seal: what the old one had dialled is gone. */
static void test_session_ends(void **state)
{
	struct channel_stream *s;
	struct box b = {0};
	unsigned port;
	int fd, l;
	char c;

	box_start(&b);
	l = listen_on(AF_INET, &port);
	assert_int_equal(dial(&b, port, &s), 200);
	fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	assert_int_equal(box_call(&b, "POST", "/prepare", NULL, NULL), 200);
	assert_true(fd_poll(fd, POLLIN, box_soon()) > 0);
	assert_true(read(fd, &c, 1) <= 0);
	channel_stream_close(s);
	box_reconnect(&b);
	assert_int_equal(dial(&b, port, &s), 503); /* the gate is shut */
	channel_stream_close(s);
	box_init(&b, 200);
	assert_int_equal(dial(&b, port, &s), 200);
	channel_stream_close(s);
	close(fd);
	close(l);
	box_stop(&b);
}

static const json_t *find_port(const json_t *ports, unsigned port)
{
	size_t i;
	json_t *o;

	json_array_foreach (ports, i, o)
		if (json_integer_value(json_object_get(o, "port")) == (json_int_t)port)
			return o;
	return NULL;
}

static void test_list(void **state)
{
	struct box b = {0};
	const json_t *o;
	json_t *all;
	char *body;
	unsigned port, port6 = 0;
	int l, l6, status;

	box_start(&b);
	l = listen_on(AF_INET, &port);
	l6 = listen_on(AF_INET6, &port6);
	status = box_call(&b, "GET", "/ports", NULL, &body);
	if (status == 500 && strstr(body, "No such file")) {
		print_message("this kernel has no tcp_diag\n");
		free(body);
		close(l);
		fd_close(l6);
		box_stop(&b);
		skip();
	}
	if (status != 200)
		fail_msg("%d %s", status, body);
	all = json_loads(body, 0, NULL);
	free(body);
	o = find_port(json_object_get(all, "ports"), port);
	assert_non_null(o);
	assert_string_equal(json_string_value(json_object_get(o, "address")), "127.0.0.1");
	assert_string_equal(json_string_value(json_object_get(o, "family")), "ipv4");
	assert_int_equal(json_integer_value(json_object_get(o, "pid")), getpid());
	assert_non_null(strstr(json_string_value(json_object_get(o, "process")), "test-agent"));
	assert_int_equal(json_integer_value(json_object_get(o, "uid")), getuid());
	if (l6 >= 0) {
		o = find_port(json_object_get(all, "ports"), port6);
		assert_non_null(o);
		assert_string_equal(json_string_value(json_object_get(o, "address")), "::1");
	}
	json_decref(all);
	close(l);
	fd_close(l6);
	assert_int_equal(box_call(&b, "GET", "/ports", NULL, &body), 200);
	all = json_loads(body, 0, NULL);
	free(body);
	assert_null(find_port(json_object_get(all, "ports"), port));
	json_decref(all);
	box_stop(&b);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_echo),	     cmocka_unit_test(test_refused),
		cmocka_unit_test(test_resets),	     cmocka_unit_test(test_back_pressure),
		cmocka_unit_test(test_upload),	     cmocka_unit_test(test_limit),
		cmocka_unit_test(test_session_ends), cmocka_unit_test(test_list),
	};

	return box_main(argc, argv, tests, sizeof(tests) / sizeof(*tests));
}
