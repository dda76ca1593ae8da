/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread, one loop, three flows:
 *
 *   output  the answer of process.Process/Start, decoded frame by frame into two buffers, written
 * to descriptors 1 and 2 when they can take it. Full buffers pause the answer, so a slow reader of
 * ours slows the command down and costs no memory. input   descriptor 0, one SendInput at a time,
 * the next read only after its answer: a command that does not read its input costs no memory
 * either. At the end CloseStdin. stop    signals, as SendSignal, before any input.
 *
 * At most two requests are in flight: Start and one of the others. We never make descriptors 0 to 2
 * non-blocking (other processes share them): poll first, then write at most PIPE_BUF bytes, which a
 * pipe that polls writable takes without blocking.
 *
 * The session is over when the answer has ended and the buffers are empty. The command may outlive
 * us only if dormd or the sandbox is lost, or if we are told three times to leave.
 */
#include "cli/exec-session.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "cli/access.h"
#include "cli/connect-stream.h"
#include "cli/http-loop.h"
#include "cli/http.h"
#include "cli/output.h"
#include "cli/process-event.h"

#define MAX_BUFFERED	 (256u << 10) /* output that waits for our reader */
#define INPUT_CHUNK	 (48u << 10)  /* 64 KiB in base64 */
#define CONTROL_MS	 30000
#define TIMEOUT_GRACE_MS 10000 /* the sandbox ends a command that is late; we only make sure */
#define STOP_GRACE_MS	 10000 /* for a command that we ended for a reason of our own */
#define KEEPALIVE_S	 50
#define START_S		 60
#define SIGNALS_TO_LEAVE 3

struct exec_session {
	const struct cli *cli;
	const struct exec_options *o;
	struct http_loop *loop;
	struct http_loop_handle *answer;
	struct connect_stream stream;
	struct problem problem;
	char *headers[8];

	uint64_t pid; /* 0: not started yet */
	bool control_busy, answer_done;
	int exit_code; /* -1: not known yet */

	struct buf out[2]; /* for descriptors 1 and 2 */
	bool out_broken[2];
	bool paused;

	bool input_open, input_ended; /* still read from; CloseStdin is due */
	int signal_fd, signal_due;    /* SIGTERM or SIGKILL to be sent; 0: none */
	unsigned n_signals;
	int forced_code; /* what we exit with when we ended the command ourselves; 0: did not */
	bool timed_out;

	bool keepalives; /* it sends them, so its silence means something */
	uint64_t heard_ns, deadline_ns;
};

/* ---- signals -----------------------------------------------------------------------------------
 */

static void fill_signals(sigset_t *set)
{
	(void)sigemptyset(set); /* neither fails with a valid set and signal */
	(void)sigaddset(set, SIGINT);
	(void)sigaddset(set, SIGTERM);
	(void)sigaddset(set, SIGHUP);
}

void exec_signals_block(sigset_t *ret_old)
{
	sigset_t set;

	fill_signals(&set);
	(void)sigprocmask(SIG_BLOCK, &set, ret_old); /* cannot fail */
}

void exec_signals_restore(const sigset_t *old)
{
	const struct timespec now = {0};
	sigset_t set;

	fill_signals(&set);
	while (sigtimedwait(&set, NULL, &now) > 0)
		;
	(void)sigprocmask(SIG_SETMASK, old, NULL); /* cannot fail */
}

/* End the command for a reason of ours; if it does not end soon, leave. */
static void stop(struct exec_session *s, int code)
{
	if (s->forced_code)
		return;
	s->forced_code = code;
	s->signal_due = SIGTERM;
	s->input_open = s->input_ended = false;
	s->deadline_ns = deadline_min(s->deadline_ns, deadline_after_ms(STOP_GRACE_MS));
}

static void take_signals(struct exec_session *s)
{
	struct signalfd_siginfo info;

	while (read(s->signal_fd, &info, sizeof(info)) == sizeof(info)) {
		s->n_signals++;
		s->signal_due = s->n_signals == 1 ? SIGTERM : SIGKILL;
		if (s->n_signals < SIGNALS_TO_LEAVE)
			continue;
		s->forced_code = CLI_SIGNAL + (int)info.ssi_signo;
		s->deadline_ns = 0;
	}
}

