/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/signature.h"

#include <errno.h>
#include <string.h>

#include "agent/caller.h"
#include "base/base64.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/sha256.h"
#include "base/str.h"

#define PREFIX "v1_"

int signature_make(const char *path, const char *operation, const char *user, const char *token,
		   const char *expiration, char ret[SIGNATURE_MAX])
{
	_cleanup_free_ char *text = str_printf("%s:%s:%s:%s%s%s", path, operation, user, token,
					       expiration ? ":" : "", expiration ? expiration : "");
	uint8_t digest[SHA256_LEN];

	if (!text)
		return -ENOMEM;
	sha256(text, strlen(text), digest);
	explicit_bzero(text, strlen(text));
	str_copy(ret, SIGNATURE_MAX, PREFIX);
	(void)base64_encode(digest, sizeof(digest), ret + strlen(PREFIX));
	ret[strcspn(ret, "=")] = 0;
	return 0;
}

static int refuse(struct problem *problem, const char *why)
{
	problem_set(problem, 401, "%s", why);
	return -EACCES;
}

int signature_check(const struct request *rq, const char *operation, struct problem *problem)
{
	_cleanup_free_ char *given = NULL, *expiration = NULL, *path = NULL, *user = NULL;
	char want[SIGNATURE_MAX];
	uint64_t expires_s;
	int r;

	if (caller_has_token(rq))
		return 0;
	if (request_header(rq, "x-access-token"))
		return refuse(problem, CALLER_NO_TOKEN);
	given = request_query(rq, "signature");
	if (!given)
		return refuse(problem, "missing signature query parameter");
	expiration = request_query(rq, "signature_expiration");
	path = request_query(rq, "path");
	user = request_query(rq, "username");
	r = signature_make(path ? path : "", operation, user ? user : "", rq->agent->token,
			   expiration, want);
	if (r < 0)
		return error_trace(r);
	if (!str_equal_secret(want, given))
		return refuse(problem, "invalid signature");
	if (expiration && str_to_u64(expiration, &expires_s) < 0)
		return refuse(problem, "invalid signature");
	if (expiration && expires_s < clock_real_ns() / NSEC_PER_SEC)
		return refuse(problem, "signature is already expired");
	return 0;
}
