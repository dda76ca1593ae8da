/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/sandbox-files.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "cli/http-transfer.h"
#include "cli/sandbox-call.h"

#define MAX_ANSWER (64u << 20)

int sandbox_files_open(struct sandbox_files *f, struct problem *problem)
{
	return sandbox_headers_init(f->socket, f->id, f->user, problem, &f->headers);
}

void sandbox_files_close(struct sandbox_files *f)
{
	sandbox_headers_deinit(&f->headers);
}

static int transfer(const struct sandbox_files *f, struct http_transfer *t, json_t **ret,
		    struct problem *problem)
{
	_cleanup_reply_ struct http_reply reply = {0};
	int r;

	if (!t->path) {
		problem_set(problem, 503, "out of memory");
		return error_trace(-ENOMEM);
	}
	t->socket = f->socket;
	t->headers = (const char *const *)f->headers.list;
	t->progress = f->progress;
	r = http_transfer(t, &reply, problem);
	if (r == 0 && ret)
		*ret = json_incref(reply.body);
	return r;
}

/* --- contents -----------------------------------------------------------------------------------
 */

static int on_write(void *userdata, const void *data, size_t len, struct problem *problem)
{
	int r = fd_write_full(*(int *)userdata, data, len);

	if (r < 0)
		problem_errno(problem, r, "writing");
	return r;
}

int sandbox_files_get(const struct sandbox_files *f, const char *path, int fd,
		      struct problem *problem)
{
	_cleanup_free_ char *query = http_path("/files?path=", path, "");
	struct http_transfer t = {.method = "GET",
				  .path = query,
				  .answer_type = "application/octet-stream",
				  .write = on_write,
				  .userdata = &fd};

	return transfer(f, &t, NULL, problem);
}

static ssize_t on_read(void *userdata, void *buf, size_t len, struct problem *problem)
{
	ssize_t n;

	do
		n = read(*(int *)userdata, buf, len);
	while (n < 0 && errno == EINTR);
	if (n < 0) {
		n = -errno;
		problem_errno(problem, (int)n, "reading");
	}
	return n;
}

int sandbox_files_put(const struct sandbox_files *f, const char *path, int fd, int64_t len,
		      int mode, struct problem *problem)
{
	char tail[24] = "";
	_cleanup_free_ char *query = NULL;
	struct http_transfer t = {.method = "POST",
				  .body_type = "application/octet-stream",
				  .body_len = len,
				  .body_fd = len < 0 ? fd : -1, /* a pipe may be slow to begin */
				  .read = on_read,
				  .userdata = &fd};

	if (mode >= 0)
		(void)snprintf(tail, sizeof(tail), "&mode=%04o", (unsigned)mode); /* fits */
	query = http_path("/files?path=", path, tail);
	t.path = query;
	return transfer(f, &t, NULL, problem);
}

/* --- calls --------------------------------------------------------------------------------------
 */

struct call {
	char *body;
	size_t len, at;
	struct buf answer;
};

static ssize_t on_pull(void *userdata, void *buf, size_t len, struct problem *problem)
{
	struct call *c = userdata;
	size_t n = MIN(len, c->len - c->at);

	memcpy(buf, c->body + c->at, n);
	c->at += n;
	return (ssize_t)n;
}

/* A listing may be longer than what http_transfer() parses itself. */
static int on_answer(void *userdata, const void *data, size_t len, struct problem *problem)
{
	struct call *c = userdata;

	if (c->answer.len + len > MAX_ANSWER) {
		problem_set(problem, 500, "the sandbox's answer is larger than %u MiB",
			    MAX_ANSWER >> 20);
		return -EMSGSIZE;
	}
	return buf_append(&c->answer, data, len);
}

static int parse(const struct call *c, json_t **ret, struct problem *problem)
{
	*ret = json_loadb(c->answer.data ? c->answer.data : "", c->answer.len, 0, NULL);
	if (json_is_object(*ret))
		return 0;
	json_decref(*ret);
	*ret = NULL;
	problem_set(problem, 500, "the sandbox's answer is not JSON");
	return error_trace(-EBADMSG);
}

int sandbox_files_call(const struct sandbox_files *f, const char *call, const char *path,
		       json_t **ret, struct problem *problem)
{
	_cleanup_free_ char *url = str_printf("/filesystem.Filesystem/%s", call);
	json_t *request = json_pack("{s:s}", "path", path);
	struct call c = {.body = request ? json_dumps(request, JSON_COMPACT) : NULL};
	struct http_transfer t = {.method = "POST",
				  .path = url,
				  .body_type = "application/json",
				  .body_fd = -1,
				  .read = on_pull,
				  .answer_type = "application/json",
				  .write = on_answer,
				  .userdata = &c};
	int r;

	json_decref(request);
	if (!c.body) {
		problem_set(problem, 400, "'%.200s' is not UTF-8", path);
		return -EINVAL;
	}
	c.len = strlen(c.body);
	t.body_len = (int64_t)c.len;
	r = transfer(f, &t, NULL, problem);
	if (r == 0)
		r = parse(&c, ret, problem);
	free(c.body);
	buf_deinit(&c.answer);
	return r;
}
