/* SPDX-License-Identifier: Apache-2.0 */
/* proxy-agent.c - a request to the agent's own HTTP API */
#include "api/proxy-internal.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/str.h"
#include "base/mem.h"

#define MAX_HEADERS 31 /* of the 32 that a stream can be opened with; one is ours */

struct headers {
	struct channel_header list[MAX_HEADERS + 1];
	char *names[MAX_HEADERS]; /* lower-case copies; owned */
	const char *connection;
	size_t n;
	int error;
};

static enum MHD_Result add_header(void *cls, enum MHD_ValueKind kind, const char *name,
				  const char *value)
{
	struct headers *h = cls;
	char *copy;

	if (!value || !proxy_is_forwarded(name, h->connection) || !strncasecmp(name, "x-dorm-", 7))
		return MHD_YES;
	copy = h->n < MAX_HEADERS ? strdup(name) : NULL;
	if (!copy) {
		h->error = h->n < MAX_HEADERS ? -ENOMEM : -E2BIG;
		return MHD_NO;
	}
	for (char *c = copy; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	h->names[h->n] = copy;
	h->list[h->n++] = (struct channel_header){.name = copy, .value = value};
	return MHD_YES;
}

int proxy_agent_begin(struct proxy *p, const struct proxy_request *q, struct problem *problem)
{
	struct headers h = {.connection = MHD_lookup_connection_value(
				    q->connection, MHD_HEADER_KIND, "Connection")};
	int r;

	MHD_get_connection_values(q->connection, MHD_HEADER_KIND, add_header, &h);
	r = h.error;
	if (r == -E2BIG)
		problem_set(problem, 431, "more than %d headers", MAX_HEADERS);
	h.list[h.n] = (struct channel_header){.name = "x-dorm-client", .value = "1"};
	if (r == 0)
		r = channel_stream_open(p->lease.channel, q->method, proxy_path(q->uri), h.list,
					h.n + 1, false, &p->stream);
	for (size_t i = 0; i < h.n; i++)
		free(h.names[i]);
	return r;
}

static ssize_t read_response(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct proxy *p = cls;
	ssize_t n = proxy_read(p, buf, max, deadline_after_ms(PROXY_SILENCE_MS));

	if (n > 0)
		return n;
	return n == 0 ? MHD_CONTENT_READER_END_OF_STREAM : MHD_CONTENT_READER_END_WITH_ERROR;
}

static void copy_header(void *userdata, const char *name, const char *value)
{
	if (proxy_is_forwarded(name, NULL))
		(void)MHD_add_response_header(userdata, name,
					      value); /* MHD refuses what is malformed */
}

/* What the agent promised; an answer that ends before it is a broken connection for the client. */
static uint64_t promised_length(struct proxy *p)
{
	const char *text = channel_stream_header(p->stream, "content-length");
	uint64_t n;

	return text && str_to_u64(text, &n) == 0 ? n : MHD_SIZE_UNKNOWN;
}

/* Return: NULL without memory */
static struct MHD_Response *make_response(struct proxy *p, int status)
{
	struct MHD_Response *m;

	if (status == 204 || status == 304)
		m = MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
	else
		m = MHD_create_response_from_callback(promised_length(p), PROXY_CHUNK,
						      read_response, p, NULL);
	if (m) {
		(void)MHD_add_response_header(m, "Access-Control-Allow-Origin", "*");
		(void)MHD_add_response_header(m, "Access-Control-Expose-Headers", "*");
		channel_stream_each_header(p->stream, copy_header, m);
	}
	return m;
}

int proxy_agent_finish(struct proxy *p, struct problem *problem)
{
	int r = 0, status = 0;

	if (!p->broken)
		r = proxy_write(p, NULL, 0, true);
	if (r == 0 || r == -ECONNRESET) { /* it may have answered without reading to the end */
		peer_guest(p->peer, p->stream);
		r = channel_stream_head(p->stream, deadline_after_ms(PROXY_HEAD_MS), &status);
		peer_work(p->peer);
	}
	if (r < 0)
		return proxy_failed(p, r, problem);
	return proxy_queue(p, status, make_response(p, status));
}
