/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/test-server.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/str.h"

#define MAX_CONNECTIONS 256
#define MAX_ARGS	32
#define DORM_MS		30000

struct test_server {
	char dir[64], path[96];
	int listen_fd;
	test_handler handler;
	void *userdata;
	bool early; /* set before dorm is started */
	pthread_t acceptor;
	pthread_mutex_t lock; /* of what follows */
	struct buf log;
	struct connection {
		struct test_server *s;
		pthread_t thread;
		int fd;
	} connections[MAX_CONNECTIONS];
	size_t n_connections;
};

/* ---- requests
 * ------------------------------------------------------------------------------------ */

static const char *header(const char *head, const char *name)
{
	const char *line = strcasestr(head, name);

	return line ? line + strlen(name) + 1 : NULL;
}

/* Reads more. Return: 0; -1 at the end of the connection */
static int read_more(int fd, struct buf *in)
{
	char data[65536];
	ssize_t n = read(fd, data, sizeof(data));

	return n <= 0 || buf_append(in, data, (size_t)n) ? -1 : 0;
}

static int read_until(int fd, struct buf *in, size_t len)
{
	while (in->len < len)
		if (read_more(fd, in))
			return -1;
	return 0;
}

/* The chunks at the front of @in, and what is still to come of them. */
static int read_chunks(int fd, struct buf *in, struct buf *body)
{
	for (;;) {
		char *end;
		size_t len, head;

		while (!(end = in->len ? strstr(in->data, "\r\n") : NULL))
			if (read_more(fd, in))
				return -1;
		len = strtoul(in->data, NULL, 16);
		head = (size_t)(end - in->data) + 2;
		if (read_until(fd, in, head + len + 2) || buf_append(body, in->data + head, len))
			return -1;
		buf_consume(in, head + len + 2);
		if (!len)
			return 0;
	}
}

static int read_body(int fd, struct buf *in, struct test_request *rq)
{
	const char *length = header(rq->head, "\r\nContent-Length");
	size_t len = length ? strtoul(length, NULL, 10) : 0;
	struct buf body = {0};
	int r;

	if (buf_reserve(&body, 1))
		return -1;
	if (header(rq->head, "\r\nTransfer-Encoding")) {
		r = read_chunks(fd, in, &body);
	} else {
		r = read_until(fd, in, len);
		if (!r)
			r = buf_append(&body, in->data, len);
		if (!r)
			buf_consume(in, len);
	}
	body.data[body.len] = 0;
	rq->body = body.data;
	rq->len = body.len;
	return r;
}

/* The head and the body of one request. Return: 0; -1 at the end of the connection */
static int read_request(int fd, struct buf *in, bool early, struct test_request *rq)
{
	size_t head_len;
	char *end;

	*rq = (struct test_request){0};
	while (!(end = in->len ? strstr(in->data, "\r\n\r\n") : NULL))
		if (read_more(fd, in))
			return -1;
	head_len = (size_t)(end - in->data) + 4;
	if (head_len >= sizeof(rq->head) ||
	    sscanf(in->data, "%15s %1023s", rq->method, rq->target) != 2)
		return -1;
	memcpy(rq->head, in->data, head_len);
	buf_consume(in, head_len);
	if (early)
		return (rq->body = strdup("")) ? 0 : -1;
	if (read_body(fd, in, rq)) {
		free(rq->body);
		return -1;
	}
	/* a Connect frame begins with a zero byte: show the JSON behind its header */
	if (rq->len > 5 && !rq->body[0] && header(rq->head, "application/connect"))
		memmove(rq->body, rq->body + 5, rq->len - 4);
	return 0;
}

static void *serve(void *userdata)
{
	struct connection *c = userdata;
	struct buf in = {0};
	struct test_request rq;

	while (!read_request(c->fd, &in, c->s->early, &rq)) {
		pthread_mutex_lock(&c->s->lock);
		(void)buf_printf(&c->s->log, "%s %s %s\n", rq.method, rq.target, rq.body);
		pthread_mutex_unlock(&c->s->lock);
		c->s->handler(c->s, &rq, c->fd);
		free(rq.body);
		if (c->s->early)
			break;
	}
	buf_deinit(&in);
	fd_close(c->fd);
	return NULL;
}

