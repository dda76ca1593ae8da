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
#include "cli/connect-stream.h"
#include "cli/http-loop.h"
#include "cli/http.h"
#include "cli/output.h"
#include "cli/process-event.h"
#include "cli/sandbox-call.h"
#include "cli/terminal.h"

#define MAX_BUFFERED	 (256u << 10) /* output that waits for our reader */
#define INPUT_CHUNK	 (48u << 10)  /* 64 KiB in base64 */
#define CONTROL_MS	 30000
#define TIMEOUT_GRACE_MS 10000 /* the sandbox ends a command that is late; we only make sure */
#define STOP_GRACE_MS	 10000 /* for a command that we ended for a reason of our own */
#define KEEPALIVE_S	 50
#define START_S		 60
#define SIGNALS_TO_LEAVE 3
#define LEAVE_KEY	 0x1d	/* Ctrl-], as in telnet(1) */
#define END_OF_INPUT	 "\x04" /* Ctrl-D: what a terminal has instead of an end of file */

struct exec_session {
	const struct cli *cli;
	const struct exec_options *o;
	struct http_loop *loop;
	struct http_loop_handle *answer;
	struct connect_stream stream;
	struct problem problem;
	struct sandbox_headers headers;
	const char *what; /* the command, or what we follow, for messages */

	uint64_t pid; /* 0: not started yet */
	bool control_busy, answer_done;
	int exit_code; /* -1: not known yet */

	struct buf out[2]; /* for descriptors 1 and 2 */
	bool out_broken[2];
	bool paused;

	bool input_open, input_ended; /* still read from; CloseStdin is due */
	int signal_fd, signal_due;    /* SIGTERM or SIGKILL to be sent; 0: none */
	bool keys;		      /* our terminal is raw, or will be when it starts */
	bool resize_due;
	bool leaving; /* when nothing is under way; the command goes on */
	int leave_code;
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
	(void)sigaddset(set, SIGWINCH);
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

/* Go without the command, when what was typed has been delivered. */
static void leave(struct exec_session *s, int code)
{
	s->leaving = true;
	s->leave_code = code;
	s->input_open = s->input_ended = false;
	s->deadline_ns = deadline_min(s->deadline_ns, deadline_after_ms(STOP_GRACE_MS));
}

static void take_signal(struct exec_session *s, int number)
{
	if (number == SIGWINCH) {
		s->resize_due = s->keys;
		return;
	}
	s->n_signals++;
	if (s->n_signals >= SIGNALS_TO_LEAVE) {
		s->forced_code = CLI_SIGNAL + number;
		s->deadline_ns = 0;
	} else if (s->o->attach || (s->keys && number == SIGHUP)) {
		leave(s, CLI_SIGNAL + number);
	} else {
		s->signal_due = s->n_signals == 1 ? SIGTERM : SIGKILL;
	}
}

static void take_signals(struct exec_session *s)
{
	struct signalfd_siginfo info;

	while (read(s->signal_fd, &info, sizeof(info)) == sizeof(info))
		take_signal(s, (int)info.ssi_signo);
}

/* ---- output ------------------------------------------------------------------------------------
 */

static void on_started(struct exec_session *s)
{
	if (s->o->detach) {
		leave(s, CLI_OK);
		return;
	}
	if (!s->keys)
		return;
	s->resize_due = true; /* it may have changed since we asked */
	if (terminal_make_raw(STDIN_FILENO) < 0)
		s->keys = s->input_open = false; /* the terminal has gone this moment */
}

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
		on_started(s);
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
			    s->o->sandbox_id, s->what);
		problem_hint(&s->problem,
			     "that happens when a sandbox is put to sleep, snapshotted or forked "
			     "(the command goes on in it: `dorm attach %s %" PRIu64
			     "`), or when it ends: look with `dorm ps -a`",
			     s->o->sandbox_id, s->pid);
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
	if (s->o->attach) /* it is not ours to end */
		leave(s, error == EPIPE ? CLI_SIGNAL + SIGPIPE : CLI_OWN);
	else
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
					    .headers = (const char *const *)s->headers.list,
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
	return error_trace(
		control(s, "/process.Process/SendInput",
			json_pack("{s:{s:s}}", "input", s->o->tty ? "pty" : "stdin", text)));
}

