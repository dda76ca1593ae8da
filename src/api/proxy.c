/* SPDX-License-Identifier: Apache-2.0 */
#include "api/proxy.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/str.h"
#include "channel/client.h"
#include "sandbox/sandbox.h"

#define MAX_HEADERS 64
#define HEAD_MS	    65000  /* the response's head; longer than any start of a process */
#define WRITE_MS    60000  /* a guest that does not read */
#define SILENCE_MS  600000 /* the agent sends keep-alives far more often */
#define CHUNK	    32768

struct proxy {
	struct sandbox_lease lease;
	struct channel_stream *stream;
	bool broken; /* the guest stopped reading: its answer says why */
};

struct headers {
	struct channel_header list[MAX_HEADERS + 1]; /* one is ours */
	char *names[MAX_HEADERS];		     /* lower-case copies; owned */
	size_t n;
	int error;
};

/* What concerns one connection, or us, does not concern the guest. */
static bool is_forwarded(const char *name)
{
	static const char *const ours[] = {"connection",
					   "keep-alive",
					   "proxy-connection",
					   "transfer-encoding",
					   "upgrade",
					   "te",
					   "host",
					   "expect",
					   "content-length",
					   "e2b-sandbox-id",
					   "e2b-sandbox-port",
					   "x-api-key"};

	for (unsigned i = 0; i < ARRAY_SIZE(ours); i++)
		if (!strcasecmp(name, ours[i]))
			return false;
	return true;
}

static enum MHD_Result add_header(void *cls, enum MHD_ValueKind kind, const char *name,
				  const char *value)
{
	struct headers *h = cls;
	char *copy;

	if (!value || !is_forwarded(name) || !strncasecmp(name, "x-dorm-", 7))
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

static enum MHD_Result add_argument(void *cls, enum MHD_ValueKind kind, const char *name,
				    const char *value)
{
	static const char plain[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/";
	struct buf *path = cls;
	const char *parts[2] = {name, value};

	(void)buf_append(path, strchr(path->data, '?') ? "&" : "?", 1);
	for (int i = 0; i < 2 && parts[i]; i++) {
		if (i)
			(void)buf_append(path, "=", 1);
		for (const char *c = parts[i]; *c; c++)
			(void)buf_printf(path, strchr(plain, *c) ? "%c" : "%%%02X",
					 (unsigned char)*c);
	}
	return MHD_YES; /* without memory the path is cut, and the agent refuses it */
}

static int check(const char *sandbox_id, const char *port, struct problem *problem)
{
	if (!sandbox_id || !port) {
		problem_set(problem, 400, "E2b-Sandbox-Id and E2b-Sandbox-Port go together");
		return -EINVAL;
	}
	if (strcmp(port, PROXY_AGENT_PORT)) {
		problem_set(problem, 502, "The sandbox is running but port is not open");
		return -ECONNREFUSED;
	}
	return 0;
}

int proxy_begin(struct host *host, struct MHD_Connection *connection, const char *method,
		const char *url, const char *sandbox_id, const char *port, struct problem *problem,
		struct proxy **ret)
{
	_cleanup_buf_ struct buf path = {0};
	struct headers h = {0};
	struct proxy *p;
	int r = check(sandbox_id, port, problem);

	if (r < 0)
		return r;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	r = buf_printf(&path, "%s", url);
	if (r == 0)
		MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, add_argument, &path);
	MHD_get_connection_values(connection, MHD_HEADER_KIND, add_header, &h);
	r = r < 0 ? r : h.error;
	h.list[h.n++] = (struct channel_header){.name = "x-dorm-client", .value = "1"};
	if (r == 0)
		r = sandbox_lease(host, sandbox_id, problem, &p->lease);
	if (r == 0)
		r = channel_stream_open(p->lease.channel, method, path.data, h.list, h.n, false,
					&p->stream);
	for (size_t i = 0; i < h.n; i++)
		free(h.names[i]);
	if (r < 0) {
		if (r == -EAGAIN)
			problem_set(problem, 429, "too many requests to sandbox %s are under way",
				    sandbox_id);
		problem_errno(problem, r, "sandbox %s", sandbox_id);
		proxy_free(p);
		return error_trace(r);
	}
	*ret = p;
	return 0;
}

int proxy_body(struct proxy *p, const void *data, size_t len)
{
	if (!p->broken &&
	    channel_stream_write(p->stream, data, len, false, deadline_after_ms(WRITE_MS)) < 0)
		p->broken = true;
	return 0;
}

void proxy_free(struct proxy *p)
{
	if (!p)
		return;
	channel_stream_close(p->stream);
	sandbox_lease_return(&p->lease);
	free(p);
}

static ssize_t read_response(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct proxy *p = cls;
	ssize_t n = channel_stream_read(p->stream, buf, max, deadline_after_ms(SILENCE_MS));

	if (n > 0)
		return n;
	return n == 0 ? MHD_CONTENT_READER_END_OF_STREAM : MHD_CONTENT_READER_END_WITH_ERROR;
}

static void free_response(void *cls)
{
	proxy_free(cls);
}

static void copy_header(void *userdata, const char *name, const char *value)
{
	if (is_forwarded(name))
		(void)MHD_add_response_header(userdata, name,
					      value); /* MHD refuses what is malformed */
}

int proxy_finish(struct proxy *p, struct MHD_Connection *connection, struct problem *problem)
{
	struct MHD_Response *m;
	int r = 0, status = 0;

	if (!p->broken)
		r = channel_stream_write(p->stream, NULL, 0, true, deadline_after_ms(WRITE_MS));
	if (r == 0)
		r = channel_stream_head(p->stream, deadline_after_ms(HEAD_MS), &status);
	if (r < 0) {
		if (r == -EPIPE) /* it fell asleep or died: the text that clients match */
			problem_set(problem, 502, "The sandbox was not found");
		problem_errno(problem, r, "the sandbox's agent");
		proxy_free(p);
		return error_trace(r);
	}
	if (status == 204 || status == 304) {
		m = MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
		if (m)
			channel_stream_each_header(p->stream, copy_header, m);
		proxy_free(p);
	} else {
		m = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, CHUNK, read_response, p,
						      free_response);
		if (m)
			channel_stream_each_header(p->stream, copy_header, m);
		else
			proxy_free(p);
	}
	if (!m)
		return -ENOMEM;
	/* A stream may be silent for as long as its program is; SILENCE_MS and the agent's
	 * keep-alives bound it, not the time limit for idle connections. */
	(void)MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
	r = MHD_queue_response(connection, (unsigned)status, m) == MHD_YES ? 0 : -EIO;
	MHD_destroy_response(m);
	return r;
}
