/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/agent-client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/base64.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/id.h"

#define ENTROPY_BYTES 48
#define OUTPUT_MAX    (64u << 10)
#define MESSAGE_MAX   (1u << 20)

static int post(struct channel *ch, const char *path, json_t *body, uint64_t deadline_ns,
		int *ret_status, json_t **ret)
{
	_cleanup_free_ char *text = json_dumps(body, JSON_COMPACT);
	_cleanup_buf_ struct buf reply = {0};
	int r;

	if (!text)
		return -ENOMEM;
	r = channel_call(ch, "POST", path, "application/json", text, strlen(text), deadline_ns,
			 ret_status, &reply);
	if (r < 0)
		return r;
	*ret = json_loadb(reply.data ? reply.data : "", reply.len, 0, NULL);
	return *ret ? 0 : -EBADMSG;
}

/* The template's environment, and above it the sandbox's own; new reference, NULL: none of either
 */
static int merge_env(const json_t *defaults, json_t *envs, json_t **ret)
{
	json_t *below = json_object_get(defaults, "env"), *all;

	if (!below || !json_object_size(below)) {
		*ret = json_incref(envs);
		return 0;
	}
	all = json_copy(below);
	if (!all || (envs && json_object_update(all, envs) < 0)) {
		json_decref(all);
		return -ENOMEM;
	}
	*ret = all;
	return 0;
}

int agent_init(struct channel *ch, const char *sandbox_id, json_t *envs, const json_t *defaults,
	       uint64_t deadline_ns, struct problem *problem)
{
	json_auto_t *merged = NULL;
	unsigned char entropy[ENTROPY_BYTES];
	char coded[ENTROPY_BYTES / 3 * 4 + 1];
	json_t *body, *reply = NULL;
	const char *message;
	int r, status;

	r = merge_env(defaults, envs, &merged);
	if (r < 0)
		return r;
	id_random(entropy, sizeof(entropy));
	base64_encode(entropy, sizeof(entropy), coded);
	body = json_pack("{s:s, s:s, s:I, s:s, s:O*, s:O*, s:O*}", "sandboxID", sandbox_id,
			 "hostname", sandbox_id, "timestampNs", (json_int_t)clock_real_ns(),
			 "entropy", coded, "envVars", merged, "defaultUser",
			 json_object_get(defaults, "user"), "defaultWorkdir",
			 json_object_get(defaults, "workdir"));
	explicit_bzero(entropy, sizeof(entropy));
	if (!body)
		return -ENOMEM;
	r = post(ch, "/init", body, deadline_ns, &status, &reply);
	json_decref(body);
	if (r < 0) {
		problem_errno(problem, r, "the guest's agent did not answer its repair");
		return r;
	}
	if (status != 200) {
		message = json_string_value(json_object_get(reply, "message"));
		problem_set(problem, 500, "the guest's agent could not repair the sandbox: %.300s",
			    message ? message : "no reason given");
		r = -EIO;
	}
	json_decref(reply);
	return r;
}

int agent_prepare(struct channel *ch, uint64_t deadline_ns, json_t **ret_steps)
{
	json_t *body = json_object(), *reply = NULL, *steps;
	int r, status;

	r = body ? post(ch, "/prepare", body, deadline_ns, &status, &reply) : -ENOMEM;
	json_decref(body);
	if (r < 0)
		return r;
	steps = json_object_get(reply, "steps");
	if (status == 200 && json_is_array(steps))
		*ret_steps = json_incref(steps);
	else
		r = -EBADMSG;
	json_decref(reply);
	return r;
}

/* One message of a Connect stream: 1 byte of flags, 4 bytes of length (big endian), JSON. */
static int wrap(json_t *message, struct buf *out)
{
	_cleanup_free_ char *text = json_dumps(message, JSON_COMPACT);
	unsigned char head[5] = {0};
	size_t n;
	int r;

	if (!text)
		return -ENOMEM;
	n = strlen(text);
	for (int i = 0; i < 4; i++)
		head[1 + i] = (unsigned char)(n >> (24 - 8 * i));
	r = buf_append(out, head, sizeof(head));
	return r < 0 ? r : buf_append(out, text, n);
}

static void keep_output(json_t *data, struct buf *output)
{
	static const char *const kinds[] = {"stdout", "stderr"};

	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		const char *s = json_string_value(json_object_get(data, kinds[i]));
		size_t len = s ? strlen(s) : 0;
		ssize_t n;

		if (!s || output->len + len > OUTPUT_MAX || buf_reserve(output, len) < 0)
			continue; /* only for a log: more than fits is left out */
		n = base64_decode(s, len, output->data + output->len);
		if (n > 0) {
			output->len += (size_t)n;
			output->data[output->len] = 0;
		}
	}
}

