/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/agent-client.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/base64.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/id.h"
#include "base/str.h"
#include "base/utf8.h"

#define ENTROPY_BYTES 48
#define OUTPUT_MAX    (64u << 10)
#define MESSAGE_MAX   (1u << 20)
#define REASON_MAX    400	   /* of a guest: what a problem holds */
#define REPLY_MAX     (128u << 10) /* reports of hooks are in it; ends up in manifests */

/* A head that announces that the guest's hooks run first: by how much is the deadline later? */
static uint64_t hooks_ms(struct channel_stream *s)
{
	const char *text = channel_stream_header(s, "x-dorm-hooks-ms");
	uint64_t ms;

	return text && str_to_u64(text, &ms) == 0 ? MIN(ms, (uint64_t)AGENT_HOOKS_MAX_MS) : 0;
}

static int read_all(struct channel_stream *s, uint64_t deadline_ns, struct buf *out)
{
	for (;;) {
		char chunk[4096];
		ssize_t n = channel_stream_read(s, chunk, sizeof(chunk), deadline_ns);

		if (n <= 0)
			return (int)n;
		if (out->len + (size_t)n > REPLY_MAX)
			return -EFBIG;
		if (buf_append(out, chunk, (size_t)n) < 0)
			return -ENOMEM;
	}
}

