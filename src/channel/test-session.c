/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The real client against the real server. A thread plays the guest: it listens where a VMM would,
 * and like a virtio-serial port it keeps one byte stream over all connections: the server never
 * learns that a host came or went, and a partial frame stays in its parser.
 */
#include "base/test.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "channel/client.h"
#include "channel/frame.h"
#include "base/str.h"
#include "channel/server.h"

#define SOURCE_CHUNK 65536u

/* --- the guest ---------------------------------------------------------------------------------
 */

struct guest {
	char path[64];
	char dir[32];
	int listen_fd, stop_fd;
	pthread_t thread;
	struct server *sv;
	/* written by the guest's thread, read by tests after something has synchronised them */
	unsigned sessions, executed, closed;
	size_t max_buffered, sunk;
	const char *old_output; /* sent to every new connection first */
	bool greet_slowly;	/* hang up on the first connection */
};

struct job {
	size_t left;	 /* /source: bytes still to send */
	unsigned char n; /* pattern */
};

static void on_session(void *userdata)
{
	struct guest *g = userdata;

	g->sessions++;
}

static void source_more(struct guest *g, struct server_stream *s)
{
	struct job *j = server_stream_userdata(s);
	unsigned char chunk[SOURCE_CHUNK];

	while (j->left && server_stream_buffered(s) < 256 * 1024) {
		size_t n = MIN(j->left, sizeof(chunk));

		for (size_t i = 0; i < n; i++)
			chunk[i] = (unsigned char)(j->n + i);
		assert_int_equal(server_stream_write(s, chunk, n), 0);
		j->n = (unsigned char)(j->n + n);
		j->left -= n;
		g->max_buffered = MAX(g->max_buffered, server_stream_buffered(s));
	}
	if (j->left)
		server_stream_want_writable(s);
	else
		server_stream_end(s);
}

static void on_request(void *userdata, struct server_stream *s)
{
	const struct header h = {"x-was", server_stream_method(s)};
	const char *path = server_stream_path(s);
	struct guest *g = userdata;
	struct job *j;

	g->executed++;
	if (str_has_prefix(path, "/source/")) {
		j = calloc(1, sizeof(*j));
		j->left = strtoul(path + 8, NULL, 10);
		server_stream_set_userdata(s, j);
		assert_int_equal(server_stream_respond(s, 200, &h, 1), 0);
		source_more(g, s);
	} else if (!strcmp(path, "/echo")) {
		assert_int_equal(server_stream_respond(s, 201, &h, 1), 0);
	} else if (!strcmp(path, "/reset")) {
		server_stream_reset(s);
	}
}

static void on_body(void *userdata, struct server_stream *s, const void *data, size_t len)
{
	struct guest *g = userdata;

	if (!strcmp(server_stream_path(s), "/echo"))
		assert_int_equal(server_stream_write(s, data, len), 0);
	g->sunk += len;
	if (strcmp(server_stream_path(s), "/hold")) /* a handler that does not get on */
		server_stream_consumed(s, len);
}

static void on_body_end(void *userdata, struct server_stream *s)
{
	const char *path = server_stream_path(s);
	struct guest *g = userdata;

	if (!strcmp(path, "/sink") || !strcmp(path, "/seal"))
		assert_int_equal(server_stream_respond(s, 200, NULL, 0), 0);
	if (strcmp(path, "/hold"))
		server_stream_end(s);
	if (!strcmp(path, "/seal"))
		server_seal(g->sv, s);
}

static void on_writable(void *userdata, struct server_stream *s)
{
	source_more(userdata, s);
}

static void on_closed(void *userdata, struct server_stream *s)
{
	struct guest *g = userdata;

	g->closed++;
	free(server_stream_userdata(s));
}

static const struct server_ops ops = {on_session,  on_request,	on_body,
				      on_body_end, on_writable, on_closed};

