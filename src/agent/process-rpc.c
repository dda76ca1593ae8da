/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/process-rpc.h"

#include <signal.h>
#include <string.h>

#include "agent/caller.h"
#include "agent/connect-proto.h"
#include "agent/process.h"
#include "base/base64.h"
#include "base/error.h"
#include "base/problem.h"
#include "base/str.h"

#define DEFAULT_PATH	    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define KEEPALIVE_DEFAULT_S 90u
#define KEEPALIVE_MAX_S	    3600u

/* A Start request, taken apart. Strings belong to the message or to `owned`. */
struct start {
	struct user user;
	struct spawn_config spawn;
	struct process_options options;
	json_t *env;
	char *cwd;
};

static void start_deinit(struct start *st)
{
	free(st->spawn.argv);
	for (size_t i = 0; st->spawn.envp && st->spawn.envp[i]; i++)
		free(st->spawn.envp[i]);
	free(st->spawn.envp);
	json_decref(st->env);
	free(st->cwd);
}

static int start_args(json_t *config, struct start *st, struct problem *problem)
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
static int start_env(struct agent *a, json_t *config, struct start *st, struct problem *problem)
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

static int start_cwd(struct agent *a, json_t *config, struct start *st, struct problem *problem)
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

static int start_options(struct request *rq, json_t *message, struct start *st,
			 struct problem *problem)
{
	const char *ping = server_stream_header(rq->stream, "keepalive-ping-interval");
	json_t *tag = json_object_get(message, "tag"), *in = json_object_get(message, "stdin");
	uint64_t keepalive_s = KEEPALIVE_DEFAULT_S;

	if (json_object_get(message, "pty")) {
		problem_set(problem, 400, "this agent has no pseudo-terminals");
		return -EINVAL;
	}
	if (connect_timeout_ms(rq, &st->options.timeout_ms) < 0) {
		problem_set(problem, 400,
			    "Connect-Timeout-Ms must be a number of at most ten digits");
		return -EINVAL;
	}
	if (ping && (str_to_u64(ping, &keepalive_s) < 0 || !keepalive_s))
		keepalive_s = KEEPALIVE_DEFAULT_S;
	st->options.keepalive_ms = MIN(keepalive_s, (uint64_t)KEEPALIVE_MAX_S) * 1000;
	st->options.tag = json_string_value(tag);
	st->spawn.with_stdin = !json_is_false(in);
	return 0;
}

static int start_parse(struct request *rq, json_t *message, struct start *st,
		       struct problem *problem)
{
	json_t *config = json_object_get(message, "process");
	int r;

	if (!json_is_object(config)) {
		problem_set(problem, 400, "process must be an object");
		return -EINVAL;
	}
	st->options.config = config;
	st->spawn.user = &st->user;
	st->spawn.procs_fd = rq->agent->workload.procs_fd;
	r = caller_user(rq, NULL, problem, &st->user);
	if (r == 0)
		r = start_args(config, st, problem);
	if (r == 0)
		r = start_env(rq->agent, config, st, problem);
	if (r == 0)
		r = start_cwd(rq->agent, config, st, problem);
	if (r == 0)
		r = start_options(rq, message, st, problem);
	return r;
}

static void handle_start(struct request *rq)
{
	struct problem problem = PROBLEM_INIT;
	struct start st = {0};
	json_t *message;
	int r;

	if (connect_stream_begin(rq, &message) < 0)
		return;
	r = start_parse(rq, message, &st, &problem);
	if (problem.status)
		connect_stream_fail(rq,
				    problem.status == 401 ? CONNECT_UNAUTHENTICATED
							  : CONNECT_INVALID_ARGUMENT,
				    "%s", problem.message);
	else if (r == 0 &&
		 (r = process_start(rq->agent->processes, rq, &st.spawn, &st.options)) < 0)
		connect_stream_fail(rq, CONNECT_RESOURCE_EXHAUSTED, "cannot start a process: %s",
				    strerrordesc_np(-r));
	else if (r < 0)
		connect_stream_fail(rq, CONNECT_RESOURCE_EXHAUSTED, "out of memory");
	start_deinit(&st);
	json_decref(message);
}

/* --- the others are unary, and most name a process ----------------------------------------------
 */

/* int64 is a string in proto3 JSON, and a number is accepted. Return: the pid; -1 */
static pid_t selector_pid(json_t *o)
{
	uint64_t pid = 0;

	if (json_is_integer(o) && json_integer_value(o) > 0)
		pid = (uint64_t)json_integer_value(o);
	else if (!json_is_string(o) || str_to_u64(json_string_value(o), &pid) < 0)
		return -1;
	return pid > 0 && pid <= INT32_MAX ? (pid_t)pid : -1;
}

