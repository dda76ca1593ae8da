/* SPDX-License-Identifier: Apache-2.0 */
#include "api/request.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "api/peers.h"
#include "base/id.h"
#include "base/mem.h"

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

void reply_error(struct reply *y, int r)
{
	problem_errno(&y->problem, r < 0 ? r : -EIO, "the request failed");
	json_decref(y->json);
	y->status = y->problem.status ? y->problem.status : 500;
	y->json = json_pack("{s:i, s:s}", "code", y->status, "message", y->problem.message);
	if (y->json && y->problem.hint[0])
		(void)json_object_set_new(y->json, "hint", json_string(y->problem.hint));
}

static struct MHD_Response *make_response(struct reply *y)
{
	char *text;
	struct MHD_Response *m;

	if (y->raw)
		return take_ptr(y->raw);
	text = y->json ? json_dumps(y->json, JSON_COMPACT) : NULL;
	m = MHD_create_response_from_buffer(text ? strlen(text) : 0, text ? text : (void *)"",
					    text ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
	if (m && text)
		(void)MHD_add_response_header(m, "Content-Type", "application/json");
	if (m && (y->status == 503 || y->status == 429)) { /* E2B clients retry with an integer */
		char seconds[16];

		(void)snprintf(seconds, sizeof(seconds), "%u", /* fits */
			       y->problem.retry_s ? y->problem.retry_s : 1);
		(void)MHD_add_response_header(m, "Retry-After", seconds);
	}
	if (m && y->next_token[0])
		(void)MHD_add_response_header(m, "x-next-token", y->next_token);
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