/* Return: false when the connection is of no use any more */
static bool guest_exchange(struct guest *g, int fd, short *events)
{
	static char input[65536];
	const char *out;
	ssize_t n;
	size_t len;

	n = recv(fd, input, sizeof(input), MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno != EAGAIN))
		return false;
	if (n > 0)
		assert_int_equal(server_receive(g->sv, input, (size_t)n), 0);
	*events = POLLIN;
	while ((len = server_output(g->sv, &out)) > 0) {
		n = send(fd, out, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN) {
			*events |= POLLOUT;
			break;
		}
		if (n < 0)
			return false;
		server_output_done(g->sv, (size_t)n);
	}
	return true;
}

static void *guest_main(void *arg)
{
	struct guest *g = arg;
	struct pollfd p[3] = {{.fd = g->stop_fd, .events = POLLIN},
			      {.fd = g->listen_fd, .events = POLLIN},
			      {.fd = -1}};

	for (;;) {
		assert_true(poll(p, 3, -1) > 0);
		if (p[0].revents)
			break;
		if (p[2].fd >= 0 && p[2].revents && !guest_exchange(g, p[2].fd, &p[2].events)) {
			p[2].fd = fd_close(p[2].fd);
			p[1].fd = g->listen_fd; /* one connection at a time, as a VMM does */
		}
		if (p[2].fd < 0 && p[1].revents) {
			p[2].fd = accept4(g->listen_fd, NULL, NULL, SOCK_CLOEXEC);
			p[2].events = POLLIN;
			p[2].revents = 0;
			p[1].fd = -1;
			if (g->old_output)
				send(p[2].fd, g->old_output, strlen(g->old_output), MSG_NOSIGNAL);
			if (g->greet_slowly) {
				g->greet_slowly = false;
				p[2].fd = fd_close(p[2].fd);
				p[1].fd = g->listen_fd;
			}
		}
	}
	fd_close(p[2].fd);
	return NULL;
}

static void guest_start(struct guest *g)
{
	strcpy(g->dir, "/tmp/test-session-XXXXXX");
	assert_non_null(mkdtemp(g->dir));
	snprintf(g->path, sizeof(g->path), "%s/s", g->dir);
	g->listen_fd = fd_unix_listen(g->path, SOCK_STREAM, 0600);
	g->stop_fd = eventfd(0, EFD_CLOEXEC);
	assert_true(g->listen_fd >= 0 && g->stop_fd >= 0);
	assert_int_equal(server_new(&ops, g, &g->sv), 0);
	assert_int_equal(pthread_create(&g->thread, NULL, guest_main, g), 0);
}

/* Also the point after which the guest's counters may be read. */
static void guest_stop(struct guest *g)
{
	const uint64_t one = 1;

	assert_int_equal(write(g->stop_fd, &one, sizeof(one)), sizeof(one));
	pthread_join(g->thread, NULL);
	g->sv = server_free(g->sv);
	fd_close(g->listen_fd);
	fd_close(g->stop_fd);
	unlink(g->path);
	rmdir(g->dir);
}

/* --- the host ----------------------------------------------------------------------------------
 */

static uint64_t soon(void)
{
	return deadline_after_ms(20000);
}

static struct channel *host_connect(struct guest *g)
{
	struct channel *ch;

	assert_int_equal(channel_connect(g->path, -1, -1, soon(), &ch), 0);
	return ch;
}

static struct channel_stream *host_get(struct channel *ch, const char *path)
{
	struct channel_stream *s;

	assert_int_equal(channel_stream_open(ch, "GET", path, NULL, 0, true, &s), 0);
	return s;
}

static void host_ping(struct channel *ch)
{
	struct buf body = {0};
	int status;

	assert_int_equal(
		channel_call(ch, "POST", "/echo", "text/plain", "ping", 4, soon(), &status, &body),
		0);
	assert_int_equal(status, 201);
	assert_string_equal(body.data, "ping");
	buf_deinit(&body);
}

/* Read to the end, checking the pattern. Return: bytes */
static size_t host_drain(struct channel_stream *s)
{
	unsigned char *chunk = malloc(100000);
	size_t total = 0;
	ssize_t n;

	while ((n = channel_stream_read(s, chunk, 100000, soon())) > 0)
		for (ssize_t i = 0; i < n; i++)
			assert_int_equal(chunk[i], (unsigned char)total++);
	assert_int_equal(n, 0);
	free(chunk);
	return total;
}

