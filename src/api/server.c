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

#include "api/access.h"
#include "api/local-peer.h"
#include "api/once.h"
#include "api/peers.h"
#include "api/proxy.h"
#include "api/proxy-internal.h"
#include "api/routes.h"
#include "api/signed-url.h"
#include "api/tls.h"
#include "base/error.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/fd.h"
#include "base/str.h"
#include "sandbox/metrics.h"

#define MEMORY_LIMIT (128u << 10) /* per connection: heads, and what is read ahead */
#define STACK_BYTES  (256u << 10)
#define ANSWER_MS    5000
#define ONCE_WAIT_MS 60000	   /* for the first request with the same key */
#define DROP_MAX     (64ull << 20) /* of a body whose sender was told that it is refused */

struct server {
	struct host *host;
	struct access *access; /* NULL: there are no keys */
	bool asks_for_key, local, tls;
	gid_t group;
	struct MHD_Daemon *daemon;
	struct peers *peers;
	struct once *once;
};

struct exchange {
	struct server *server;
	char *uri; /* as the client wrote it */
	bool begun;
	struct request q;
	request_handler handler;
	struct proxy *proxy;
	struct target target; /* of the proxy; port 0: none */
	struct upload upload; /* free is NULL without one */
	struct reply early;   /* an error found before the body was read */
	bool has_early;
	bool is_upload;
	uint64_t begun_ns;
	const char *method;  /* of MHD's, as long as the request */
	const char *pattern; /* of its route; "": none, or a sandbox's */
	uint64_t n_received;
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

/*
 * /files?...&signature=... without a sandbox in its headers is somebody's whom a client gave a URL.
 * Return: 1 when it is one, and whose it is in @ret; 0: it is none; negative errno: nobody's
 */
static int find_signed(struct host *host, struct MHD_Connection *connection, const char *method,
		       const char *url, struct problem *problem, struct target *ret)
{
	const struct signed_url u = {
		.path = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "path"),
		.user = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "username"),
		.expiration = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND,
							  "signature_expiration"),
		.signature =
			MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "signature"),
		.write = !strcmp(method, "POST"),
	};
	int r;

	if (strcmp(url, "/files") != 0 || !u.signature)
		return 0;
	r = signed_url_find(host, &u, ret->sandbox_id);
	ret->port = TARGET_AGENT_PORT;
	if (r == -ENOENT || r == -ENAMETOOLONG)
		problem_set(problem, 401, "invalid signature");
	return r < 0 ? r : 1;
}

static const char *header(struct exchange *x, const char *name)
{
	return MHD_lookup_connection_value(x->q.connection, MHD_HEADER_KIND, name);
}

/* Over the unix socket: whatever the request is for. */
static int check_local(struct exchange *x, const struct server *s, struct problem *problem)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(x->q.connection, MHD_CONNECTION_INFO_CONNECTION_FD);

	if (!s->local)
		return 0;
	x->q.caller.scope = SCOPE_ADMIN;
	return local_peer_check(info ? info->connect_fd : -1, s->group, problem, &x->q.caller.uid);
}

/*
 * Who asks, may he, and is it his? @route: NULL: there is no such thing, which only those are told
 * who have a key.
 */
static int admit(struct exchange *x, const struct server *s, const struct route *route,
		 struct problem *problem)
{
	int r;

	if (!s->asks_for_key || (route && route->open))
		return 0;
	r = access_check(s->access, header(x, "X-API-KEY"), header(x, "Authorization"), problem,
			 &x->q.caller);
	if (r < 0 || !route)
		return r;
	r = access_permits(&x->q.caller, route, problem);
	if (r == 0 && strstr(route->path, "/sandboxes/{}"))
		r = access_sandbox(s->host, &x->q.caller, x->q.args[0], problem);
	return r;
}

/* An error tells whose it is. */
static void name_target(const struct exchange *x, json_t *error)
{
	if (!error || !x->target.port)
		return;
	(void)json_object_set_new(error, "sandboxId", json_string(x->target.sandbox_id));
	if (x->target.port != TARGET_AGENT_PORT)
		(void)json_object_set_new(error, "port", json_integer(x->target.port));
}

static void begin_proxy(struct exchange *x, const struct target *target, const char *method,
			bool raw)
{
	const struct proxy_request q = {.host = x->q.host,
					.connection = x->q.connection,
					.target = *target,
					.method = method,
					.uri = x->uri,
					.raw = raw};
	struct problem p = PROBLEM_INIT;
	int r = proxy_begin(&q, &p, &x->proxy);

	x->target = *target;
	if (r == 0)
		return;
	fail_early(x, r, &p);
	name_target(x, x->early.json);
}

