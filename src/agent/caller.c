/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/caller.h"

#include <errno.h>
#include <string.h>

#include "base/base64.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/str.h"

#define DEFAULT_USER "user"

bool caller_is_client(const struct request *rq)
{
	return request_header(rq, CLIENT_HEADER) != NULL;
}

bool caller_has_token(const struct request *rq)
{
	const char *want = rq->agent->token, *got = request_header(rq, "x-access-token");

	return !want || !caller_is_client(rq) || (got && str_equal_secret(want, got));
}

/* "Basic dXNlcjo=": the name before the colon. Return: 0; -ENOENT no header; -EINVAL */
static int basic_user(struct request *rq, char *name, size_t size)
{
	const char *text = request_header(rq, "authorization");
	char plain[192] = "";
	ssize_t n;

	if (!text)
		return -ENOENT;
	text = str_has_prefix(text, "Basic ");
	if (!text || strlen(text) > 240)
		return -EINVAL;
	n = base64_decode(text, strlen(text), plain);
	if (n < 0)
		return -EINVAL;
	plain[n] = 0;
	plain[strcspn(plain, ":")] = 0;
	str_copy(name, size, plain);
	return name[0] ? 0 : -ENOENT;
}

static int default_user(const struct agent *a, struct user *ret)
{
	if (a->default_user && user_lookup("/etc", a->default_user, ret) == 0)
		return 0;
	if (user_lookup("/etc", DEFAULT_USER, ret) == 0)
		return 0;
	return user_lookup("/etc", "root", ret);
}

int caller_user(struct request *rq, const char *name, struct problem *problem, struct user *ret)
{
	char from_header[192];
	int r;

	if (!name || !name[0]) {
		r = basic_user(rq, from_header, sizeof(from_header));
		if (r == -EINVAL) {
			problem_set(problem, 401,
				    "the Authorization header is not 'Basic base64(name:)'");
			return r;
		}
		if (r < 0)
			return default_user(rq->agent, ret);
		name = from_header;
	}
	r = user_lookup("/etc", name, ret);
	if (r < 0)
		problem_set(problem, 401, "no user '%.100s' in the sandbox", name);
	return r;
}

/* Take "." and ".." out of an absolute path, in place. */
static void normalise(char *path)
{
	char *out = path, *in = path, *part;

	while ((part = strsep(&in, "/"))) {
		if (!part[0] || !strcmp(part, "."))
			continue;
		if (!strcmp(part, "..")) {
			while (out > path && *--out != '/')
				;
			continue;
		}
		*out++ = '/'; /* never ahead of what is still to be read: parts only shrink */
		memmove(out, part, strlen(part) + 1);
		out += strlen(out);
	}
	if (out == path)
		*out++ = '/';
	*out = 0;
}

char *caller_path(const struct agent *a, const struct user *user, const char *path)
{
	const char *below = str_has_prefix(path, "~/");
	char *full;

	if (!path[0])
		full = strdup(a->default_workdir ? a->default_workdir : user->home);
	else if (!strcmp(path, "~"))
		full = strdup(user->home);
	else if (path[0] == '/')
		full = strdup(path);
	else
		full = str_printf("%s/%s", user->home, below ? below : path);
	if (full)
		normalise(full);
	return full;
}