/* Raw bytes, as a host that went away in the middle would have left them. */
static void host_send_raw(struct guest *g, const void *data, size_t len)
{
	int fd = fd_unix_connect(g->path, SOCK_STREAM);

	assert_true(fd >= 0);
	assert_int_equal(fd_write_full(fd, data, len), 0);
	fd_close(fd);
}

static void test_call(void **state)
{
	struct guest g = {0};
	struct channel *ch;
	struct channel_stream *s;
	int status;

	guest_start(&g);
	ch = host_connect(&g);
	host_ping(ch);
	s = host_get(ch, "/source/1000");
	assert_int_equal(channel_active_streams(ch), 1);
	assert_int_equal(channel_stream_head(s, soon(), &status), 0);
	assert_int_equal(status, 200);
	assert_string_equal(channel_stream_header(s, "x-was"), "GET");
	assert_null(channel_stream_header(s, "x-absent"));
	assert_int_equal(host_drain(s), 1000);
	channel_stream_close(s);
	assert_int_equal(channel_active_streams(ch), 0);
	channel_free(ch);
	guest_stop(&g);
	assert_int_equal(g.sessions, 1);
	assert_int_equal(g.executed, g.closed);
}

static void *many_main(void *arg)
{
	struct channel *ch = arg;

	for (int i = 0; i < 20; i++) {
		struct channel_stream *s = host_get(ch, "/source/70000");

		assert_int_equal(host_drain(s), 70000);
		channel_stream_close(s);
	}
	return NULL;
}

static void test_many_threads(void **state)
{
	struct guest g = {0};
	struct channel *ch;
	pthread_t threads[16];

	guest_start(&g);
	ch = host_connect(&g);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, many_main, ch), 0);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	channel_free(ch);
	guest_stop(&g);
	assert_int_equal(g.executed, 16 * 20);
}

static void test_stream_limit(void **state)
{
	struct channel_stream *s[CHANNEL_MAX_STREAMS], *one_more;
	struct guest g = {0};
	struct channel *ch;

	guest_start(&g);
	ch = host_connect(&g);
	for (size_t i = 0; i < CHANNEL_MAX_STREAMS; i++)
		s[i] = host_get(ch, "/hold");
	assert_int_equal(channel_stream_open(ch, "GET", "/", NULL, 0, true, &one_more), -EAGAIN);
	for (size_t i = 0; i < CHANNEL_MAX_STREAMS; i++)
		channel_stream_close(s[i]);
	host_ping(ch);
	channel_free(ch);
	guest_stop(&g);
	assert_int_equal(g.closed, CHANNEL_MAX_STREAMS + 1);
}

/* 64 MiB through a reader that stops: memory stays bounded, others are not held up. */
static void test_slow_reader(void **state)
{
	struct channel_stream *stuck[16];
	struct guest g = {0};
	struct channel *ch;
	int status;

	guest_start(&g);
	ch = host_connect(&g);
	for (size_t i = 0; i < ARRAY_SIZE(stuck); i++)
		stuck[i] = host_get(ch, "/source/67108864");
	for (size_t i = 0; i < ARRAY_SIZE(stuck); i++)
		assert_int_equal(channel_stream_head(stuck[i], soon(), &status), 0);
	clock_sleep_ms(100); /* all windows are full now */
	host_ping(ch);
	assert_int_equal(host_drain(stuck[0]), 64 << 20);
	host_ping(ch);
	for (size_t i = 0; i < ARRAY_SIZE(stuck); i++)
		channel_stream_close(stuck[i]);
	host_ping(ch);
	channel_free(ch);
	guest_stop(&g);
	assert_true(g.max_buffered <= 256 * 1024 + SOURCE_CHUNK);
}

