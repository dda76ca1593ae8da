/* SPDX-License-Identifier: Apache-2.0 */
/* proxy-head.c - the head of a request to a server in a sandbox */
#include "api/proxy-internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/mem.h"
#include "base/str.h"

#define HEAD_MAX (96u << 10)

bool proxy_is_forwarded(const char *name, const char *connection)
{
	/* RFC 9110, 7.6.1, and what is for us */
	static const char *const ours[] = {"connection",
					   "keep-alive",
					   "proxy-connection",
					   "proxy-authenticate",
					   "proxy-authorization",
					   "transfer-encoding",
					   "upgrade",
					   "te",
					   "trailer",
					   "host",
					   "expect",
					   "content-length",
					   "e2b-sandbox-id",
					   "e2b-sandbox-port",
					   "e2b-traffic-access-token",
					   "x-api-key"};

	for (unsigned i = 0; i < ARRAY_SIZE(ours); i++)
		if (!strcasecmp(name, ours[i]))
			return false;
	return !http1_has_token(connection, name);
}

const char *proxy_path(const char *uri)
{
	const char *rest = strncasecmp(uri, "http://", 7) ? NULL : uri + 7;

	if (!rest)
		return uri;
	rest += strcspn(rest, "/?");
	return *rest == '/' ? rest : "/";
}

/* What proxies in front of us have said, or NULL. */
static const char *header(const struct proxy_request *q, const char *name)
{
	return MHD_lookup_connection_value(q->connection, MHD_HEADER_KIND, name);
}

/* "${PORT}" in the mask is the port. */
static int put_mask(struct buf *b, const struct proxy *p)
{
	const char *mask = p->lease.mask_host, *at = strstr(mask, "${PORT}");
	_cleanup_free_ char *host =
		at ? str_printf("%.*s%u%s", (int)(at - mask), mask, p->target.port, at + 7)
		   : strdup(mask);

	return host ? http1_put_field(b, "Host", host) : -ENOMEM;
}

static int put_host(struct buf *b, const struct proxy *p, const struct proxy_request *q)
{
	const char *host = header(q, "Host");
	char ours[32];

	if (p->lease.mask_host[0])
		return put_mask(b, p);
	(void)snprintf(ours, sizeof(ours), "localhost:%u", p->target.port); /* fits */
	return http1_put_field(b, "Host", host && *host ? host : ours);
}

/* Return: is there an address to tell? A unix socket has none. */
static bool client_address(const struct proxy_request *q, char out[INET6_ADDRSTRLEN])
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(q->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	const struct sockaddr *sa = info ? info->client_addr : NULL;
	const void *address = NULL;

	if (sa && sa->sa_family == AF_INET)
		address = &((const struct sockaddr_in *)sa)->sin_addr;
	else if (sa && sa->sa_family == AF_INET6)
		address = &((const struct sockaddr_in6 *)sa)->sin6_addr;
	return address && inet_ntop(sa->sa_family, address, out, INET6_ADDRSTRLEN);
}

static int put_forwarded(struct buf *b, const struct proxy_request *q)
{
	const char *before = header(q, "X-Forwarded-For"), *host = header(q, "Host");
	char address[INET6_ADDRSTRLEN], both[1024];
	bool known = client_address(q, address);
	int r = 0;

	if (before || known) {
		(void)snprintf(both, sizeof(both), "%s%s%s", before ?: "",
			       before && known ? ", " : "", known ? address : ""); /* or cut */
		r = http1_put_field(b, "X-Forwarded-For", both);
	}
	if (r == 0 && !header(q, "X-Forwarded-Proto"))
		r = http1_put_field(b, "X-Forwarded-Proto", "http");
	if (r == 0 && host && *host && !header(q, "X-Forwarded-Host"))
		r = http1_put_field(b, "X-Forwarded-Host", host);
	return r;
}

struct copying {
	struct buf *to;
	const char *connection;
	int error;
};

static enum MHD_Result copy_field(void *cls, enum MHD_ValueKind kind, const char *name,
				  const char *value)
{
	struct copying *c = cls;

	if (!proxy_is_forwarded(name, c->connection) || !strcasecmp(name, "x-forwarded-for"))
		return MHD_YES;
	c->error = http1_put_field(c->to, name, value ?: "");
	if (c->error == 0 && c->to->len > HEAD_MAX)
		c->error = -E2BIG;
	return c->error ? MHD_NO : MHD_YES;
}

/* How its body is framed, and whether it asks for another protocol */
static int put_framing(struct buf *b, struct proxy *p, const struct proxy_request *q)
{
	const char *length = header(q, "Content-Length"), *upgrade = header(q, "Upgrade");
	int r = 0;

	p->chunked = header(q, "Transfer-Encoding") != NULL;
	p->upgrade = upgrade && http1_has_token(header(q, "Connection"), "upgrade");
	if (p->chunked)
		r = http1_put_field(b, "Transfer-Encoding", "chunked");
	else if (length)
		r = http1_put_field(b, "Content-Length", length);
	if (r == 0 && p->upgrade)
		r = http1_put_field(b, "Upgrade", upgrade);
	return r ?: http1_put_field(b, "Connection", p->upgrade ? "Upgrade" : "close");
}

int proxy_head(struct proxy *p, const struct proxy_request *q, struct problem *problem,
	       struct buf *ret)
{
	struct copying c = {.to = ret, .connection = header(q, "Connection")};
	const char *coding = header(q, "Transfer-Encoding");
	int r = http1_put_request(ret, q->method, proxy_path(q->uri));

	if (coding && strcasecmp(coding, "chunked")) {
		problem_set(problem, 501, "Transfer-Encoding: only chunked is understood");
		return -EOPNOTSUPP;
	}
	if (r == 0)
		r = put_host(ret, p, q);
	if (r == 0)
		MHD_get_connection_values(q->connection, MHD_HEADER_KIND, copy_field, &c);
	r = r ?: c.error;
	if (r == 0)
		r = put_forwarded(ret, q);
	if (r == 0)
		r = put_framing(ret, p, q);
	if (r == 0)
		r = http1_put_end(ret);
	if (r == -EINVAL)
		problem_set(problem, 400,
			    "the request's line or a header has characters that it must not have");
	if (r == -E2BIG)
		problem_set(problem, 431, "the request's headers are too large");
	return r;
}
