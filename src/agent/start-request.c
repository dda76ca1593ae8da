/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/start-request.h"

#include <errno.h>
#include <string.h>

#include "agent/caller.h"
#include "agent/connect-proto.h"
#include "base/clock.h"
#include "base/str.h"

#define DEFAULT_PATH	    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define KEEPALIVE_DEFAULT_S 90u
#define KEEPALIVE_MAX_S	    3600u
#define TAG_MAX		    256

void start_request_deinit(struct start_request *st)
{
	free(st->spawn.argv);
	for (size_t i = 0; st->spawn.envp && st->spawn.envp[i]; i++)
		free(st->spawn.envp[i]);
	free(st->spawn.envp);
	json_decref(st->env);
	free(st->cwd);
}

static int start_args(json_t *config, struct start_request *st, struct problem *problem)
{
	json_t *cmd = json_object_get(config, "cmd"), *args = json_object_get(config, "args"), *arg;
	size_t i;

	if (!json_is_string(cmd) || !json_string_length(cmd)) {
		problem_set(problem, 400, "process.cmd must be a non-empty string");
		return -EINVAL;
	}
	if (args && !json_is_null(args) && !json_is_array(args)) {
		problem_set(problem, 400, "process.args must be an array of strings");
		return -EINVAL;
	}
	st->spawn.argv = calloc(json_array_size(args) + 2, sizeof(char *));
	if (!st->spawn.argv)
		return -ENOMEM;
	st->spawn.argv[0] = (char *)json_string_value(cmd);
	json_array_foreach (args, i, arg) {
		if (!json_is_string(arg)) {
			problem_set(problem, 400, "process.args[%zu] is not a string", i);
			return -EINVAL;
		}
		st->spawn.argv[i + 1] = (char *)json_string_value(arg);
	}
	return 0;
}

/* Later ones win: the system's, then those of init, then the request's. */
static int start_env(struct agent *a, json_t *config, struct start_request *st,
		     struct problem *problem)
{
	json_t *envs = json_object_get(config, "envs"), *value;
	const char *name;
	size_t i = 0;

	st->env =
		json_pack("{s:s, s:s, s:s, s:s, s:s}", "PATH", DEFAULT_PATH, "HOME", st->user.home,
			  "USER", st->user.name, "LOGNAME", st->user.name, "SHELL", st->user.shell);
	if (!st->env || json_object_update(st->env, a->env) < 0)
		return -ENOMEM;
	if (envs && !json_is_null(envs) && !json_is_object(envs)) {
		problem_set(problem, 400, "process.envs must be an object of strings");
		return -EINVAL;
	}
	json_object_foreach (envs, name, value) {
		if (!json_is_string(value) || !name[0] || strchr(name, '=')) {
			problem_set(problem, 400, "process.envs: '%.100s' is not a variable", name);
			return -EINVAL;
		}
		if (json_object_set(st->env, name, value) < 0)
			return -ENOMEM;
	}
	st->spawn.envp = calloc(json_object_size(st->env) + 1, sizeof(char *));
	if (!st->spawn.envp)
		return -ENOMEM;
	json_object_foreach (st->env, name, value) {
		st->spawn.envp[i] = str_printf("%s=%s", name, json_string_value(value));
		if (!st->spawn.envp[i++])
			return -ENOMEM;
	}
	return 0;
}

static int start_cwd(struct agent *a, json_t *config, struct start_request *st,
		     struct problem *problem)
{
	json_t *o = json_object_get(config, "cwd");
	const char *cwd = json_string_value(o);

	if (o && !json_is_null(o) && !cwd) {
		problem_set(problem, 400, "process.cwd must be a string");
		return -EINVAL;
	}
	st->spawn.cwd_is_default = !cwd || !cwd[0];
	st->cwd = caller_path(a, &st->user, cwd ? cwd : "");
	st->spawn.cwd = st->cwd;
	return st->cwd ? 0 : -ENOMEM;
}