static void test_upload(void **state)
{
	struct guest g = {0};
	struct channel *ch;
	struct channel_stream *s;
	char *block = calloc(2, 1 << 20);
	int status;

	guest_start(&g);
	ch = host_connect(&g);
	assert_int_equal(channel_stream_open(ch, "POST", "/sink", NULL, 0, false, &s), 0);
	for (int i = 0; i < 64; i++)
		assert_int_equal(channel_stream_write(s, block, 1 << 20, i == 63, soon()), 0);
	assert_int_equal(channel_stream_head(s, soon(), &status), 0);
	channel_stream_close(s);
	channel_free(ch);
	guest_stop(&g);
	assert_int_equal(g.sunk, 64 << 20);
	free(block);
}

/* A handler that does not consume stops the writer, at the window; deadlines hold everywhere. */
/* Clients come and go, without waiting for answers: that is no reason to hang up on the others. */
static void test_many_resets(void **state)
{
	struct guest g = {0};
	struct channel *ch;
	struct channel_stream *s;

	guest_start(&g);
	ch = host_connect(&g);
	for (int i = 0; i < 3000; i++) {
		assert_int_equal(channel_stream_open(ch, "POST", "/hold", NULL, 0, false, &s), 0);
		channel_stream_close(s);
	}
	host_ping(ch);
	channel_free(ch);
	guest_stop(&g);
}

static void test_deadlines(void **state)
{
	struct guest g = {0};
	struct channel *ch;
	struct channel_stream *s;
	char *block = calloc(2, 1 << 20);
	int status;

	guest_start(&g);
	ch = host_connect(&g);
	assert_int_equal(channel_stream_open(ch, "POST", "/hold", NULL, 0, false, &s), 0);
	assert_int_equal(channel_stream_write(s, block, 2 << 20, false, deadline_after_ms(100)),
			 -ETIMEDOUT);
	assert_int_equal(channel_stream_head(s, deadline_after_ms(20), &status), -ETIMEDOUT);
	assert_int_equal(channel_stream_read(s, block, 10, deadline_after_ms(20)), -ETIMEDOUT);
	channel_stream_close(s);
	host_ping(ch);
	channel_free(ch);
	guest_stop(&g);
	assert_int_equal(g.sunk, CHANNEL_UPLOAD_WINDOW + 4);
	free(block);
}

static void test_reset_by_guest(void **state)
{
	struct guest g = {0};
	struct channel *ch;
	struct channel_stream *s;
	int status;

	guest_start(&g);
	ch = host_connect(&g);
	s = host_get(ch, "/reset");
	assert_int_equal(channel_stream_head(s, soon(), &status), -ECONNRESET);
	channel_stream_close(s);
	host_ping(ch);
	channel_free(ch);
	guest_stop(&g);
}

static void test_connection_drop(void **state)
{
	struct guest g = {0};
	struct channel *ch;
	struct channel_stream *s, *t;
	char c;
	int status;

	guest_start(&g);
	ch = host_connect(&g);
	s = host_get(ch, "/hold");
	guest_stop(&g);
	assert_int_equal(channel_stream_head(s, soon(), &status), -EPIPE);
	assert_int_equal(channel_stream_read(s, &c, 1, soon()), -EPIPE);
	assert_int_equal(channel_stream_open(ch, "GET", "/", NULL, 0, true, &t), -EPIPE);
	assert_false(channel_is_open(ch));
	channel_stream_close(s);
	channel_free(ch);
}

/* A new connection ends the old session, and with it the old streams in the guest. */
static void test_reconnect_ends_streams(void **state)
{
	struct guest g = {0};
	struct channel *ch;
	struct channel_stream *s;

	guest_start(&g);
	ch = host_connect(&g);
	s = host_get(ch, "/source/67108864");
	host_ping(ch);
	channel_stream_close(s);
	channel_free(ch);
	ch = host_connect(&g);
	host_ping(ch);
	channel_free(ch);
	guest_stop(&g);
	assert_int_equal(g.sessions, 2);
	assert_int_equal(g.closed, g.executed);
}

