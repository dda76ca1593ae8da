/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/process-rpc.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "agent/connect-proto.h"
#include "agent/input-stream.h"
#include "agent/start-request.h"
#include "base/base64.h"
#include "base/error.h"
#include "base/str.h"

#define NOT_READ "the process does not read its input"

enum connect_code process_problem_code(const struct problem *problem)
{
	switch (problem->status) {
	case 400:
		return CONNECT_INVALID_ARGUMENT;
	case 401:
		return CONNECT_UNAUTHENTICATED;
	case 404:
		return CONNECT_NOT_FOUND;
	case 409:
		return CONNECT_FAILED_PRECONDITION;
	default:
		return CONNECT_RESOURCE_EXHAUSTED;
	}
}

static void fail_unary(struct request *rq, const struct problem *problem)
{
	if (problem_is_set(problem))
		connect_unary_fail(rq, process_problem_code(problem), "%s", problem->message);
	else
		connect_unary_fail(rq, CONNECT_RESOURCE_EXHAUSTED, "out of memory");
}

static void fail_stream(struct request *rq, const struct problem *problem)
{
	if (problem_is_set(problem))
		connect_stream_fail(rq, process_problem_code(problem), "%s", problem->message);
	else
		connect_stream_fail(rq, CONNECT_RESOURCE_EXHAUSTED, "out of memory");
}

/* --- which process ------------------------------------------------------------------------------
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

int process_select(const json_t *message, struct problem *problem, struct process_selector *ret)
{
	json_t *selector = json_object_get(message, "process");

	ret->tag = json_string_value(json_object_get(selector, "tag"));
	ret->pid = selector_pid(json_object_get(selector, "pid"));
	if (ret->tag || ret->pid > 0)
		return 0;
	problem_set(problem, 400, "process must be {\"pid\": number} or {\"tag\": string}");
	return -EINVAL;
}

static int not_found(const struct process_selector *which, struct problem *problem)
{
	if (which->tag)
		problem_set(problem, 404, "process with tag %.100s not found", which->tag);
	else
		problem_set(problem, 404, "process with pid %d not found", which->pid);
	return -ENOENT;
}

int process_select_live(struct agent *a, const json_t *message, struct problem *problem,
			struct process **ret)
{
	struct process_selector which;
	int r = process_select(message, problem, &which);

	if (r < 0)
		return r;
	*ret = process_find(a->processes, which.pid, which.tag);
	return *ret ? 0 : not_found(&which, problem);
}

/* --- Start, Connect, List -----------------------------------------------------------------------
 */

static int start(struct request *rq, json_t *message, struct problem *problem)
{
	struct start_request st = {0};
	int r = start_request_parse(rq, message, problem, &st);

	if (r == 0)
		r = process_start(rq->agent->processes, rq, &st.spawn, &st.options);
	if (r == -EAGAIN)
		problem_set(problem, 429, "cannot start a process: %u are running already",
			    PROCESS_MAX);
	else if (r == -ENOSPC)
		problem_set(problem, 429,
			    "cannot start a process: the command lines and unread input of those "
			    "that run already take %u MiB",
			    PROCESS_MEMORY_MAX >> 20);
	else if (r < 0)
		problem_set(problem, 429, "cannot start a process: %s", strerrordesc_np(-r));
	start_request_deinit(&st);
	return r;
}

static void handle_start(struct request *rq)
{
	struct problem problem = PROBLEM_INIT;
	json_t *message;

	if (connect_stream_begin(rq, &message) < 0)
		return;
	if (start(rq, message, &problem) < 0)
		fail_stream(rq, &problem);
	json_decref(message);
}

static int follow(struct request *rq, json_t *message, struct problem *problem)
{
	struct process_selector which;
	struct listening how;
	int r = process_select(message, problem, &which);

	if (r == 0)
		r = listening_parse(rq, problem, &how);
	if (r == 0)
		r = process_connect(rq->agent->processes, which.pid, which.tag, rq, &how);
	return r == -ENOENT ? not_found(&which, problem) : r;
}