/* What is before the key that leaves still goes to the command. */
static int send_keys(struct exec_session *s, const char *data, size_t len)
{
	const char *key = s->keys ? memchr(data, LEAVE_KEY, len) : NULL;

	if (key) {
		leave(s, CLI_OK);
		len = (size_t)(key - data);
	}
	return len ? error_trace(send_input(s, data, len)) : 0;
}

static int read_input(struct exec_session *s)
{
	char data[INPUT_CHUNK];
	ssize_t n = read(STDIN_FILENO, data, sizeof(data));

	if (n > 0)
		return error_trace(send_keys(s, data, (size_t)n));
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (s->keys) { /* the terminal is gone */
		leave(s, CLI_SIGNAL + SIGHUP);
		return 0;
	}
	/* the end, or a standard input that cannot be read, which is as good as none */
	s->input_open = false;
	s->input_ended = true;
	return 0;
}

static int send_size(struct exec_session *s)
{
	struct terminal_size size;

	s->resize_due = false;
	if (terminal_size(STDIN_FILENO, &size) < 0)
		return 0;
	return error_trace(control(s, "/process.Process/Update",
				   json_pack("{s:{s:{s:i, s:i}}}", "pty", "size", "cols", size.cols,
					     "rows", size.rows)));
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
	if (s->resize_due)
		return error_trace(send_size(s));
	if (s->input_ended) {
		s->input_ended = false;
		if (s->o->tty)
			return error_trace(send_input(s, END_OF_INPUT, 1));
		return error_trace(control(s, "/process.Process/CloseStdin", json_object()));
	}
	return 0;
}

/* ---- start -------------------------------------------------------------------------------------
 */

static json_t *words(char *const *argv, size_t n)
{
	json_t *list = json_array();
	bool ok = list;

	for (size_t i = 0; ok && i < n; i++)
		ok = !json_array_append_new(list, json_string(argv[i]));
	if (ok)
		return list;
	json_decref(list);
	return NULL;
}

/* -e's, and what kind of terminal it is */
static json_t *environment(const struct exec_options *o)
{
	json_t *envs = o->envs ? json_copy(o->envs) : json_object();
	const char *term = getenv("TERM");

	if (envs && o->tty && term && !json_object_get(envs, "TERM") &&
	    json_object_set_new(envs, "TERM", json_string(term))) {
		json_decref(envs);
		return NULL;
	}
	return envs;
}

/* The terminal is as large as ours, standard input or output. */
static int add_pty(json_t *message)
{
	struct terminal_size size;

	if (terminal_size(STDIN_FILENO, &size) < 0)
		(void)terminal_size(STDOUT_FILENO, &size); /* or a usual size */
	return json_object_set_new(
		message, "pty",
		json_pack("{s:{s:i, s:i}}", "size", "cols", size.cols, "rows", size.rows));
}

/* NULL: not UTF-8, or no memory */
static json_t *start_message(const struct exec_session *s)
{
	const struct exec_options *o = s->o;
	json_t *process, *message;
	bool ok;

	if (o->attach)
		return json_pack("{s:o}", "process", sandbox_selector(o->attach));
	process = json_pack("{s:s, s:o}", "cmd", o->argv[0], "args",
			    words(o->argv + 1, o->n_argv - 1));
	ok = process;
	if (ok && (json_object_size(o->envs) || o->tty))
		ok = !json_object_set_new(process, "envs", environment(o));
	if (ok && o->cwd)
		ok = !json_object_set_new(process, "cwd", json_string(o->cwd));
	message =
		json_pack("{s:o?, s:b}", "process", process, "stdin", s->input_open && !o->detach);
	if (ok && message && o->tag)
		ok = !json_object_set_new(message, "tag", json_string(o->tag));
	if (ok && message && o->tty)
		ok = !add_pty(message);
	if (ok)
		return message;
	json_decref(message);
	return NULL;
}

