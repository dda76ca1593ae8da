/* SPDX-License-Identifier: Apache-2.0 */
/*
 * server.c - libmicrohttpd in front of the routes and the proxy
 *
 * MHD calls on_request() several times per request: once with the headers (*state is NULL), then
 * with each part of the body, then with an empty part at its end. struct exchange is what is kept
 * between these calls. An error found early is kept too and answered at the end, after the body has
 * been read and dropped, since many clients do not look at an answer before they have sent
 * everything. Uploads (struct upload) are the exception: they are of any size, so an error is
 * answered at once, and only so much is dropped.
 */
#include "api/server.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "api/proxy.h"
#include "api/routes.h"
#include "base/error.h"
#include "base/clock.h"
#include "base/fd.h"

#define MAX_CONNECTIONS 512
#define IDLE_SECONDS	60 /* headers, and between requests of one connection */
#define MEMORY_LIMIT	(64u << 10)
#define STACK_BYTES	(256u << 10)
#define ANSWER_MS	5000
#define DROP_MAX	(64ull << 20) /* of a body whose sender was told that it is refused */

struct server {
	struct host *host;
	const struct access *access; /* NULL: no key is asked for */
	struct MHD_Daemon *daemon;
};

struct exchange {
	struct request q;
	request_handler handler;
	struct proxy *proxy;
	struct upload upload; /* free is NULL without one */
	struct reply early;   /* an error found before the body was read */
	bool has_early;
	bool is_upload;
	bool answered; /* in the middle of an upload, which is now dropped */
	uint64_t dropped;
};

static void fail_early(struct exchange *x, int r, const struct problem *problem)
{
	if (x->has_early)
		return;
	x->early.problem = *problem;
	reply_error(&x->early, r);
	x->has_early = true;
}

/* Whether the daemon lives is everybody's business. */
static bool is_allowed(const struct server *s, struct MHD_Connection *connection, const char *url)
{
	return !s->access || !strcmp(url, "/health") || !strcmp(url, "/healthz") ||
	       access_allows(s->access, MHD_lookup_connection_value(connection, MHD_HEADER_KIND,
								    "X-API-KEY"));
}

static struct exchange *exchange_new(struct server *s, struct MHD_Connection *connection,
				     const char *method, const char *url)
{
	const char *id = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "E2b-Sandbox-Id");
	const char *port =
		MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "E2b-Sandbox-Port");
	struct exchange *x = calloc(1, sizeof(*x));
	const struct route *route;
	struct problem p = PROBLEM_INIT;
	int r = -ENOENT;

	if (!x)
		return NULL;
	x->q.host = s->host;
	x->q.connection = connection;
	if (id || port) {
		r = proxy_begin(s->host, connection, method, url, id, port, &p, &x->proxy);
		if (r < 0) {
			fail_early(x, r, &p);
			if (id && x->early.json)
				(void)json_object_set_new(x->early.json, "sandboxId",
							  json_string(id));
		}
		return x;
	}
	if (!is_allowed(s, connection, url)) {
		problem_set(&p, 401, "the header X-API-KEY is missing or wrong");
		fail_early(x, -EACCES, &p);
		return x;
	}
	route = routes_find(method, url, &x->q, &p);
	if (!route) {
		fail_early(x, -ENOENT, &p);
		return x;
	}
	x->handler = route->handler;
	if (route->upload) {
		r = route->upload(&x->q, &p, &x->upload);
		x->is_upload = true;
		if (r < 0)
			fail_early(x, r, &p);
	}
	return x;
}

static void take_body(struct exchange *x, const char *data, size_t len)
{
	struct problem p = PROBLEM_INIT;

	if (x->has_early)
		return;
	if (x->proxy) {
		(void)proxy_body(x->proxy, data, len); /* its answer tells */
		return;
	}
	if (x->q.body.len + len > REQUEST_MAX_BODY) {
		problem_set(&p, 413, "the body is larger than %u bytes", REQUEST_MAX_BODY);
		fail_early(x, -EFBIG, &p);
	} else if (buf_append(&x->q.body, data, len) < 0) {
		fail_early(x, -ENOMEM, &p);
	}
}

/*
 * What is wrong with an upload of gigabytes is said at once. MHD answers only at the beginning of a
 * request or at its end, so this goes around it: the reply is written to the socket, and from then
 * on the body is dropped until the client closes, or has had a fair chance to look.
 */
static void answer_now(struct exchange *x, struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	_cleanup_free_ char *body = x->early.json ? json_dumps(x->early.json, JSON_COMPACT) : NULL;
	_cleanup_buf_ struct buf text = {0};

	x->answered = true;
	if (!info || !body ||
	    buf_printf(&text,
		       "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n"
		       "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
		       x->early.status, MHD_get_reason_phrase_for((unsigned)x->early.status),
		       strlen(body), body) < 0)
		return;
	/* a client that does not read sees the connection close */
	(void)fd_write_deadline(info->connect_fd, text.data, text.len,
				deadline_after_ms(ANSWER_MS));
	(void)shutdown(info->connect_fd, SHUT_WR);
}