static void handle_connect(struct request *rq)
{
	struct problem problem = PROBLEM_INIT;
	json_t *message;

	if (connect_stream_begin(rq, &message) < 0)
		return;
	if (follow(rq, message, &problem) < 0)
		fail_stream(rq, &problem);
	json_decref(message);
}

static void handle_list(struct request *rq)
{
	json_t *list = process_list(rq->agent->processes);

	if (list)
		connect_unary_reply(rq, json_pack("{s:o}", "processes", list));
	else
		connect_unary_fail(rq, CONNECT_RESOURCE_EXHAUSTED, "out of memory");
}

/* --- input --------------------------------------------------------------------------------------
 */

void process_input_problem(int r, struct problem *problem)
{
	if (r == -EPIPE)
		problem_set(problem, 409, "the process has no open standard input");
	else if (r == -ENOSPC)
		problem_set(problem, 429, NOT_READ ": as much as is allowed is waiting (%u MiB)",
			    PROCESS_INPUT_MAX >> 20);
}

int process_input_parse(const json_t *message, const struct process *p, struct problem *problem,
			char **ret, size_t *ret_len)
{
	const json_t *input = json_object_get(message, "input");
	const json_t *in = json_object_get(input, "stdin"), *pty = json_object_get(input, "pty");
	const json_t *o = in ? in : pty;
	_cleanup_free_ char *data = NULL;
	ssize_t n;

	if (!json_is_string(o)) {
		problem_set(problem, 400, "input must be {\"stdin\": base64} or {\"pty\": base64}");
		return -EINVAL;
	}
	if (!!pty != process_has_pty(p)) {
		problem_set(problem, 409,
			    pty ? "the process has no terminal: send input.stdin"
				: "the process runs in a terminal: send input.pty");
		return -EPIPE;
	}
	data = malloc(json_string_length(o) / 4 * 3 + 4);
	if (!data)
		return error_trace(-ENOMEM);
	n = base64_decode(json_string_value(o), json_string_length(o), data);
	if (n < 0) {
		problem_set(problem, 400, "input.%s is not base64", pty ? "pty" : "stdin");
		return -EINVAL;
	}
	*ret = take_ptr(data);
	*ret_len = (size_t)n;
	return 0;
}

/* A SendInput that waits for its program; freed when both are through with it. */
struct waiting {
	struct request *rq;
	struct input *input;
};

static void on_input_done(void *userdata, bool ok)
{
	struct waiting *w = userdata;
	struct request *rq = w->rq;

	request_release(rq);
	if (ok)
		connect_unary_reply(rq, json_object());
	else
		connect_unary_fail(rq, CONNECT_FAILED_PRECONDITION, NOT_READ " any more");
	free(w);
}

static void on_waiting_closed(struct request *rq)
{
	struct waiting *w = rq->keeper;

	input_forget(w->input);
	free(w);
}

static int send_input(struct request *rq, const json_t *message, struct problem *problem)
{
	_cleanup_free_ char *data = NULL;
	struct waiting *w;
	struct process *p;
	size_t len;
	int r = process_select_live(rq->agent, message, problem, &p);

	if (r == 0)
		r = process_input_parse(message, p, problem, &data, &len);
	if (r < 0)
		return r;
	w = calloc(1, sizeof(*w));
	if (!w)
		return error_trace(-ENOMEM);
	w->rq = rq;
	request_keep(rq, w, on_waiting_closed, NULL);
	r = process_input(p, data, len, on_input_done, w, &w->input);
	if (r < 0) {
		request_release(rq);
		free(w);
		process_input_problem(r, problem);
	}
	return r;
}

