/* SPDX-License-Identifier: Apache-2.0 */
#include "api/request.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "api/peers.h"
#include "base/id.h"
#include "base/mem.h"
#include "base/utf8.h"

#define STREAM_CHUNK (256u << 10)

const char *request_query(struct request *q, const char *name)
{
	return MHD_lookup_connection_value(q->connection, MHD_GET_ARGUMENT_KIND, name);
}

const char *request_owner(const struct request *q)
{
	return q->caller.key_id[0] && q->caller.scope < SCOPE_ADMIN ? q->caller.key_id : NULL;
}

void request_name(struct request *q)
{
	static const char sane[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	const char *given =
		MHD_lookup_connection_value(q->connection, MHD_HEADER_KIND, "X-Request-Id");
	char own[ID_LEN + 1];
	size_t n = given ? strspn(given, sane) : 0;

	if (n && !given[n] && n <= LOG_REQUEST_MAX) {
		memcpy(q->id, given, n + 1);
	} else {
		id_new('r', own);
		memcpy(q->id, own, sizeof(own));
	}
}

bool request_is_local(struct request *q)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(q->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct sockaddr_storage a = {.ss_family = AF_UNSPEC};
	socklen_t len = sizeof(a);

	return info && getsockname(info->connect_fd, (struct sockaddr *)&a, &len) == 0 &&
	       a.ss_family == AF_UNIX;
}

bool request_is_abandoned(void *userdata)
{
	const struct request *q = userdata;
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(q->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct pollfd p = {.events = POLLRDHUP};

	if (!info)
		return false;
	p.fd = info->connect_fd;
	return poll(&p, 1, 0) == 1 && p.revents & (POLLRDHUP | POLLHUP | POLLERR);
}

int reply_json(struct reply *y, int status, json_t *json)
{
	if (!json)
		return -ENOMEM;
	y->status = status;
	y->json = json;
	return 0;
}

/* A body that is made as it is sent. Making a part may be long in coming, taking it may not. */
struct paced {
	MHD_ContentReaderCallback read;
	void (*free_state)(void *state);
	void *state;
	struct peer *peer; /* of the connection; NULL until it is queued */
};

static ssize_t paced_read(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct paced *p = cls;
	ssize_t n;

	peer_work(p->peer);
	n = p->read(p->state, pos, buf, max);
	peer_send(p->peer);
	return n;
}

static void paced_free(void *cls)
{
	struct paced *p = cls;

	p->free_state(p->state);
	free(p);
}

int reply_stream(struct reply *y, const char *type, uint64_t bytes, MHD_ContentReaderCallback read,
		 void *state, void (*free_state)(void *state))
{
	struct paced *p = calloc(1, sizeof(*p));

	if (p) {
		*p = (struct paced){.read = read, .free_state = free_state, .state = state};
		y->raw = MHD_create_response_from_callback(bytes, STREAM_CHUNK, paced_read, p,
							   paced_free);
	}
	if (!y->raw) {
		free(p);
		free_state(state);
		return -ENOMEM;
	}
	y->paced = p;
	(void)MHD_add_response_header(y->raw, "Content-Type", type);
	y->status = 200;
	return 0;
}

json_t *reply_text(const char *text)
{
	_cleanup_free_ char *clean = utf8_from(text);

	return clean ? json_string(clean) : NULL;
}

static void set_text(json_t *o, const char *name, const char *text)
{
	if (o)
		(void)json_object_set_new(o, name, reply_text(text)); /* left out then */
}

json_t *reply_problem(struct problem *p, int r)
{
	json_t *o;

	problem_errno(p, r < 0 ? r : -EIO, "the request failed");
	if (!p->status)
		p->status = 500;
	o = json_pack("{s:i}", "code", p->status);
	set_text(o, "message", p->message);
	if (p->hint[0])
		set_text(o, "hint", p->hint);
	if (p->code)
		set_text(o, "error_code", p->code);
	return o;
}

void reply_error(struct reply *y, int r)
{
	json_decref(y->json);
	y->json = reply_problem(&y->problem, r);
	y->status = y->problem.status;
}

/* Web pages may use this API: what protects it is a key, which no browser sends by itself. */
static void add_headers(const struct reply *y, struct MHD_Response *m)
{
	char seconds[16];

	(void)MHD_add_response_header(m, "Access-Control-Allow-Origin", "*");
	(void)MHD_add_response_header(m, "Access-Control-Expose-Headers",
				      "x-next-token, X-Request-Id, Retry-After, Allow, "
				      "Idempotent-Replayed");
	if (y->status == 503 || y->status == 429 || y->problem.retry_s) {
		/* E2B clients retry with an integer */
		(void)snprintf(seconds, sizeof(seconds), "%u", /* fits */
			       y->problem.retry_s ? y->problem.retry_s : 1);
		(void)MHD_add_response_header(m, "Retry-After", seconds);
	}
	if (y->next_token[0])
		(void)MHD_add_response_header(m, "x-next-token", y->next_token);
	if (y->replayed)
		(void)MHD_add_response_header(m, "Idempotent-Replayed", "true");
	if (y->allow[0])
		(void)MHD_add_response_header(m, "Allow", y->allow);
	if (y->allow[0] && y->status == 204) { /* the answer to OPTIONS */
		(void)MHD_add_response_header(m, "Access-Control-Allow-Methods", y->allow);
		(void)MHD_add_response_header(m, "Access-Control-Allow-Headers", "*");
		(void)MHD_add_response_header(m, "Access-Control-Max-Age", "7200");
	}
}

static struct MHD_Response *make_response(struct reply *y)
{
	char *text;
	struct MHD_Response *m;

	if (y->raw) {
		add_headers(y, y->raw);
		return take_ptr(y->raw);
	}
	text = y->json ? json_dumps(y->json, JSON_COMPACT) : NULL;
	m = MHD_create_response_from_buffer(text ? strlen(text) : 0, text ? text : (void *)"",
					    text ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
	if (m && text)
		(void)MHD_add_response_header(m, "Content-Type", "application/json");
	if (m)
		add_headers(y, m);
	return m;
}

enum MHD_Result reply_send(struct MHD_Connection *connection, struct reply *y)
{
	struct MHD_Response *m = make_response(y);
	enum MHD_Result result;

	json_decref(y->json);
	y->json = NULL;
	if (!m)
		return MHD_NO; /* closes the connection */
	if (y->request_id)
		(void)MHD_add_response_header(m, "X-Request-Id", y->request_id);
	if (y->paced)
		y->paced->peer = peer_of(connection);
	peer_send(peer_of(connection));
	result = MHD_queue_response(connection, (unsigned)y->status, m);
	MHD_destroy_response(m);
	return result;
}