static int post(struct channel *ch, const char *path, json_t *body, unsigned patience_ms,
		int *ret_status, json_t **ret)
{
	static const struct channel_header type = {"content-type", "application/json"};
	_cleanup_(channel_stream_closep) struct channel_stream *s = NULL;
	_cleanup_free_ char *text = json_dumps(body, JSON_COMPACT);
	_cleanup_buf_ struct buf reply = {0};
	uint64_t deadline_ns = deadline_after_ms(patience_ms);
	size_t len = text ? strlen(text) : 0;
	int r = text ? 0 : -ENOMEM;

	if (r == 0)
		r = channel_stream_open(ch, "POST", path, &type, 1, false, &s);
	if (r == 0)
		r = channel_stream_write(s, text, len, true, deadline_ns);
	if (r == 0)
		r = channel_stream_head(s, deadline_ns, ret_status);
	if (r == 0)
		r = read_all(s, deadline_ns + hooks_ms(s) * NSEC_PER_MSEC, &reply);
	if (text)
		explicit_bzero(text, len);
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

/*
 * /etc/machine-id: as lasting and as much its own as the sandbox's id, and no secret. Two FNV-1a
 * hashes of the id with different beginnings; what must differ is what they are made from.
 */
static void machine_id(const char *sandbox_id, char out[33])
{
	uint64_t h[2] = {0xcbf29ce484222325ull, 0x9ae16a3b2f90404full};

	for (int i = 0; i < 2; i++)
		for (const char *p = sandbox_id; *p; p++)
			h[i] = (h[i] ^ (unsigned char)*p) * 0x100000001b3ull;
	(void)snprintf(out, 33, "%016" PRIx64 "%016" PRIx64, h[0], h[1]); /* fits */
}

static const char *or_null(const char *text)
{
	return text && text[0] ? text : NULL;
}

/* @text, or else what the template has for it */
static const char *or_default(const char *text, const json_t *defaults, const char *name)
{
	return or_null(or_null(text) ? text : json_string_value(json_object_get(defaults, name)));
}

static json_t *init_body(const struct agent_identity *id)
{
	static const char *const kinds[] = {"boot", "wake", "fork", "resume"};
	unsigned char entropy[ENTROPY_BYTES];
	char coded[ENTROPY_BYTES / 3 * 4 + 1], machine[33];
	json_auto_t *envs = NULL;
	json_t *body;

	if (merge_env(id->defaults, id->envs, &envs) < 0)
		return NULL;
	id_random(entropy, sizeof(entropy));
	base64_encode(entropy, sizeof(entropy), coded);
	machine_id(id->sandbox_id, machine);
	body = json_pack("{s:s, s:s, s:s, s:s, s:I, s:s, s:O*, s:s*, s:s*, s:s*, s:s*, s:O*}",
			 "kind", kinds[id->kind], "sandboxID", id->sandbox_id, "hostname",
			 id->sandbox_id, "machineID", machine, "timestampNs",
			 (json_int_t)clock_real_ns(), "entropy", coded, "envVars", envs,
			 "templateID", or_null(id->template_id), "accessToken", or_null(id->token),
			 "defaultUser", or_default(id->default_user, id->defaults, "user"),
			 "defaultWorkdir", or_default(id->default_workdir, id->defaults, "workdir"),
			 "network", id->network);
	explicit_bzero(entropy, sizeof(entropy));
	explicit_bzero(coded, sizeof(coded));
	return body;
}

/* In the guest's words, as far as a problem has room for them; they go into JSON. */
static void describe_failure(const char *message, const char *what, struct problem *problem)
{
	_cleanup_free_ char *text = message ? utf8_from(message) : NULL;
	const char *why = text ? text : "no reason given";
	size_t len = 0, more;

	while ((more = utf8_len(why + len)) && len + more <= REASON_MAX)
		len += more;
	problem_set(problem, 500, "the guest's agent could not %s: %.*s", what, (int)len, why);
}

/* What must be done as a whole, or was not done. */
static int order(struct channel *ch, const char *path, json_t *body, const char *what,
		 unsigned patience_ms, struct problem *problem)
{
	json_t *reply = NULL;
	int status = 0, r = post(ch, path, body, patience_ms, &status, &reply);

	if (r < 0) {
		problem_errno(problem, r, "the guest's agent did not answer when asked to %s",
			      what);
		return r;
	}
	if (status != 200 || !json_is_true(json_object_get(reply, "ok"))) {
		describe_failure(json_string_value(json_object_get(reply, "message")), what,
				 problem);
		r = -EIO;
	}
	json_decref(reply);
	return r;
}

int agent_metrics(struct channel *ch, uint64_t deadline_ns, json_t **ret)
{
	_cleanup_buf_ struct buf reply = {0};
	int status, r;

	r = channel_call(ch, "GET", "/metrics", NULL, NULL, 0, deadline_ns, &status, &reply);
	if (r < 0)
		return r;
	if (status != 200)
		return -EBADMSG;
	*ret = json_loadb(reply.data ? reply.data : "", reply.len, 0, NULL);
	return *ret ? 0 : -EBADMSG;
}

int agent_init(struct channel *ch, const struct agent_identity *identity, unsigned patience_ms,
	       struct problem *problem)
{
	json_t *body = init_body(identity);
	int r = body ? order(ch, "/init", body, "repair the sandbox", patience_ms, problem)
		     : -ENOMEM;

	json_decref(body);
	return r;
}

int agent_network(struct channel *ch, json_t *network, unsigned patience_ms,
		  struct problem *problem)
{
	json_t *body = json_pack("{s:O*}", "network", network);
	int r = body ? order(ch, "/network", body, "set up the network", patience_ms, problem)
		     : -ENOMEM;

	json_decref(body);
	return r;
}

/* The array in a reply; new reference. */
static int take_steps(json_t *reply, int status, json_t **ret)
{
	json_t *steps = json_object_get(reply, "steps");

	if (status != 200 || !json_is_array(steps))
		return -EBADMSG;
	*ret = json_incref(steps);
	return 0;
}

static int prepare(struct channel *ch, json_t *body_take, unsigned patience_ms, json_t **ret_steps)
{
	json_t *body = body_take, *reply = NULL;
	int r, status;

	r = body ? post(ch, "/prepare", body, patience_ms, &status, &reply) : -ENOMEM;
	json_decref(body);
	if (r == 0)
		r = take_steps(reply, status, ret_steps);
	json_decref(reply);
	return r;
}

int agent_prepare(struct channel *ch, unsigned patience_ms, json_t **ret_steps)
{
	return prepare(ch, json_object(), patience_ms, ret_steps);
}

/* Agents of before have no step to freeze the disk; to have written everything is what counts. */
static int check_written(const json_t *steps, struct problem *problem)
{
	bool synced = false;
	json_t *step;
	size_t i;

	json_array_foreach (steps, i, step) {
		const char *name = json_string_value(json_object_get(step, "name")) ?: "";
		const char *why = json_string_value(json_object_get(step, "error"));
		bool ok = json_is_true(json_object_get(step, "ok"));

		synced |= ok && !strcmp(name, "sync");
		if (ok || (strcmp(name, "sync") != 0 && strcmp(name, "freeze_disk") != 0))
			continue;
		problem_set(problem, 500,
			    "the guest could not write its files to its disk: %s: %.200s", name,
			    why ?: "no reason given");
		return -EIO;
	}
	if (!synced)
		problem_set(problem, 500, "the guest does not say that its files are on its disk");
	return synced ? 0 : -EIO;
}

int agent_prepare_disks(struct channel *ch, unsigned patience_ms, json_t **ret_steps,
			struct problem *problem)
{
	json_t *steps = NULL;
	int r = prepare(ch, json_pack("{s:b}", "disks", 1), patience_ms, &steps);

	if (r < 0) {
		problem_errno(problem, r, "asking the guest to write its files to its disk");
		return r;
	}
	r = check_written(steps, problem);
	if (r == 0)
		*ret_steps = steps;
	else
		json_decref(steps);
	return r;
}

json_t *agent_last_repair(struct channel *ch, uint64_t deadline_ns)
{
	_cleanup_buf_ struct buf text = {0};
	json_t *reply = NULL, *steps = NULL;
	int status = 0;

	if (channel_call(ch, "GET", "/repair", NULL, NULL, 0, deadline_ns, &status, &text) == 0)
		reply = json_loadb(text.data ? text.data : "", text.len, 0, NULL);
	if (take_steps(reply, status, &steps) < 0)
		steps = NULL;
	json_decref(reply);
	return steps;
}

int agent_rehearse(struct channel *ch, const struct agent_identity *identity, unsigned patience_ms)
{
	uint64_t deadline_ns = deadline_after_ms(patience_ms);
	json_t *body = init_body(identity), *reply = NULL;
	_cleanup_buf_ struct buf ignored = {0};
	int status = 0, r = body ? json_object_set_new(body, "entropy", json_string("")) : -1;

	if (r == 0)
		r = post(ch, "/init", body, patience_ms, &status, &reply);
	json_decref(body);
	json_decref(reply);
	if (r == 0 && status != 400) /* then it did something, and is no copy of others any more */
		return error_trace(-EPROTO);
	if (r == 0)
		r = channel_call(ch, "GET", "/health", NULL, NULL, 0, deadline_ns, &status,
				 &ignored);
	return error_trace(r);
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