int listening_parse(struct request *rq, struct problem *problem, struct listening *ret)
{
	const char *ping = request_header(rq, "keepalive-ping-interval");
	uint64_t keepalive_s = KEEPALIVE_DEFAULT_S;

	if (connect_timeout_ms(rq, &ret->timeout_ms) < 0) {
		problem_set(problem, 400,
			    "Connect-Timeout-Ms must be a number of at most ten digits");
		return -EINVAL;
	}
	if (ping && (str_to_u64(ping, &keepalive_s) < 0 || !keepalive_s))
		keepalive_s = KEEPALIVE_DEFAULT_S;
	ret->keepalive_ms = MIN(keepalive_s, (uint64_t)KEEPALIVE_MAX_S) * 1000;
	ret->deadline_ns = ret->timeout_ms ? deadline_after_ms(ret->timeout_ms) : DEADLINE_NEVER;
	return 0;
}

/* Return: 0; -EINVAL. Absent: @ret stays */
static int parse_cells(const json_t *size, const char *name, struct problem *problem, uint16_t *ret)
{
	const json_t *o = json_object_get(size, name);

	if (!o || json_is_null(o))
		return 0;
	if (!json_is_integer(o) || json_integer_value(o) < 1 ||
	    json_integer_value(o) > PTY_SIZE_MAX) {
		problem_set(problem, 400, "pty.size.%s must be a number from 1 to %u", name,
			    PTY_SIZE_MAX);
		return -EINVAL;
	}
	*ret = (uint16_t)json_integer_value(o);
	return 0;
}

int pty_size_parse(const json_t *pty, struct problem *problem, struct pty_size *ret)
{
	const json_t *size = json_object_get(pty, "size");
	struct pty_size s = {.cols = 80, .rows = 24};
	int r;

	if (!json_is_object(pty) || (size && !json_is_null(size) && !json_is_object(size))) {
		problem_set(problem, 400, "pty must be {\"size\": {\"cols\", \"rows\"}}");
		return -EINVAL;
	}
	r = parse_cells(size, "cols", problem, &s.cols);
	if (r == 0)
		r = parse_cells(size, "rows", problem, &s.rows);
	if (r == 0)
		*ret = s;
	return r;
}

static int start_pty(json_t *message, struct start_request *st, struct problem *problem)
{
	json_t *pty = json_object_get(message, "pty");

	if (!pty || json_is_null(pty))
		return 0;
	st->spawn.with_pty = true;
	return pty_size_parse(pty, problem, &st->spawn.size);
}

static int start_tag(json_t *message, struct start_request *st, struct problem *problem)
{
	json_t *tag = json_object_get(message, "tag");

	if (!tag || json_is_null(tag))
		return 0;
	if (!json_is_string(tag) || !json_string_length(tag) || json_string_length(tag) > TAG_MAX) {
		problem_set(problem, 400, "tag must be a string of 1 to %d bytes", TAG_MAX);
		return -EINVAL;
	}
	st->options.tag = json_string_value(tag);
	st->spawn.system = !strcmp(st->options.tag, START_TAG_SYSTEM);
	return 0;
}

int start_request_parse(struct request *rq, json_t *message, struct problem *problem,
			struct start_request *st)
{
	json_t *config = json_object_get(message, "process");
	int r;

	if (!json_is_object(config)) {
		problem_set(problem, 400, "process must be an object");
		return -EINVAL;
	}
	st->options.config = config;
	st->options.config_len = rq->body.len;
	st->spawn.user = &st->user;
	st->spawn.with_stdin = !json_is_false(json_object_get(message, "stdin"));
	r = caller_user(rq, NULL, problem, &st->user);
	if (r == 0)
		r = start_args(config, st, problem);
	if (r == 0)
		r = start_env(rq->agent, config, st, problem);
	if (r == 0)
		r = start_cwd(rq->agent, config, st, problem);
	if (r == 0)
		r = start_pty(message, st, problem);
	if (r == 0)
		r = start_tag(message, st, problem);
	if (r == 0)
		r = listening_parse(rq, problem, &st->options.listening);
	return r;
}
