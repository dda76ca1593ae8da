/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/sandbox-call.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/str.h"
#include "cli/access.h"
#include "cli/http-loop.h"
#include "cli/http.h"

#define CALL_MS	   30000
#define ANSWER_MAX (16u << 20)

int sandbox_headers_add(struct sandbox_headers *h, char *header)
{
	size_t n = 0;

	if (!header)
		return error_trace(-ENOMEM);
	while (h->list[n])
		n++;
	if (n == SANDBOX_MAX_HEADERS) {
		free(header);
		return error_trace(-ENOMEM);
	}
	h->list[n] = header;
	return 0;
}

void sandbox_headers_deinit(struct sandbox_headers *h)
{
	for (size_t i = 0; h->list[i]; i++)
		free(h->list[i]);
	*h = (struct sandbox_headers){0};
}

static char *basic(const char *user)
{
	_cleanup_free_ char *plain = str_printf("%s:", user);
	size_t len = plain ? strlen(plain) : 0;
	_cleanup_free_ char *coded = malloc(base64_encoded_len(len) + 1);

	if (!plain || !coded)
		return NULL;
	(void)base64_encode(plain, len, coded); /* its length is known */
	return str_printf("Authorization: Basic %s", coded);
}

int sandbox_headers_init(const char *socket, const char *id, const char *user,
			 struct problem *problem, struct sandbox_headers *ret)
{
	_cleanup_access_ struct access access = {0};
	struct sandbox_headers h = {0};
	int r = access_get(socket, id, problem, &access);

	for (size_t i = 0; !r && access.headers[i]; i++)
		r = sandbox_headers_add(&h, take_ptr(access.headers[i]));
	r = r ? r : sandbox_headers_add(&h, str_printf("Connect-Protocol-Version: 1"));
	if (!r && user)
		r = sandbox_headers_add(&h, basic(user));
	if (r)
		sandbox_headers_deinit(&h);
	else
		*ret = h;
	return r;
}

bool sandbox_id_is_valid(const char *id)
{
	return *id && strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789") == strlen(id);
}

json_t *sandbox_selector(const char *text)
{
	uint64_t pid;

	if (str_to_u64(text, &pid) == 0 && pid <= INT32_MAX)
		return json_pack("{s:I}", "pid", (json_int_t)pid);
	return json_pack("{s:s}", "tag", text);
}

struct call {
	bool done;
	int r;
	struct buf answer;
	struct problem *problem;
};

static int on_data(void *userdata, const void *data, size_t len)
{
	struct call *c = userdata;

	if (c->answer.len + len > ANSWER_MAX)
		return -EFBIG;
	return buf_append(&c->answer, data, len);
}

static void on_done(void *userdata, int r, const struct problem *problem)
{
	struct call *c = userdata;

	c->done = true;
	c->r = r;
	if (r)
		*c->problem = *problem;
}

static int call_run(struct cli *cli, const struct http_loop_request *request, struct call *c)
{
	_cleanup_(http_loop_freep) struct http_loop *loop = NULL;
	int r = http_loop_new(cli->socket, c->problem, &loop);

	if (!r)
		r = http_loop_post(loop, request, NULL);
	while (!r && !c->done)
		r = http_loop_wait(loop, NULL, 0, -1); /* the request has its own limit */
	return r ? r : c->r;
}

static int parse_answer(const struct buf *answer, json_t **ret, struct problem *problem)
{
	json_t *o = json_loadb(answer->data ? answer->data : "", answer->len, 0, NULL);

	if (!json_is_object(o)) {
		json_decref(o);
		problem_set(problem, 502, "the sandbox's answer is not a JSON object");
		return error_trace(-EBADMSG);
	}
	if (ret)
		*ret = o;
	else
		json_decref(o);
	return 0;
}

int sandbox_call(struct cli *cli, const char *id, const char *path, json_t *body, json_t **ret,
		 struct problem *problem)
{
	_cleanup_free_ char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	_cleanup_(sandbox_headers_deinit) struct sandbox_headers headers = {0};
	struct call c = {.problem = problem};
	struct http_loop_request request = {.path = path,
					    .content_type = "application/json",
					    .headers = (const char *const *)headers.list,
					    .body = text,
					    .timeout_ms = CALL_MS,
					    .answer_type = "application/json",
					    .on_data = on_data,
					    .on_done = on_done,
					    .userdata = &c};
	int r = text ? sandbox_headers_init(cli->socket, id, NULL, problem, &headers) : -ENOMEM;

	json_decref(body);
	if (!r) {
		request.len = strlen(text);
		r = call_run(cli, &request, &c);
	}
	if (!r)
		r = parse_answer(&c.answer, ret, problem);
	if (r)
		problem_errno(problem, r < 0 ? r : -EIO, "cannot ask sandbox %s", id);
	if (problem->status == 502)
		problem_hint(problem,
			     "see what state it is in with `dorm ps -a`; wake a sleeping one "
			     "with `dorm wake %s`",
			     id);
	buf_deinit(&c.answer);
	return r;
}