/* "Upgrade: tcp" to a route for raw connections. Return: was it one? */
static bool begin_raw(struct exchange *x, const struct route *route, const char *method)
{
	const char *upgrade = header(x, "Upgrade");
	struct problem p = PROBLEM_INIT;
	struct target target;

	if (!route->raw || !upgrade || strcasecmp(upgrade, "tcp") ||
	    header(x, "Transfer-Encoding") || header(x, "Content-Length"))
		return false;
	str_copy(target.sandbox_id, sizeof(target.sandbox_id), x->q.args[0]);
	if (target_port(x->q.args[1], &p, &target.port) < 0)
		fail_early(x, -EINVAL, &p);
	else
		begin_proxy(x, &target, method, true);
	return true;
}

/* The path as the client wrote it, without a query. NULL without memory */
static char *path_of(const char *uri)
{
	const char *path = proxy_path(uri);

	return strndup(path, strcspn(path, "?"));
}

/*
 * OPTIONS is how a browser asks what a page of another origin may do, before it sends a key or a
 * sandbox's headers: so it is answered for everything that might be somewhere.
 */
static void begin_options(struct exchange *x, const char *path)
{
	struct problem p = PROBLEM_INIT;

	x->early.status = 204;
	x->has_early = true;
	if (routes_allowed(path, x->early.allow))
		return;
	if (header(x, "Access-Control-Request-Method")) {
		str_copy(x->early.allow, sizeof(x->early.allow),
			 "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
		return;
	}
	problem_set(&p, 404, "there is no %.200s", path);
	x->has_early = false;
	fail_early(x, -ENOENT, &p);
}

static void begin_control(struct exchange *x, const struct server *s, const char *method,
			  const char *url)
{
	_cleanup_free_ char *path = path_of(x->uri);
	const struct route *route;
	struct problem p = PROBLEM_INIT, nowhere = PROBLEM_INIT;
	int r;

	if (!path) {
		fail_early(x, -ENOMEM, &p);
		return;
	}
	if (!strcmp(method, "OPTIONS")) { /* which browsers ask without a key */
		begin_options(x, path);
		return;
	}
	route = routes_find(method, path, &x->q, &nowhere);
	r = admit(x, s, route, &p);
	if (r == 0 && !route) {
		if (nowhere.status == 405)
			(void)routes_allowed(path, x->early.allow); /* it is there */
		p = nowhere;
		r = -ENOENT;
	}
	if (r < 0) {
		fail_early(x, r, &p);
		return;
	}
	if (begin_raw(x, route, method))
		return;
	x->handler = route->handler;
	x->pattern = route->path;
	if (route->upload) {
		r = route->upload(&x->q, &p, &x->upload);
		x->is_upload = true;
		if (r < 0)
			fail_early(x, r, &p);
	}
}

/* The headers are there. */
static void exchange_begin(struct exchange *x, struct server *s, struct MHD_Connection *connection,
			   const char *method, const char *url)
{
	struct problem p = PROBLEM_INIT;
	struct target target;
	int r;

	x->begun = true;
	x->server = s;
	x->begun_ns = clock_now_ns();
	x->method = method;
	x->pattern = "";
	x->q.host = s->host;
	x->q.access = s->access;
	x->q.connection = connection;
	request_name(&x->q);
	log_set_request(x->q.id);
	r = check_local(x, s, &p);
	if (r < 0) {
		fail_early(x, r, &p);
		return;
	}
	r = target_find(header(x, "Host"), header(x, "E2b-Sandbox-Id"),
			header(x, "E2b-Sandbox-Port"), &p, &target);
	if (r == TARGET_CONTROL) {
		r = find_signed(s->host, connection, method, url, &p, &target);
		if (r == 0) {
			begin_control(x, s, method, url);
			return;
		}
	}
	if (r < 0)
		fail_early(x, r, &p);
	else if (!strcmp(method, "OPTIONS") && target.port == TARGET_AGENT_PORT)
		begin_options(x, "*");
	else
		begin_proxy(x, &target, method, false);
}

/* With the request's line; what is returned is kept as its state. NULL without memory */
static void *on_uri(void *cls, const char *uri, struct MHD_Connection *connection)
{
	struct exchange *x = calloc(1, sizeof(*x));

	if (x)
		x->uri = strdup(uri);
	return x;
}

static void take_body(struct exchange *x, const char *data, size_t len)
{
	struct problem p = PROBLEM_INIT;

	if (x->has_early)
		return;
	if (x->q.body.len + len > REQUEST_MAX_BODY) {
		problem_set(&p, 413, "the body is larger than %u bytes", REQUEST_MAX_BODY);
		fail_early(x, -EFBIG, &p);
	} else if (buf_append(&x->q.body, data, len) < 0) {
		fail_early(x, -ENOMEM, &p);
	}
}

static void send_now(struct MHD_Connection *connection, int fd, const struct buf *text)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
	uint64_t deadline_ns = deadline_after_ms(ANSWER_MS);

	if (info && info->tls_session)
		(void)tls_write(info->tls_session, fd, text->data, text->len, deadline_ns);
	else
		(void)fd_write_deadline(fd, text->data, text->len, deadline_ns);
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
	send_now(connection, info->connect_fd, &text);
	(void)shutdown(info->connect_fd, SHUT_WR);
}