/* ---- output ------------------------------------------------------------------------------------
 */

static int on_message(void *userdata, json_t *message, struct problem *problem)
{
	struct exec_session *s = userdata;
	struct process_event e;
	int r = process_event_parse(message, problem, &e);

	if (r < 0)
		return error_trace(r);
	switch (e.kind) {
	case PROCESS_EVENT_START:
		s->pid = e.pid;
		break;
	case PROCESS_EVENT_DATA:
		if (!s->out_broken[e.fd - 1])
			r = buf_append(&s->out[e.fd - 1], e.data, e.len);
		break;
	case PROCESS_EVENT_END:
		s->exit_code = e.exit_code;
		break;
	case PROCESS_EVENT_KEEPALIVE:
		s->keepalives = true;
		break;
	case PROCESS_EVENT_OTHER:
		break;
	}
	process_event_deinit(&e);
	return error_trace(r);
}

static int on_data(void *userdata, const void *data, size_t len)
{
	struct exec_session *s = userdata;

	s->heard_ns = clock_now_ns();
	if (s->out[0].len + s->out[1].len > MAX_BUFFERED) {
		s->paused = true;
		return HTTP_LOOP_PAUSE;
	}
	return connect_stream_feed(&s->stream, data, len, &s->problem);
}

static void on_answer_done(void *userdata, int r, const struct problem *problem)
{
	struct exec_session *s = userdata;

	s->answer_done = true;
	s->answer = NULL;
	if (r == -ECONNRESET && s->pid) {
		problem_set(&s->problem, 503, "the stream from sandbox %s broke off while '%s' ran",
			    s->o->sandbox_id, s->o->argv[0]);
		problem_hint(
			&s->problem,
			"that happens when a sandbox is put to sleep, snapshotted or forked (the "
			"command goes on in it), or when it ends: look with `dorm ps -a`");
	}
	if (r && !problem_is_set(&s->problem))
		s->problem = *problem;
	else if (!r)
		(void)connect_stream_finish(&s->stream, &s->problem); /* the problem says it */
}

/* Our reader is gone: what a pipe would do to the command, we do by hand. */
static void output_broken(struct exec_session *s, int i, int error)
{
	s->out_broken[i] = true;
	buf_deinit(&s->out[i]);
	if (error != EPIPE)
		problem_set(&s->problem, 500, "cannot write to standard %s: %s",
			    i ? "error" : "output", strerrordesc_np(error));
	stop(s, error == EPIPE ? CLI_SIGNAL + SIGPIPE : CLI_OWN);
}

static void write_some(struct exec_session *s, int i)
{
	struct buf *b = &s->out[i];
	size_t done = 0;
	int error = 0;

	while (done < b->len && fd_poll(i + 1, POLLOUT, 0) > 0) {
		ssize_t n = write(i + 1, b->data + done, MIN(b->len - done, (size_t)PIPE_BUF));

		if (n < 0) {
			error = errno == EINTR || errno == EAGAIN ? 0 : errno;
			break;
		}
		done += (size_t)n;
	}
	buf_consume(b, done);
	if (error)
		output_broken(s, i, error);
	if (s->paused && s->answer && s->out[0].len + s->out[1].len <= MAX_BUFFERED / 2) {
		s->paused = false;
		http_loop_resume(s->answer);
	}
}

/* ---- input and signals to the command
 * ------------------------------------------------------------ */

static void on_control_done(void *userdata, int r, const struct problem *problem)
{
	struct exec_session *s = userdata;

	s->control_busy = false;
	/* the command may have ended while we talked to it: its own end says all */
	if (!r || problem->status == 404 || s->exit_code >= 0 || s->forced_code)
		return;
	if (!problem_is_set(&s->problem))
		s->problem = *problem;
	stop(s, CLI_OWN);
}