/* A partial frame of every kind of cut is in the guest when the next host comes. */
static void test_stale_partial_frame(void **state)
{
	static const char half_hello[] = "\xD1\x19\001DORMCHAN";
	const char *const stale[] = {"\xD3",	"\xD3\xFF", "\xD3\x01\x30", "\xD3\x02\x3Fxyz",
				     "garbage", half_hello};
	struct guest g = {0};

	guest_start(&g);
	for (size_t i = 0; i < ARRAY_SIZE(stale); i++) {
		struct channel *ch;

		host_send_raw(&g, stale[i], strlen(stale[i]));
		ch = host_connect(&g);
		host_ping(ch);
		channel_free(ch);
	}
	guest_stop(&g);
	assert_int_equal(g.sessions, ARRAY_SIZE(stale));
}

/* Complete requests that arrive after the seal, as out of a snapshot's buffers, are not executed.
 */
static void test_sealed_executes_nothing(void **state)
{
	struct guest g = {0};
	struct channel *ch;
	struct channel_stream *other, *s;
	struct buf body = {0};
	int status;

	guest_start(&g);
	ch = host_connect(&g);
	other = host_get(ch, "/hold");
	assert_int_equal(channel_call(ch, "POST", "/seal", NULL, NULL, 0, soon(), &status, &body),
			 0);
	assert_int_equal(status, 200);
	assert_int_equal(channel_stream_head(other, soon(), &status), -ECONNRESET);
	channel_stream_close(other);
	s = host_get(ch, "/source/10"); /* a whole request, in the same framing and session */
	assert_int_equal(channel_stream_head(s, deadline_after_ms(100), &status), -ETIMEDOUT);
	channel_stream_close(s);
	channel_free(ch);
	ch = host_connect(&g);
	host_ping(ch);
	channel_free(ch);
	guest_stop(&g);
	assert_int_equal(g.executed, 3); /* hold, seal, echo */
	assert_int_equal(g.sessions, 2);
	buf_deinit(&body);
}

static void test_old_output_is_discarded(void **state)
{
	struct guest g = {.old_output = "\xD3\x04\x01 old answer, then half a hello \xD2\x19"};
	struct channel *ch;

	guest_start(&g);
	ch = host_connect(&g);
	host_ping(ch);
	channel_free(ch);
	guest_stop(&g);
}

static void test_connect_retries(void **state)
{
	struct guest g = {.greet_slowly = true};
	struct channel *ch;

	guest_start(&g);
	ch = host_connect(&g);
	host_ping(ch);
	channel_free(ch);
	guest_stop(&g);
}

static void test_connect_fails(void **state)
{
	char dir[] = "/tmp/test-session-XXXXXX", path[64];
	struct channel *ch;
	uint64_t begin_ns = clock_now_ns();
	int alive[2], listen_fd;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	assert_int_equal(channel_connect(path, -1, -1, deadline_after_ms(50), &ch), -ETIMEDOUT);
	listen_fd = fd_unix_listen(path, SOCK_STREAM, 0600); /* a guest that never answers */
	assert_int_equal(channel_connect(path, -1, -1, deadline_after_ms(600), &ch), -ETIMEDOUT);
	assert_int_equal(pipe(alive), 0);
	close(alive[1]); /* the VMM is dead */
	assert_int_equal(channel_connect(path, -1, alive[0], soon(), &ch), -ECONNRESET);
	assert_true(clock_now_ns() - begin_ns < 5 * NSEC_PER_SEC);
	close(alive[0]);
	close(listen_fd);
	unlink(path);
	rmdir(dir);
}

TEST_MAIN(cmocka_unit_test(test_many_resets), cmocka_unit_test(test_call),
	  cmocka_unit_test(test_many_threads),
	  cmocka_unit_test(test_stream_limit), cmocka_unit_test(test_slow_reader),
	  cmocka_unit_test(test_upload), cmocka_unit_test(test_deadlines),
	  cmocka_unit_test(test_reset_by_guest), cmocka_unit_test(test_connection_drop),
	  cmocka_unit_test(test_reconnect_ends_streams), cmocka_unit_test(test_stale_partial_frame),
	  cmocka_unit_test(test_sealed_executes_nothing),
	  cmocka_unit_test(test_old_output_is_discarded), cmocka_unit_test(test_connect_retries),
	  cmocka_unit_test(test_connect_fails))