/* Return: false when the connection is to be closed */
static bool take_proxied(struct exchange *x, struct MHD_Connection *connection, const char *data,
			 size_t len)
{
	struct problem p = PROBLEM_INIT;
	int r = proxy_body(x->proxy, data, len, &p);

	if (r == 0)
		return true;
	fail_early(x, r, &p);
	name_target(x, x->early.json);
	answer_now(x, connection);
	return false;
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

static enum MHD_Result send_reply(struct exchange *x, struct MHD_Connection *connection,
				  struct reply *y)
{
	y->request_id = x->q.id;
	return reply_send(connection, y);
}

static enum MHD_Result finish_upload(struct exchange *x, struct MHD_Connection *connection)
{
	struct reply y = {0};
	int r;

	r = x->upload.finish(x->upload.state, &y);
	if (r < 0)
		reply_error(&y, r);
	return send_reply(x, connection, &y);
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

/* Unless that has been done before. */
static int handle(struct exchange *x, struct reply *y)
{
	const char *key = once_applies(x->handler) ? header(x, "Idempotency-Key") : NULL;
	_cleanup_free_ char *path = NULL;
	int r;

	if (!key)
		return x->handler(&x->q, y);
	path = path_of(x->uri);
	r = path ? once_name(&x->q, path, key, &y->problem) : -ENOMEM;
	if (r == 0)
		r = once_begin(x->server->once, &x->q, deadline_after_ms(ONCE_WAIT_MS), y);
	if (r != 0)
		return MIN(r, 0);
	r = x->handler(&x->q, y);
	once_end(x->server->once, &x->q, r == 0 ? y : NULL);
	return r;
}

static enum MHD_Result answer(struct exchange *x, struct MHD_Connection *connection)
{
	struct reply y = {0};
	int r;

	if (x->answered)
		return MHD_NO; /* closes the connection */
	if (x->has_early)
		return send_reply(x, connection, &x->early);
	if (x->is_upload)
		return finish_upload(x, connection);
	if (x->proxy) {
		r = proxy_finish(x->proxy, &y.problem);
		if (r == 0)
			return MHD_YES;
		if (r == -ECANCELED) /* the client has gone */
			return MHD_NO;
	} else {
		r = parse_body(x, &y.problem);
		if (r == 0)
			r = handle(x, &y);
	}
	if (r < 0) {
		reply_error(&y, r);
		name_target(x, y.json);
	}
	return send_reply(x, connection, &y);
}

static enum MHD_Result take_part(struct exchange *x, struct MHD_Connection *connection,
				 const char *data, size_t len)
{
	struct peer *peer = peer_of(connection);

	if (!x->is_upload && !x->proxy) { /* of a megabyte at most: one time limit for all of it */
		take_body(x, data, len);
		return MHD_YES;
	}
	peer_work(peer);
	if (!(x->proxy ? take_proxied : take_upload)(x, connection, data, len))
		return MHD_NO;
	peer_body(peer);
	return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
				  const char *method, const char *version, const char *upload_data,
				  size_t *upload_data_size, void **state)
{
	struct peer *peer = peer_of(connection);
	struct exchange *x = *state;
	enum MHD_Result result;

	if (!x || !x->uri || !peer)
		return MHD_NO; /* no memory: closes the connection */
	if (!x->begun) {
		peer_work(peer);
		exchange_begin(x, cls, connection, method, url);
		if (x->has_early) /* whose body is dropped gives way, as who has said nothing */
			peer_head(peer);
		else
			peer_body(peer);
		return MHD_YES;
	}
	if (*upload_data_size) {
		x->n_received += *upload_data_size;
		result = take_part(x, connection, upload_data, *upload_data_size);
		*upload_data_size = 0;
		return result;
	}
	peer_work(peer);
	return answer(x, connection);
}

/* The path without its query, in which there may be a signature. */
static void log_access(const struct exchange *x, unsigned status, uint64_t ns)
{
	double ms = (double)ns / 1e6;
	const char *key = x->q.caller.key_id[0] ? x->q.caller.key_id : "-";
	int path = (int)strcspn(x->uri, "?");

	if (x->target.port)
		log_debug("sandbox=%s port=%u method=%s path=%.*s status=%u ms=%.1f key=%s "
			  "received=%llu",
			  x->target.sandbox_id, (unsigned)x->target.port, x->method, path, x->uri,
			  status, ms, key, (unsigned long long)x->n_received);
	else
		log_debug("method=%s path=%.*s status=%u ms=%.1f key=%s received=%llu", x->method,
			  path, x->uri, status, ms, key, (unsigned long long)x->n_received);
}

/* How a request ended; status 0: the client had gone before it was answered. */
static void account(const struct exchange *x, struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_HTTP_STATUS);
	unsigned status = x->answered ? (unsigned)x->early.status : info ? info->http_status : 0;
	uint64_t ns = clock_now_ns() - x->begun_ns;

	metrics_http(x->method, x->pattern, status, ns);
	if (log_wants(LOG_LEVEL_DEBUG))
		log_access(x, status, ns);
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **state,
			 enum MHD_RequestTerminationCode how)
{
	struct exchange *x = *state;

	if (!x)
		return;
	if (x->begun)
		account(x, connection);
	log_set_request(NULL);
	proxy_free(x->proxy);
	if (x->upload.free)
		x->upload.free(x->upload.state);
	json_decref(x->q.json);
	json_decref(x->early.json);
	buf_deinit(&x->q.body);
	free(x->uri);
	free(x);
	*state = NULL;
	peer_head(peer_of(connection));
}

/* Connections are accepted by peers.c, and time limits are its business, too. */
static int start(struct server *s)
{
	const struct MHD_OptionItem tls[] = {
		{MHD_OPTION_HTTPS_CERT_CALLBACK, 0, (void *)tls_retrieve},
		{MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)TLS_PRIORITIES},
		{MHD_OPTION_END, 0, NULL}};

	s->daemon = MHD_start_daemon(
		MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL |
			MHD_USE_ITC | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_UPGRADE |
			(s->tls ? (unsigned)MHD_USE_TLS : 0),
		0, NULL, NULL, on_request, s, MHD_OPTION_URI_LOG_CALLBACK, on_uri, s,
		MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_NOTIFY_CONNECTION,
		peers_on_connection, s->peers, MHD_OPTION_CONNECTION_LIMIT,
		(unsigned)(PEERS_MAX + PEERS_SPARE), MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)MEMORY_LIMIT, MHD_OPTION_THREAD_STACK_SIZE, (size_t)STACK_BYTES,
		s->tls ? MHD_OPTION_ARRAY : MHD_OPTION_END, tls, MHD_OPTION_END);
	if (!s->daemon)
		return errno ? -errno : -EIO;
	return peers_start(s->peers, s->daemon);
}

int server_new(struct host *host, const struct server_config *config, struct problem *problem,
	       struct server **ret)
{
	struct server *s = calloc(1, sizeof(*s));
	int r;

	if (!s) {
		fd_close(config->listen_fd);
		return -ENOMEM;
	}
	s->host = host;
	s->access = config->access;
	s->asks_for_key = config->asks_for_key;
	s->local = config->local;
	s->group = config->group;
	s->tls = config->tls;
	r = peers_new(config, &s->peers);
	if (r == 0)
		r = once_new(&s->once);
	if (r == 0)
		r = start(s);
	if (r < 0) {
		problem_errno(problem, r, "starting the HTTP server");
		server_free(s);
		return error_trace(r);
	}
	*ret = s;
	return 0;
}

struct server *server_free(struct server *s)
{
	if (!s)
		return NULL;
	if (s->peers)
		peers_stop(s->peers);
	if (s->daemon)
		MHD_stop_daemon(s->daemon);
	peers_free(s->peers);
	once_free(s->once);
	free(s);
	return NULL;
}