/* Sends one unary RPC about our process. @fields: stolen; NULL when out of memory */
static int control(struct exec_session *s, const char *path, json_t *fields)
{
	json_t *process = json_pack("{s:I}", "pid", (json_int_t)s->pid);
	_cleanup_free_ char *text = NULL;
	struct http_loop_request request = {.path = path,
					    .content_type = "application/json",
					    .headers = (const char *const *)s->headers,
					    .timeout_ms = CONTROL_MS,
					    .on_done = on_control_done,
					    .userdata = s};
	int r = -ENOMEM;

	if (!json_object_set_new(fields, "process", process))
		text = json_dumps(fields, JSON_COMPACT);
	if (text) {
		request.body = text;
		request.len = strlen(text);
		r = http_loop_post(s->loop, &request, NULL);
	}
	json_decref(fields);
	s->control_busy = !r;
	return error_trace(r);
}

static int send_input(struct exec_session *s, const void *data, size_t len)
{
	_cleanup_free_ char *text = malloc(base64_encoded_len(len) + 1);

	if (!text)
		return error_trace(-ENOMEM);
	(void)base64_encode(data, len, text); /* its length is known */
	return error_trace(control(s, "/process.Process/SendInput",
				   json_pack("{s:{s:s}}", "input", "stdin", text)));
}

static int read_input(struct exec_session *s)
{
	char data[INPUT_CHUNK];
	ssize_t n = read(STDIN_FILENO, data, sizeof(data));

	if (n > 0)
		return error_trace(send_input(s, data, (size_t)n));
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	/* the end, or a standard input that cannot be read, which is as good as none */
	s->input_open = false;
	s->input_ended = true;
	return 0;
}

/* What is due to be sent and does not depend on a descriptor. */
static int send_due(struct exec_session *s)
{
	if (!s->pid || s->control_busy || s->answer_done)
		return 0;
	if (s->signal_due) {
		const char *name = s->signal_due == SIGKILL ? "SIGNAL_SIGKILL" : "SIGNAL_SIGTERM";

		s->signal_due = 0;
		return error_trace(control(s, "/process.Process/SendSignal",
					   json_pack("{s:s}", "signal", name)));
	}
	if (s->input_ended) {
		s->input_ended = false;
		return error_trace(control(s, "/process.Process/CloseStdin", json_object()));
	}
	return 0;
}

/* ---- start -------------------------------------------------------------------------------------
 */

static json_t *start_message(const struct exec_options *o)
{
	json_t *process = json_pack("{s:s, s:[]}", "cmd", o->argv[0], "args");
	bool ok = process;

	for (size_t i = 1; ok && i < o->n_argv; i++)
		ok = !json_array_append_new(json_object_get(process, "args"),
					    json_string(o->argv[i]));
	if (ok && json_object_size(o->envs))
		ok = !json_object_set(process, "envs", o->envs);
	if (ok && o->cwd)
		ok = !json_object_set_new(process, "cwd", json_string(o->cwd));
	if (ok)
		return json_pack("{s:o, s:b}", "process", process, "stdin", (int)o->interactive);
	json_decref(process);
	return NULL;
}

static int add_header(struct exec_session *s, size_t *n, char *text)
{
	s->headers[(*n)++] = text;
	return text ? 0 : -ENOMEM;
}

/* Who and where, for every request of the session; those of Start alone are harmless elsewhere. */
static int make_headers(struct exec_session *s)
{
	const struct exec_options *o = s->o;
	_cleanup_access_ struct access access = {0};
	size_t n = 0;
	int r = access_get(s->cli, o->sandbox_id, &s->problem, &access);

	for (; !r && access.headers[n]; n++)
		s->headers[n] = take_ptr(access.headers[n]);
	r = r ? r : add_header(s, &n, str_printf("Connect-Protocol-Version: 1"));
	r = r ? r : add_header(s, &n, str_printf("Keepalive-Ping-Interval: %d", KEEPALIVE_S));
	if (!r && o->user) {
		_cleanup_free_ char *plain = str_printf("%s:", o->user);
		size_t len = plain ? strlen(plain) : 0;
		_cleanup_free_ char *coded = malloc(base64_encoded_len(len) + 1);

		if (!plain || !coded)
			return -ENOMEM;
		(void)base64_encode(plain, len, coded); /* its length is known */
		r = add_header(s, &n, str_printf("Authorization: Basic %s", coded));
	}
	return r;
}