/* The process that {"process": {"pid"} or {"tag"}} names; NULL: answered already */
static struct process *select_process(struct request *rq, json_t *message)
{
	json_t *selector = json_object_get(message, "process");
	const char *tag = json_string_value(json_object_get(selector, "tag"));
	pid_t pid = selector_pid(json_object_get(selector, "pid"));
	struct process *p;

	if (!tag && pid < 0) {
		connect_unary_fail(rq, CONNECT_INVALID_ARGUMENT,
				   "process must be {\"pid\": number} or {\"tag\": string}");
		return NULL;
	}
	p = process_find(rq->agent->processes, pid, tag);
	if (!p && tag)
		connect_unary_fail(rq, CONNECT_NOT_FOUND, "process with tag %.100s not found", tag);
	else if (!p)
		connect_unary_fail(rq, CONNECT_NOT_FOUND, "process with pid %d not found", pid);
	return p;
}

static void handle_list(struct request *rq)
{
	connect_unary_reply(rq,
			    json_pack("{s:o}", "processes", process_list(rq->agent->processes)));
}

static void fail_input(struct request *rq, int r)
{
	if (r == -EPIPE)
		connect_unary_fail(rq, CONNECT_FAILED_PRECONDITION,
				   "the process has no open standard input");
	else
		connect_unary_fail(rq, CONNECT_RESOURCE_EXHAUSTED,
				   "the process does not read its input: %u bytes are waiting",
				   PROCESS_INPUT_MAX);
}

static void send_input(struct request *rq, struct process *p, json_t *message)
{
	json_t *o = json_object_get(json_object_get(message, "input"), "stdin");
	size_t len = json_string_length(o);
	_cleanup_free_ char *data = malloc(len / 4 * 3 + 4);
	ssize_t n = json_is_string(o) && data ? base64_decode(json_string_value(o), len, data)
					      : -EINVAL;
	int r;

	if (n < 0) {
		connect_unary_fail(rq, CONNECT_INVALID_ARGUMENT, "input.stdin must be base64 text");
		return;
	}
	r = process_input(p, rq, data, (size_t)n);
	if (r < 0)
		fail_input(rq, r);
}

static void handle_send_input(struct request *rq)
{
	struct process *p;
	json_t *message;

	if (connect_unary_parse(rq, &message) < 0)
		return;
	p = select_process(rq, message);
	if (p)
		send_input(rq, p, message);
	json_decref(message);
}

static void handle_close_stdin(struct request *rq)
{
	struct process *p;
	json_t *message;
	int r;

	if (connect_unary_parse(rq, &message) < 0)
		return;
	p = select_process(rq, message);
	json_decref(message);
	if (!p)
		return;
	r = process_close_input(p);
	if (r < 0)
		fail_input(rq, r);
	else
		connect_unary_reply(rq, json_object());
}

/* Return: the signal; 0 for one that the protocol does not have */
static int signal_of(json_t *o)
{
	const char *name = json_string_value(o);

	if (json_is_integer(o))
		return json_integer_value(o) == SIGKILL	  ? SIGKILL
		       : json_integer_value(o) == SIGTERM ? SIGTERM
							  : 0;
	if (name && !strcmp(name, "SIGNAL_SIGKILL"))
		return SIGKILL;
	return name && !strcmp(name, "SIGNAL_SIGTERM") ? SIGTERM : 0;
}

static void handle_send_signal(struct request *rq)
{
	struct process *p;
	json_t *message;
	int sig, r;

	if (connect_unary_parse(rq, &message) < 0)
		return;
	sig = signal_of(json_object_get(message, "signal"));
	p = select_process(rq, message);
	json_decref(message);
	if (!p)
		return;
	r = sig ? process_signal(p, sig) : -EINVAL;
	if (r == -EINVAL)
		connect_unary_fail(rq, CONNECT_INVALID_ARGUMENT,
				   "signal must be SIGNAL_SIGTERM or SIGNAL_SIGKILL");
	else if (r < 0)
		connect_unary_fail(rq, CONNECT_NOT_FOUND, "the process is gone");
	else
		connect_unary_reply(rq, json_object());
}

#define CLIENTS (ROUTE_NEEDS_READY | ROUTE_CLIENT)

static const struct route routes[] = {
	{"POST", "/process.Process/Start", handle_start, CLIENTS},
	{"POST", "/process.Process/List", handle_list, CLIENTS},
	{"POST", "/process.Process/SendInput", handle_send_input, CLIENTS},
	{"POST", "/process.Process/CloseStdin", handle_close_stdin, CLIENTS},
	{"POST", "/process.Process/SendSignal", handle_send_signal, CLIENTS},
};

int process_rpc_add(struct router *r)
{
	return router_add(r, routes, ARRAY_SIZE(routes));
}