/* Return: false when the connection is to be closed */
static bool take_upload(struct exchange *x, struct MHD_Connection *connection, const char *data,
			size_t len)
{
	struct problem p = PROBLEM_INIT;
	int r;

	if (!x->has_early) {
		r = x->upload.body(x->upload.state, data, len, &p);
		if (r < 0)
			fail_early(x, r, &p);
	}
	if (!x->has_early)
		return true;
	if (!x->answered)
		answer_now(x, connection);
	x->dropped += len;
	return x->dropped <= DROP_MAX;
}

static enum MHD_Result finish_upload(struct exchange *x, struct MHD_Connection *connection)
{
	struct reply y = {0};
	int r;

	/* the last of it is verified and made durable; that is not being idle */
	(void)MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
	r = x->upload.finish(x->upload.state, &y);
	if (r < 0)
		reply_error(&y, r);
	return reply_send(connection, &y);
}

static int parse_body(struct exchange *x, struct problem *problem)
{
	json_error_t err;

	if (!x->q.body.len) {
		x->q.json = json_object();
		return x->q.json ? 0 : -ENOMEM;
	}
	x->q.json = json_loadb(x->q.body.data, x->q.body.len, JSON_REJECT_DUPLICATES, &err);
	if (!x->q.json) {
		problem_set(problem, 400, "the body is not JSON: line %d: %s", err.line, err.text);
		return -EINVAL;
	}
	if (!json_is_object(x->q.json)) {
		problem_set(problem, 400, "the body must be a JSON object");
		return -EINVAL;
	}
	return 0;
}

static enum MHD_Result answer(struct exchange *x, struct MHD_Connection *connection)
{
	struct reply y = {0};
	int r;

	if (x->answered)
		return MHD_NO; /* closes the connection */
	if (x->has_early)
		return reply_send(connection, &x->early);
	if (x->is_upload)
		return finish_upload(x, connection);
	if (x->proxy) {
		r = proxy_finish(take_ptr(x->proxy), connection, &y.problem);
		if (r == 0)
			return MHD_YES;
	} else {
		r = parse_body(x, &y.problem);
		if (r == 0)
			r = x->handler(&x->q, &y);
	}
	if (r < 0)
		reply_error(&y, r);
	return reply_send(connection, &y);
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
				  const char *method, const char *version, const char *upload_data,
				  size_t *upload_data_size, void **state)
{
	struct server *s = cls;
	struct exchange *x = *state;

	if (!x) {
		*state = exchange_new(s, connection, method, url);
		return *state ? MHD_YES : MHD_NO;
	}
	if (*upload_data_size && x->is_upload) {
		if (!take_upload(x, connection, upload_data, *upload_data_size))
			return MHD_NO;
		*upload_data_size = 0;
		return MHD_YES;
	}
	if (*upload_data_size) {
		take_body(x, upload_data, *upload_data_size);
		*upload_data_size = 0;
		return MHD_YES;
	}
	return answer(x, connection);
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **state,
			 enum MHD_RequestTerminationCode how)
{
	struct exchange *x = *state;

	if (!x)
		return;
	/* a stream may have been without a limit; the wait for the next request is not */
	(void)MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT,
					(unsigned)IDLE_SECONDS);
	proxy_free(x->proxy);
	if (x->upload.free)
		x->upload.free(x->upload.state);
	json_decref(x->q.json);
	json_decref(x->early.json);
	buf_deinit(&x->q.body);
	free(x);
	*state = NULL;
}

int server_new(struct host *host, int listen_fd, const struct access *access,
	       struct problem *problem, struct server **ret)
{
	struct server *s = calloc(1, sizeof(*s));

	if (!s) {
		fd_close(listen_fd);
		return -ENOMEM;
	}
	s->host = host;
	s->access = access;
	s->daemon = MHD_start_daemon(
		MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL |
			MHD_USE_ITC,
		0, NULL, NULL, on_request, s, MHD_OPTION_LISTEN_SOCKET, listen_fd,
		MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_CONNECTION_LIMIT,
		(unsigned)MAX_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_SECONDS,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)MEMORY_LIMIT,
		MHD_OPTION_THREAD_STACK_SIZE, (size_t)STACK_BYTES, MHD_OPTION_END);
	if (!s->daemon) {
		int r = errno ? -errno : -EIO;

		problem_errno(problem, r, "starting the HTTP server");
		fd_close(listen_fd);
		free(s);
		return error_trace(r);
	}
	*ret = s;
	return 0;
}

struct server *server_free(struct server *s)
{
	if (!s)
		return NULL;
	MHD_stop_daemon(s->daemon); /* closes the listening socket */
	free(s);
	return NULL;
}