/* The time limit goes to Start only: it bounds the stream, and the command with it. */
static int post_start(struct exec_session *s, const struct buf *body)
{
	const char *headers[ARRAY_SIZE(s->headers) + 1] = {0};
	_cleanup_free_ char *timeout = NULL;
	size_t n = 0;

	for (; n < ARRAY_SIZE(s->headers) && s->headers[n]; n++)
		headers[n] = s->headers[n];
	if (s->o->timeout_s) {
		timeout = str_printf("Connect-Timeout-Ms: %" PRIu64, s->o->timeout_s * 1000);
		if (!timeout)
			return -ENOMEM;
		headers[n] = timeout;
		s->deadline_ns = deadline_after_ms(s->o->timeout_s * 1000 + TIMEOUT_GRACE_MS);
	}
	return http_loop_post(
		s->loop,
		&(struct http_loop_request){.path = "/process.Process/Start",
					    .content_type = "application/connect+json",
					    .answer_type = "application/connect+json",
					    .headers = headers,
					    .body = body->data,
					    .len = body->len,
					    .on_data = on_data,
					    .on_done = on_answer_done,
					    .userdata = s},
		&s->answer);
}

static int start(struct exec_session *s)
{
	_cleanup_buf_ struct buf body = {0};
	json_t *message = start_message(s->o);
	int r;

	if (!message) {
		problem_set(&s->problem, 400,
			    "the command, its directory or environment is not valid UTF-8");
		return error_trace(-EILSEQ);
	}
	r = connect_stream_frame(&body, message);
	json_decref(message);
	if (!r)
		r = make_headers(s);
	if (!r)
		r = post_start(s, &body);
	return error_trace(r);
}

/* ---- the loop ----------------------------------------------------------------------------------
 */

enum { WATCH_SIGNAL, WATCH_INPUT, WATCH_OUT, WATCH_ERR, N_WATCH };

static int handle_fds(struct exec_session *s, const struct pollfd *fds)
{
	if (fds[WATCH_SIGNAL].revents)
		take_signals(s);
	for (int i = 0; i < 2; i++)
		if (fds[WATCH_OUT + i].revents)
			write_some(s, i);
	if (fds[WATCH_INPUT].revents && !s->control_busy && !s->signal_due && s->input_open)
		return error_trace(read_input(s));
	return 0;
}

/* How long the sandbox may say nothing: it must start the command, and go on sending keepalives. */
static unsigned silence_limit_s(const struct exec_session *s)
{
	if (s->paused || s->answer_done)
		return 0;
	if (!s->pid)
		return START_S;
	return s->keepalives ? 3 * KEEPALIVE_S : 0;
}

static uint64_t next_deadline(const struct exec_session *s)
{
	unsigned limit_s = silence_limit_s(s);

	return limit_s ? deadline_min(s->deadline_ns, s->heard_ns + limit_s * NSEC_PER_SEC)
		       : s->deadline_ns;
}

static int step(struct exec_session *s)
{
	bool want_input = s->input_open && s->pid && !s->control_busy && !s->answer_done;
	struct pollfd fds[N_WATCH] = {
		[WATCH_SIGNAL] = {.fd = s->signal_fd, .events = POLLIN},
		[WATCH_INPUT] = {.fd = want_input ? STDIN_FILENO : -1, .events = POLLIN},
		[WATCH_OUT] = {.fd = s->out[0].len ? STDOUT_FILENO : -1, .events = POLLOUT},
		[WATCH_ERR] = {.fd = s->out[1].len ? STDERR_FILENO : -1, .events = POLLOUT},
	};
	int r = http_loop_wait(s->loop, fds, N_WATCH, deadline_poll_ms(next_deadline(s)));

	if (!r)
		r = handle_fds(s, fds);
	return error_trace(r ? r : send_due(s));
}