static void *accept_all(void *userdata)
{
	struct test_server *s = userdata;
	int fd;

	while ((fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		struct connection *c = &s->connections[s->n_connections];

		if (s->n_connections == MAX_CONNECTIONS)
			abort();
		*c = (struct connection){.s = s, .fd = fd};
		if (pthread_create(&c->thread, NULL, serve, c))
			abort();
		s->n_connections++;
	}
	return NULL;
}

struct test_server *test_server_start(test_handler handler, void *userdata)
{
	struct test_server *s = calloc(1, sizeof(*s));

	if (!s)
		abort();
	(void)signal(SIGPIPE, SIG_IGN);
	s->handler = handler;
	s->userdata = userdata;
	pthread_mutex_init(&s->lock, NULL);
	(void)strcpy(s->dir, "/tmp/test-dorm-XXXXXX");
	if (!mkdtemp(s->dir))
		abort();
	(void)snprintf(s->path, sizeof(s->path), "%s/sock", s->dir);
	s->listen_fd = fd_unix_listen(s->path, SOCK_STREAM, 0600);
	if (s->listen_fd < 0 || pthread_create(&s->acceptor, NULL, accept_all, s))
		abort();
	return s;
}

void test_server_stop(struct test_server *s)
{
	(void)shutdown(s->listen_fd, SHUT_RDWR);
	(void)pthread_join(s->acceptor, NULL);
	for (size_t i = 0; i < s->n_connections; i++)
		(void)pthread_join(s->connections[i].thread, NULL);
	fd_close(s->listen_fd);
	(void)unlink(s->path);
	(void)rmdir(s->dir);
	buf_deinit(&s->log);
	free(s);
}

const char *test_server_path(const struct test_server *s)
{
	return s->path;
}

void *test_server_userdata(const struct test_server *s)
{
	return s->userdata;
}

char *test_server_log(struct test_server *s)
{
	char *copy;

	pthread_mutex_lock(&s->lock);
	copy = strdup(s->log.data ? s->log.data : "");
	pthread_mutex_unlock(&s->lock);
	return copy;
}

bool test_is(const struct test_request *rq, const char *method, const char *target)
{
	return !strcmp(rq->method, method) && !strcmp(rq->target, target);
}

void test_server_answer_early(struct test_server *s)
{
	s->early = true;
}

/* ---- answers
 * ------------------------------------------------------------------------------------- */

/* A client that went away is its own affair. */
static void put(int fd, const void *data, size_t len)
{
	(void)fd_write_full(fd, data, len);
}

void test_reply(int fd, int status, const char *type, const char *headers, const char *body)
{
	char *text =
		str_printf("HTTP/1.1 %d X\r\nContent-Type: %s\r\n%sContent-Length: %zu\r\n\r\n%s",
			   status, type, headers, strlen(body), body);

	put(fd, text, strlen(text));
	free(text);
}

void test_reply_head(int fd, int status, const char *type, size_t len)
{
	char *text = str_printf("HTTP/1.1 %d X\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n",
				status, type, len);

	put(fd, text, strlen(text));
	free(text);
}

void test_write(int fd, const void *data, size_t len)
{
	put(fd, data, len);
}

void test_hang_up(int fd)
{
	(void)shutdown(fd, SHUT_RDWR); /* gone already: as well */
}

void test_reply_json(int fd, int status, const char *body)
{
	if (status == 204)
		put(fd, "HTTP/1.1 204 X\r\n\r\n", 18);
	else
		test_reply(fd, status, "application/json", "", body);
}

void test_stream_begin(int fd, const char *type)
{
	char *text = str_printf(
		"HTTP/1.1 200 X\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n", type);

	put(fd, text, strlen(text));
	free(text);
}

void test_stream(int fd, const void *data, size_t len)
{
	char head[32];

	put(fd, head, (size_t)snprintf(head, sizeof(head), "%zx\r\n", len));
	put(fd, data, len);
	put(fd, "\r\n", 2);
}

void test_stream_end(int fd)
{
	put(fd, "0\r\n\r\n", 5);
}

void test_frame(int fd, unsigned char flags, const char *json)
{
	size_t len = strlen(json);
	unsigned char h[5] = {flags, (unsigned char)(len >> 24), (unsigned char)(len >> 16),
			      (unsigned char)(len >> 8), (unsigned char)len};
	struct buf b = {0};

	(void)buf_append(&b, h, sizeof(h));
	(void)buf_append(&b, json, len);
	test_stream(fd, b.data, b.len);
	buf_deinit(&b);
}

/* ---- dorm
 * ---------------------------------------------------------------------------------------- */

pid_t test_spawn(struct test_server *s, const int fds[3], const char *const *args)
{
	const char *argv[MAX_ARGS + 4] = {getenv("DORM_BIN"), "--socket", s->path};
	posix_spawn_file_actions_t actions;
	pid_t pid;

	for (size_t i = 0; args[i]; i++)
		argv[3 + i] = args[i];
	if (!argv[0] || posix_spawn_file_actions_init(&actions))
		abort();
	for (int i = 0; i < 3; i++)
		if (posix_spawn_file_actions_adddup2(&actions, fds[i], i))
			abort();
	if (posix_spawn(&pid, argv[0], &actions, NULL, (char *const *)argv, environ))
		abort();
	(void)posix_spawn_file_actions_destroy(&actions);
	return pid;
}

int test_wait(pid_t pid)
{
	uint64_t deadline_ns = deadline_after_ms(DORM_MS);
	int status;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (deadline_passed(deadline_ns)) {
			(void)kill(pid, SIGKILL);
			(void)waitpid(pid, &status, 0);
			break;
		}
		clock_sleep_ms(2);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int scratch(const char *content)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	if (fd < 0 || fd_write_full(fd, content, strlen(content)) || lseek(fd, 0, SEEK_SET))
		abort();
	return fd;
}

static char *content_of(int fd)
{
	off_t len = lseek(fd, 0, SEEK_END);
	char *text = calloc(1, (size_t)len + 1);

	if (!text || (len && fd_pread_full(fd, text, (size_t)len, 0)))
		abort();
	fd_close(fd);
	return text;
}

struct test_outcome test_dorm(struct test_server *s, const char *input, ...)
{
	int fds[3] = {scratch(input), scratch(""), scratch("")};
	const char *args[MAX_ARGS] = {0};
	struct test_outcome o;
	va_list ap;

	va_start(ap, input);
	for (size_t i = 0; i < MAX_ARGS - 1 && (args[i] = va_arg(ap, const char *)); i++)
		;
	va_end(ap);
	o.code = test_wait(test_spawn(s, fds, args));
	fd_close(fds[0]);
	o.out = content_of(fds[1]);
	o.err = content_of(fds[2]);
	return o;
}

void test_outcome_deinit(struct test_outcome *o)
{
	free(o->out);
	free(o->err);
	*o = (struct test_outcome){0};
}