/* Take whole messages off the front of @in. Return: 1 when the process ended; 0: more is needed. */
static int take_messages(struct buf *in, struct buf *output, int *ret_exit_code,
			 struct problem *problem)
{
	while (in->len >= 5) {
		const unsigned char *h = (const unsigned char *)in->data;
		size_t n = (size_t)h[1] << 24 | (size_t)h[2] << 16 | (size_t)h[3] << 8 | h[4];
		bool last = h[0] & 2;
		json_t *m, *event, *code;
		int r = 0;

		if (n > MESSAGE_MAX)
			return -EBADMSG;
		if (in->len < 5 + n)
			return 0;
		m = json_loadb(in->data + 5, n, 0, NULL);
		buf_consume(in, 5 + n);
		event = json_object_get(m, "event");
		keep_output(json_object_get(event, "data"), output);
		code = json_object_get(json_object_get(event, "end"), "exitCode");
		if (code) {
			*ret_exit_code = (int)json_integer_value(code);
			r = 1;
		} else if (last) {
			const char *why = json_string_value(
				json_object_get(json_object_get(m, "error"), "message"));

			problem_set(problem, 500, "the command could not be run: %.300s",
				    why ? why : "the stream ended early");
			r = -EIO;
		}
		json_decref(m);
		if (r)
			return r;
	}
	return 0;
}

/* "Basic " and base64("USER:"). */
static int authorization(const char *user, char out[160])
{
	char name[80], coded[112];
	int n = snprintf(name, sizeof(name), "%s:", user ? user : "root");

	if (n < 0 || (size_t)n >= sizeof(name))
		return -EINVAL;
	base64_encode(name, (size_t)n, coded);
	(void)snprintf(out, 160, "Basic %s", coded); /* fits */
	return 0;
}

static int open_process(struct channel *ch, const struct agent_command *c, uint64_t deadline_ns,
			struct channel_stream **ret)
{
	char auth[160];
	const struct channel_header headers[] = {
		{"content-type", "application/connect+json"},
		{"connect-protocol-version", "1"},
		{"authorization", auth},
	};
	_cleanup_buf_ struct buf request = {0};
	json_t *body;
	int r = authorization(c->user, auth), status;

	if (r < 0)
		return r;
	body = json_pack("{s:{s:s, s:[s,s], s:s*}, s:b}", "process", "cmd", "/bin/sh", "args", "-c",
			 c->command, "cwd", c->workdir, "stdin", 0);
	r = body ? wrap(body, &request) : -ENOMEM;
	json_decref(body);
	if (r == 0)
		r = channel_stream_open(ch, "POST", "/process.Process/Start", headers,
					ARRAY_SIZE(headers), false, ret);
	if (r == 0)
		r = channel_stream_write(*ret, request.data, request.len, true, deadline_ns);
	return r < 0 ? r : channel_stream_head(*ret, deadline_ns, &status);
}

int agent_run_as(struct channel *ch, const struct agent_command *command, uint64_t deadline_ns,
		 struct buf *output, int *ret_exit_code, struct problem *problem)
{
	_cleanup_(channel_stream_closep) struct channel_stream *s = NULL;
	_cleanup_buf_ struct buf in = {0};
	int r = open_process(ch, command, deadline_ns, &s);

	while (r == 0) {
		char chunk[16384];
		ssize_t n = channel_stream_read(s, chunk, sizeof(chunk), deadline_ns);

		if (n <= 0)
			r = n < 0 ? (int)n : -EPIPE;
		else
			r = buf_append(&in, chunk, (size_t)n);
		if (r == 0)
			r = take_messages(&in, output, ret_exit_code, problem);
	}
	if (r == 1)
		return 0;
	problem_errno(problem, r, "running '%.100s' in the guest", command->command);
	return r;
}

int agent_run(struct channel *ch, const char *command, uint64_t deadline_ns, struct buf *output,
	      int *ret_exit_code, struct problem *problem)
{
	const struct agent_command c = {.command = command};

	return agent_run_as(ch, &c, deadline_ns, output, ret_exit_code, problem);
}

/* The first message says that it runs, or why not; a process does not mind that nobody listens. */
int agent_start(struct channel *ch, const struct agent_command *command, uint64_t deadline_ns,
		struct problem *problem)
{
	_cleanup_(channel_stream_closep) struct channel_stream *s = NULL;
	_cleanup_buf_ struct buf in = {0}, output = {0};
	int r = open_process(ch, command, deadline_ns, &s), code;

	while (r == 0) {
		char chunk[4096];
		ssize_t n = channel_stream_read(s, chunk, sizeof(chunk), deadline_ns);

		r = n <= 0 ? (n < 0 ? (int)n : -EPIPE) : buf_append(&in, chunk, (size_t)n);
		if (r == 0 && in.len > 5 && strstr(in.data + 5, "\"start\""))
			break;
		if (r == 0)
			r = take_messages(&in, &output, &code, problem);
	}
	if (r >= 0)
		return 0;
	problem_errno(problem, r, "starting '%.100s' in the guest", command->command);
	return r;
}
