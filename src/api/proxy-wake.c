/* SPDX-License-Identifier: Apache-2.0 */
/*
 * proxy-wake.c - the lease of a request, also to a sandbox that sleeps
 *
 * Whoever may talk to it wakes it, if it was created with autoResume. Where anybody may talk to its
 * ports, that is anybody; where traffic is private, the token that the request needs is looked at
 * before. GET /health of the agent wakes nobody: it asks whether the sandbox runs.
 */
#include <errno.h>
#include <string.h>

#include "api/proxy-internal.h"
#include "api/signed-url.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/str.h"

static const char *value(const struct proxy_request *q, enum MHD_ValueKind kind, const char *name)
{
	return MHD_lookup_connection_value(q->connection, kind, name);
}

static bool shows(const struct proxy_request *q, const char *name, const char *want)
{
	const char *got = value(q, MHD_HEADER_KIND, name);

	return got && want[0] && str_equal_secret(want, got);
}

static bool is_path(const struct proxy_request *q, const char *path)
{
	const char *got = proxy_path(q->uri);
	size_t n = strlen(path);

	return !strncmp(got, path, n) && (!got[n] || got[n] == '?');
}

static bool has_expired(const char *when)
{
	uint64_t s;

	return when && str_to_u64(when, &s) == 0 && s < clock_real_ns() / NSEC_PER_SEC;
}

static bool is_signed(const struct proxy_request *q, const char *token)
{
	const struct signed_url u = {
		.path = value(q, MHD_GET_ARGUMENT_KIND, "path"),
		.user = value(q, MHD_GET_ARGUMENT_KIND, "username"),
		.expiration = value(q, MHD_GET_ARGUMENT_KIND, "signature_expiration"),
		.signature = value(q, MHD_GET_ARGUMENT_KIND, "signature"),
		.write = !strcmp(q->method, "POST"),
	};
	char want[SIGNED_URL_SIGNATURE_SIZE];

	return is_path(q, "/files") && u.signature && token[0] && !has_expired(u.expiration) &&
	       signed_url_sign(&u, token, want) == 0 && str_equal_secret(want, u.signature);
}

/* Return: 0 it may; 1 it is none of those that wake; -EACCES with a 401 or 403 */
static int check(const struct proxy *p, const struct proxy_request *q,
		 const struct sandbox_info *info, struct problem *problem)
{
	if (!info->auto_resume ||
	    (p->is_agent && !strcmp(q->method, "GET") && is_path(q, "/health")))
		return 1;
	if (p->is_raw || !info->traffic_token[0]) /* the control API has seen its key */
		return 0;
	if (!p->is_agent && !shows(q, "E2b-Traffic-Access-Token", info->traffic_token)) {
		problem_set(problem, 403,
			    "the header e2b-traffic-access-token is missing or wrong");
		return -EACCES;
	}
	if (p->is_agent && !shows(q, "X-Access-Token", info->token) && !is_signed(q, info->token)) {
		problem_set(problem, 401,
			    "unauthorized access, please provide a valid access token or method "
			    "signing if supported");
		return -EACCES;
	}
	return 0;
}

/* Return: 0 it runs; 1 it is not to be woken by this; negative errno */
static int wake(struct proxy *p, const struct proxy_request *q, struct problem *problem)
{
	struct sandbox_info info;
	int r = sandbox_info(p->host, p->target.sandbox_id, NULL, &info);

	if (r < 0)
		return 1;
	r = check(p, q, &info, problem);
	sandbox_info_deinit(&info);
	if (r == 0)
		r = sandbox_resume(p->host, p->target.sandbox_id, problem);
	return r == -ENOTCONN ? 1 : r;
}

int proxy_lease(struct proxy *p, const struct proxy_request *q, struct problem *problem)
{
	struct problem asleep = PROBLEM_INIT;
	int r = sandbox_lease(p->host, p->target.sandbox_id, &asleep, &p->lease), woken;

	if (r != -ENOTCONN) {
		*problem = asleep;
		return r;
	}
	woken = wake(p, q, problem);
	if (woken == 0)
		return sandbox_lease(p->host, p->target.sandbox_id, problem, &p->lease);
	if (woken > 0)
		*problem = asleep;
	return woken > 0 ? r : error_trace(woken);
}

bool proxy_fell_asleep(const struct proxy *p, int r)
{
	struct sandbox_info info;
	bool yes;

	if ((r != -EPIPE && r != -ECONNRESET && r != -EBUSY) ||
	    sandbox_info(p->host, p->target.sandbox_id, NULL, &info) < 0)
		return false;
	yes = info.auto_resume && (info.state == SANDBOX_PAUSING || info.state == SANDBOX_ASLEEP ||
				   info.state == SANDBOX_WAKING);
	sandbox_info_deinit(&info);
	return yes;
}