/* Who and where, for every request of the session; those of Start alone are harmless elsewhere. */
static int make_headers(struct exec_session *s)
{
	int r = sandbox_headers_init(s->cli->socket, s->o->sandbox_id, s->o->user, &s->problem,
				     &s->headers);

	return r ? r
		 : sandbox_headers_add(&s->headers,
				       str_printf("Keepalive-Ping-Interval: %d", KEEPALIVE_S));
}

/* The time limit goes to Start only: it bounds the stream, and the command with it. */
static int post_start(struct exec_session *s, const struct buf *body)
{
	const char *headers[SANDBOX_MAX_HEADERS + 2] = {0};
	_cleanup_free_ char *timeout = NULL;
	size_t n = 0;

	for (; s->headers.list[n]; n++)
		headers[n] = s->headers.list[n];
	if (s->o->timeout_s) {
		timeout = str_printf("Connect-Timeout-Ms: %" PRIu64, s->o->timeout_s * 1000);
		if (!timeout)
			return -ENOMEM;
		headers[n] = timeout;
		s->deadline_ns = deadline_after_ms(s->o->timeout_s * 1000 + TIMEOUT_GRACE_MS);
	}
	return http_loop_post(
		s->loop,
		&(struct http_loop_request){.path = s->o->attach ? "/process.Process/Connect"
								 : "/process.Process/Start",
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
	json_t *message = start_message(s);
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
		if (s->leaving && !s->control_busy)
			return;
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
	problem_errno(&s->problem, r, "cannot run '%s'", s->what);
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
			    s->what, s->o->timeout_s);
	else if (st->message[0])
		problem_set(&p, 500, "%s", st->message);
	else
		problem_set(&p, 500, "the sandbox gave up on '%s': %s", s->what, st->code);
	output_problem(&p);
	return code;
}

/* How to come back; the pid of a detached one is the result of the command. */
static int report_left(const struct exec_session *s, const struct cli *cli)
{
	if (s->o->detach)
		(void)printf("%" PRIu64 "\n", s->pid);
	else if (cli->tty_err)
		(void)fprintf(stderr,
			      "dorm: left '%s', which goes on; `dorm attach %s %" PRIu64
			      "` returns to it\n",
			      s->what, s->o->sandbox_id, s->pid);
	return s->leave_code;
}

static int conclude(struct exec_session *s, const struct cli *cli)
{
	if (s->leaving && s->exit_code < 0 && !s->forced_code && s->pid) {
		if (problem_is_set(&s->problem))
			output_problem(&s->problem);
		return report_left(s, cli);
	}
	if (s->forced_code) {
		if (problem_is_set(&s->problem) && s->forced_code == CLI_OWN)
			output_problem(&s->problem);
		return s->forced_code;
	}
	if (s->exit_code >= 0)
		return s->exit_code;
	if (s->stream.ended && s->stream.code[0])
		return report_start_error(s);
	if (s->leaving) /* before it had begun */
		return s->leave_code;
	if (s->timed_out)
		problem_set(&s->problem, 504, "'%s' did not end within its time limit", s->what);
	if (s->stream.ended)
		problem_set(&s->problem, 502, "the sandbox did not say how '%s' ended", s->what);
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
	sandbox_headers_deinit(&s->headers);
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
				 .what = options->attach ? options->attach : options->argv[0],
				 .keys = options->tty && !options->detach && isatty(STDIN_FILENO),
				 .heard_ns = clock_now_ns(),
				 .deadline_ns = DEADLINE_NEVER,
				 .stream = {.on_message = on_message}};
	void (*old_pipe)(int) = signal(SIGPIPE, SIG_IGN);
	sigset_t set, old;
	int code;

	s.stream.userdata = &s;
	s.input_open = (options->interactive || s.keys) && !options->detach;
	fill_signals(&set);
	exec_signals_block(&old);
	(void)fflush(stdout); /* we write past stdio from here on */
	s.signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s.signal_fd < 0)
		problem_errno(&s.problem, -errno, "cannot receive signals");
	else if (!http_loop_new(cli->socket, &s.problem, &s.loop))
		run(&s);
	terminal_restore();
	code = conclude(&s, cli);
	deinit(&s);
	exec_signals_restore(&old);
	(void)signal(SIGPIPE, old_pipe);
	return code;
}