static void run(struct exec_session *s)
{
	int r = start(s);

	while (!r && !(s->answer_done && !s->out[0].len && !s->out[1].len)) {
		if (deadline_passed(s->deadline_ns)) {
			s->timed_out = true;
			return;
		}
		if (deadline_passed(next_deadline(s))) {
			problem_set(&s->problem, 504, "the sandbox has been silent for %u s",
				    silence_limit_s(s));
			return;
		}
		r = step(s);
	}
	if (!r)
		return;
	problem_errno(&s->problem, r, "cannot run '%s'", s->o->argv[0]);
	s->exit_code = -1; /* of its output something may be missing */
}

/* ---- the end -----------------------------------------------------------------------------------
 */

static int report_start_error(struct exec_session *s)
{
	const struct connect_stream *st = &s->stream;
	struct problem p = PROBLEM_INIT;
	int code = process_start_error(st->code, st->message);

	if (code == CLI_TIMEOUT && s->o->timeout_s)
		problem_set(&p, 504, "'%s' was ended: its time limit of %" PRIu64 " s passed",
			    s->o->argv[0], s->o->timeout_s);
	else if (st->message[0])
		problem_set(&p, 500, "%s", st->message);
	else
		problem_set(&p, 500, "the sandbox gave up on '%s': %s", s->o->argv[0], st->code);
	output_problem(&p);
	return code;
}

static int conclude(struct exec_session *s)
{
	if (s->forced_code) {
		if (problem_is_set(&s->problem) && s->forced_code == CLI_OWN)
			output_problem(&s->problem);
		return s->forced_code;
	}
	if (s->exit_code >= 0)
		return s->exit_code;
	if (s->stream.ended && s->stream.code[0])
		return report_start_error(s);
	if (s->timed_out)
		problem_set(&s->problem, 504, "'%s' did not end within its time limit",
			    s->o->argv[0]);
	if (s->stream.ended)
		problem_set(&s->problem, 502, "the sandbox did not say how '%s' ended",
			    s->o->argv[0]);
	if (s->problem.status == 502 || s->problem.status == 404)
		problem_hint(&s->problem,
			     "see what state it is in with `dorm ps -a`; wake a sleeping one "
			     "with `dorm wake %s`",
			     s->o->sandbox_id);
	output_problem(&s->problem);
	return s->timed_out ? CLI_TIMEOUT : CLI_OWN;
}

static void deinit(struct exec_session *s)
{
	http_loop_free(s->loop);
	connect_stream_deinit(&s->stream);
	for (size_t i = 0; i < ARRAY_SIZE(s->headers); i++)
		free(s->headers[i]);
	for (int i = 0; i < 2; i++)
		buf_deinit(&s->out[i]);
	fd_close(s->signal_fd);
}

int exec_session_run(const struct cli *cli, const struct exec_options *options)
{
	struct exec_session s = {.cli = cli,
				 .o = options,
				 .exit_code = -1,
				 .signal_fd = -1,
				 .input_open = options->interactive,
				 .heard_ns = clock_now_ns(),
				 .deadline_ns = DEADLINE_NEVER,
				 .stream = {.on_message = on_message}};
	void (*old_pipe)(int) = signal(SIGPIPE, SIG_IGN);
	sigset_t set, old;
	int code;

	s.stream.userdata = &s;
	fill_signals(&set);
	exec_signals_block(&old);
	(void)fflush(stdout); /* we write past stdio from here on */
	s.signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s.signal_fd < 0)
		problem_errno(&s.problem, -errno, "cannot receive signals");
	else if (!http_loop_new(cli->socket, &s.problem, &s.loop))
		run(&s);
	code = conclude(&s);
	deinit(&s);
	exec_signals_restore(&old);
	(void)signal(SIGPIPE, old_pipe);
	return code;
}