static void handle_send_input(struct request *rq)
{
	struct problem problem = PROBLEM_INIT;
	json_t *message;

	if (connect_unary_parse(rq, &message) < 0)
		return;
	if (send_input(rq, message, &problem) < 0)
		fail_unary(rq, &problem);
	json_decref(message);
}

/* --- the other unary ones -----------------------------------------------------------------------
 */

/* Answer with what @handle says about a message: {}, or its problem. */
static void answer(struct request *rq,
		   int (*handle)(struct agent *a, const json_t *message, struct problem *problem))
{
	struct problem problem = PROBLEM_INIT;
	json_t *message;

	if (connect_unary_parse(rq, &message) < 0)
		return;
	if (handle(rq->agent, message, &problem) < 0)
		fail_unary(rq, &problem);
	else
		connect_unary_reply(rq, json_object());
	json_decref(message);
}

static int close_stdin(struct agent *a, const json_t *message, struct problem *problem)
{
	struct process *p;
	int r = process_select_live(a, message, problem, &p);

	if (r < 0)
		return r;
	if (process_has_pty(p)) {
		problem_set(problem, 409,
			    "the process runs in a terminal: send Ctrl-D (0x04) as input.pty");
		return -ENOTTY;
	}
	r = process_close_input(p);
	if (r < 0)
		process_input_problem(r, problem);
	return r;
}

static void handle_close_stdin(struct request *rq)
{
	answer(rq, close_stdin);
}

/* Return: the signal; 0 for one that the protocol does not have */
static int signal_of(const json_t *o)
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

static int send_signal(struct agent *a, const json_t *message, struct problem *problem)
{
	int sig = signal_of(json_object_get(message, "signal")), r;
	struct process_selector which;
	struct process *p;

	r = process_select(message, problem, &which);
	if (r < 0)
		return r;
	if (!sig) {
		problem_set(problem, 400, "signal must be SIGNAL_SIGTERM or SIGNAL_SIGKILL");
		return -EINVAL;
	}
	p = process_find(a->processes, which.pid, which.tag);
	if (p)
		r = process_signal(p, sig);
	else
		r = sig == SIGKILL && !which.tag ? process_kill_left(a->processes, which.pid)
						 : -ESRCH;
	return r < 0 ? not_found(&which, problem) : 0;
}

static void handle_send_signal(struct request *rq)
{
	answer(rq, send_signal);
}

static int update(struct agent *a, const json_t *message, struct problem *problem)
{
	const json_t *pty = json_object_get(message, "pty");
	struct pty_size size;
	struct process *p;
	int r = process_select_live(a, message, problem, &p);

	if (r < 0 || !pty || json_is_null(pty))
		return r;
	r = pty_size_parse(pty, problem, &size);
	if (r == 0)
		r = process_resize(p, &size);
	if (r == -ENOTTY)
		problem_set(problem, 409, "the process has no terminal");
	else if (r < 0)
		problem_set(problem, 409, "cannot resize the terminal: %s", strerrordesc_np(-r));
	return r;
}

static void handle_update(struct request *rq)
{
	answer(rq, update);
}

#define CLIENTS (ROUTE_NEEDS_READY | ROUTE_CLIENT)

static const struct route routes[] = {
	{"POST", "/process.Process/Start", handle_start, CLIENTS},
	{"POST", "/process.Process/Connect", handle_connect, CLIENTS},
	{"POST", "/process.Process/List", handle_list, CLIENTS},
	{"POST", "/process.Process/SendInput", handle_send_input, CLIENTS},
	{"POST", "/process.Process/StreamInput", handle_stream_input, CLIENTS | ROUTE_STREAM},
	{"POST", "/process.Process/CloseStdin", handle_close_stdin, CLIENTS},
	{"POST", "/process.Process/SendSignal", handle_send_signal, CLIENTS},
	{"POST", "/process.Process/Update", handle_update, CLIENTS},
};

int process_rpc_add(struct router *r)
{
	return router_add(r, routes, ARRAY_SIZE(routes));
}
