/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a program is three things in any order: the ends of its two pipes, and SIGCHLD. `end`
 * is sent when all three are in, so all output comes before it. But a background child may hold a
 * pipe open for ever ("server & exit"): after the exit, silence of GRACE_MS ends the wait, and so
 * do GRACE_MAX_MS of chatter. Time during which the client makes us wait does not count: what the
 * program itself wrote is never cut off.
 */
#include "agent/process.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/connect-proto.h"
#include "base/base64.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "channel/fifo.h"

#define OUTPUT_CHUNK 32768u
#define OUTPUT_HIGH  (256u * 1024) /* stop reading the program's output */
#define GRACE_MS     100u
#define GRACE_MAX_MS 1000u

enum process_state { PROCESS_STARTING, PROCESS_RUNNING, PROCESS_EXITED, PROCESS_ENDED };

struct output {
	struct process *p;
	const char *name; /* "stdout", "stderr" */
	int fd;
	struct loop_source *source; /* NULL while the client is slow */
};

/* Some client's input, or what is left of it. */
struct input {
	struct input *next;
	struct request *rq; /* to be answered; NULL when it went away */
	struct fifo data;
};

struct process {
	struct process_table *table;
	struct process *next, **prev;
	enum process_state state;
	bool reaped;
	int wait_status;
	pid_t pid;
	json_t *config;
	char *tag;
	char *cwd; /* for messages */
	struct request *rq;
	int exec_fd;
	struct loop_source *exec_source;
	struct output out[2];
	int in_fd;
	struct loop_source *in_source;
	struct input *inputs; /* first is being written */
	size_t input_len;
	bool in_close; /* when inputs is empty */
	uint64_t timeout_ms, keepalive_ms;
	struct loop_timer timeout, keepalive, grace;
	uint64_t sent_ns; /* last message to the client */
	uint64_t read_ns; /* last output after the exit */
	uint64_t grace_end_ns;
};

struct process_table {
	struct agent *agent;
	struct process *first;
	unsigned n;
	char chunk[OUTPUT_CHUNK];
};

static void process_unlink(struct process *p)
{
	*p->prev = p->next;
	if (p->next)
		p->next->prev = p->prev;
	p->table->n--;
}

static void output_close(struct output *o)
{
	o->source = loop_remove(o->source);
	o->fd = fd_close(o->fd);
}

/* --- input -------------------------------------------------------------------------------------
 */

static void on_input_closed(struct request *rq)
{
	struct input *in = rq->keeper;

	in->rq = NULL;
}

static void input_free(struct input *in)
{
	fifo_deinit(&in->data);
	free(in);
}

static void input_answer(struct input *in, bool ok)
{
	struct request *rq = in->rq;

	if (!rq)
		return;
	request_release(rq);
	if (ok)
		connect_unary_reply(rq, json_object());
	else
		connect_unary_fail(rq, CONNECT_FAILED_PRECONDITION,
				   "the process does not read its standard input any more");
}

/* Nobody will read: answer all that wait. */
static void process_shut_input(struct process *p)
{
	p->in_source = loop_remove(p->in_source);
	p->in_fd = fd_close(p->in_fd);
	while (p->inputs) {
		struct input *in = p->inputs;

		p->inputs = in->next;
		input_answer(in, false);
		input_free(in);
	}
	p->input_len = 0;
}

/* Return: true when the first input is written completely */
static bool input_write(struct process *p, struct input *in)
{
	while (in->data.len) {
		ssize_t n = write(p->in_fd, fifo_front(&in->data), in->data.len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			process_shut_input(p);
		if (n < 0)
			return false;
		fifo_consume(&in->data, (size_t)n);
		p->input_len -= (size_t)n;
	}
	return true;
}

static void on_input_ready(void *userdata, uint32_t events);

static void process_pump_input(struct process *p)
{
	while (p->inputs && input_write(p, p->inputs)) {
		struct input *in = p->inputs;

		p->inputs = in->next;
		input_answer(in, true);
		input_free(in);
	}
	if (!p->inputs && p->in_close)
		process_shut_input(p);
	if (!p->inputs)
		p->in_source = loop_remove(p->in_source);
	else if (!p->in_source && loop_add(p->table->agent->loop, p->in_fd, EPOLLOUT,
					   on_input_ready, p, &p->in_source) < 0)
		process_shut_input(p);
}

static void on_input_ready(void *userdata, uint32_t events)
{
	process_pump_input(userdata);
}

int process_input(struct process *p, struct request *rq, const void *data, size_t len)
{
	struct input *in, **end = &p->inputs;

	if (p->in_fd < 0 || p->in_close)
		return -EPIPE;
	if (p->input_len + len > PROCESS_INPUT_MAX)
		return -ENOSPC;
	in = calloc(1, sizeof(*in));
	if (!in || fifo_append(&in->data, data, len) < 0) {
		free(in);
		return -ENOMEM;
	}
	in->rq = rq;
	request_keep(rq, in, on_input_closed, NULL);
	while (*end)
		end = &(*end)->next;
	*end = in;
	p->input_len += len;
	process_pump_input(p);
	return 0;
}

int process_close_input(struct process *p)
{
	if (p->in_fd < 0)
		return -EPIPE;
	p->in_close = true;
	process_pump_input(p);
	return 0;
}

/* --- the client --------------------------------------------------------------------------------
 */

static void process_send(struct process *p, const char *json, size_t len)
{
	if (!p->rq)
		return;
	connect_stream_send(p->rq, json, len);
	p->sent_ns = clock_now_ns();
}

static void process_send_text(struct process *p, const char *json)
{
	process_send(p, json, strlen(json));
}

/* No event has anything that JSON would have to escape. */
static void process_send_data(struct process *p, const char *name, const void *data, size_t len)
{
	char json[64 + OUTPUT_CHUNK / 3 * 4 + 8];
	size_t n = (size_t)snprintf(json, 64, "{\"event\":{\"data\":{\"%s\":\"", name);

	n += base64_encode(data, len, json + n);
	memcpy(json + n, "\"}}}", 4);
	process_send(p, json, n + 4);
}

/* "exit status 3", "signal: killed", "signal: segmentation fault (core dumped)" */
static void describe_status(int status, char *buf, size_t size)
{
	const char *name = WIFSIGNALED(status) ? sigdescr_np(WTERMSIG(status)) : NULL;

	if (WIFEXITED(status))
		(void)snprintf(buf, size, "exit status %d", WEXITSTATUS(status)); /* fits */
	else
		(void)snprintf(buf, size, "signal: %s%s", name ? name : "unknown",
			       WCOREDUMP(status) ? " (core dumped)" : ""); /* fits */
	for (char *c = buf; !WIFEXITED(status) && *c; c++)
		if (*c >= 'A' && *c <= 'Z')
			*c = (char)(*c + 'a' - 'A');
}

static void process_send_end(struct process *p)
{
	bool exited = WIFEXITED(p->wait_status);
	int code = exited ? WEXITSTATUS(p->wait_status) : -1;
	char status[96], error[128] = "", json[320];

	describe_status(p->wait_status, status, sizeof(status));
	if (code != 0)
		(void)snprintf(error, sizeof(error), ",\"error\":\"%s\"", status); /* fits */
	(void)snprintf(json, sizeof(json),
		       "{\"event\":{\"end\":{\"exitCode\":%d,\"exited\":%s,\"status\":\"%s\"%s}}}",
		       code, exited ? "true" : "false", status, error); /* fits */
	process_send_text(p, json);
}

/* The stream is over. @rq is somebody else's from here. */
static struct request *process_detach(struct process *p)
{
	struct request *rq = p->rq;

	p->rq = NULL;
	loop_timer_clear(&p->keepalive);
	loop_timer_clear(&p->timeout);
	if (rq)
		request_release(rq);
	return rq;
}

static void on_keepalive(void *userdata)
{
	struct process *p = userdata;
	uint64_t due_ns = p->sent_ns + p->keepalive_ms * NSEC_PER_MSEC;

	if (clock_now_ns() >= due_ns) {
		process_send_text(p, "{\"event\":{\"keepalive\":{}}}");
		due_ns = p->sent_ns + p->keepalive_ms * NSEC_PER_MSEC;
	}
	loop_timer_set(p->table->agent->loop, &p->keepalive, due_ns);
}

static void process_kill(struct process *p)
{
	if (p->reaped)
		return;
	if (kill(-p->pid, SIGKILL) < 0) /* not yet a group leader */
		(void)kill(p->pid, SIGKILL);
}

static void process_watch_output(struct process *p);

static void on_timeout(void *userdata)
{
	struct process *p = userdata;
	struct request *rq = process_detach(p);

	process_kill(p);
	process_watch_output(p);
	if (rq)
		connect_stream_fail(rq, CONNECT_DEADLINE_EXCEEDED,
				    "the process was killed after %llu ms, its deadline",
				    (unsigned long long)p->timeout_ms);
}

/* --- output ------------------------------------------------------------------------------------
 */

static void process_finish(struct process *p);
static void process_settle(struct process *p);
static void on_output(void *userdata, uint32_t events);

/* Return: true when the client has as much as it should have */
static bool process_is_held(struct process *p)
{
	return p->rq && server_stream_buffered(p->rq->stream) > OUTPUT_HIGH;
}

static void process_hold(struct process *p)
{
	for (size_t i = 0; i < ARRAY_SIZE(p->out); i++)
		p->out[i].source = loop_remove(p->out[i].source);
	server_stream_want_writable(p->rq->stream);
}

static void process_watch_output(struct process *p)
{
	if (p->state == PROCESS_STARTING)
		return; /* process_exec_result() does it: `start` goes first */
	for (size_t i = 0; i < ARRAY_SIZE(p->out); i++) {
		struct output *o = &p->out[i];

		if (o->fd >= 0 && !o->source &&
		    loop_add(p->table->agent->loop, o->fd, EPOLLIN, on_output, o, &o->source) < 0)
			output_close(o); /* no memory: its writer sees a broken pipe */
	}
}

/* Return: true when there may be more */
static bool output_read(struct output *o)
{
	struct process *p = o->p;
	ssize_t n = read(o->fd, p->table->chunk, OUTPUT_CHUNK);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		output_close(o);
		return false;
	}
	p->read_ns = clock_now_ns();
	if (p->state != PROCESS_ENDED && p->rq)
		process_send_data(p, o->name, p->table->chunk, (size_t)n);
	return true;
}

/* One read per event: the streams of a thousand programs take turns. */
static void on_output(void *userdata, uint32_t events)
{
	struct output *o = userdata;
	struct process *p = o->p;

	(void)output_read(o); /* more raises another event */
	if (process_is_held(p))
		process_hold(p);
	process_settle(p);
}

static void on_client_writable(struct request *rq)
{
	process_watch_output(rq->keeper);
}

static void on_client_closed(struct request *rq)
{
	struct process *p = rq->keeper;

	(void)process_detach(p);
	process_watch_output(p);
}

/* --- life --------------------------------------------------------------------------------------
 */

static void process_free(struct process *p)
{
	loop_timer_clear(&p->timeout);
	loop_timer_clear(&p->keepalive);
	loop_timer_clear(&p->grace);
	loop_remove(p->exec_source);
	fd_close(p->exec_fd);
	output_close(&p->out[0]);
	output_close(&p->out[1]);
	process_shut_input(p);
	process_unlink(p);
	json_decref(p->config);
	free(p->tag);
	free(p->cwd);
	free(p);
}

/* What was in the pipes when the grace ended, and no more: somebody may be writing for ever. */
static void process_drain(struct process *p)
{
	for (size_t i = 0; i < ARRAY_SIZE(p->out); i++) {
		int left = 0;

		if (p->out[i].fd >= 0)
			(void)ioctl(p->out[i].fd, FIONREAD, &left); /* fails: 0 left */
		for (; left > 0 && p->out[i].fd >= 0; left -= (int)OUTPUT_CHUNK)
			(void)output_read(&p->out[i]);
	}
}

static void process_finish(struct process *p)
{
	struct request *rq;

	process_drain(p);
	process_send_end(p);
	rq = process_detach(p);
	if (rq)
		connect_stream_end(rq);
	loop_timer_clear(&p->grace);
	process_shut_input(p);
	p->state = PROCESS_ENDED;
	process_watch_output(p);
}

/* Go on to whatever comes next; @p may be gone afterwards. */
static void process_settle(struct process *p)
{
	bool open = p->out[0].fd >= 0 || p->out[1].fd >= 0;

	if (p->state == PROCESS_EXITED && !open)
		process_finish(p);
	if (p->state == PROCESS_ENDED && p->reaped && !open)
		process_free(p);
}

static void on_grace(void *userdata)
{
	struct process *p = userdata;
	uint64_t now_ns = clock_now_ns();

	if (process_is_held(p)) {
		p->grace_end_ns = now_ns + GRACE_MAX_MS * NSEC_PER_MSEC;
		loop_timer_set(p->table->agent->loop, &p->grace, deadline_after_ms(GRACE_MS));
	} else if (now_ns < p->grace_end_ns && now_ns - p->read_ns < GRACE_MS * NSEC_PER_MSEC) {
		loop_timer_set(p->table->agent->loop, &p->grace,
			       p->read_ns + GRACE_MS * NSEC_PER_MSEC);
	} else {
		process_finish(p);
		process_settle(p);
	}
}

static void process_fail_start(struct process *p, const struct spawn_failure *f)
{
	struct request *rq = process_detach(p);
	const char *cmd = json_string_value(json_object_get(p->config, "cmd"));
	const char *why = strerrordesc_np(f->error);

	p->state = PROCESS_ENDED;
	output_close(&p->out[0]);
	output_close(&p->out[1]);
	process_shut_input(p);
	if (!rq)
		return;
	if (f->stage == SPAWN_CWD && f->error == ENOENT)
		connect_stream_fail(rq, CONNECT_INVALID_ARGUMENT, "cwd '%.300s' does not exist",
				    p->cwd);
	else if (f->stage == SPAWN_CWD)
		connect_stream_fail(rq, CONNECT_INVALID_ARGUMENT, "cwd '%.300s': %s", p->cwd, why);
	else if (f->stage == SPAWN_EXEC)
		connect_stream_fail(rq, CONNECT_INVALID_ARGUMENT, "cannot run '%.300s': %s",
				    cmd ? cmd : "", why);
	else
		connect_stream_fail(rq, CONNECT_INTERNAL, "cannot prepare the process: %s", why);
}

/* exec_fd is readable: either the end of it, or why not. */
static void process_exec_result(struct process *p)
{
	struct spawn_failure f;
	ssize_t n = read(p->exec_fd, &f, sizeof(f));
	char json[64];

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	p->exec_source = loop_remove(p->exec_source);
	p->exec_fd = fd_close(p->exec_fd);
	if (n == sizeof(f)) {
		process_fail_start(p, &f);
		return;
	}
	p->state = PROCESS_RUNNING;
	(void)snprintf(json, sizeof(json), "{\"event\":{\"start\":{\"pid\":%d}}}",
		       p->pid); /* fits */
	process_send_text(p, json);
	process_watch_output(p);
}

static void on_exec(void *userdata, uint32_t events)
{
	struct process *p = userdata;

	process_exec_result(p);
	process_settle(p);
}

bool process_reaped(struct process_table *t, pid_t pid, int wait_status)
{
	struct process *p = t->first;

	while (p && (p->pid != pid || p->reaped))
		p = p->next;
	if (!p)
		return false;
	if (p->state == PROCESS_STARTING)
		process_exec_result(p);
	if (p->state == PROCESS_STARTING) { /* killed before it could say anything */
		p->exec_source = loop_remove(p->exec_source);
		process_fail_start(p, &(struct spawn_failure){SPAWN_EXEC, EINTR});
	}
	p->reaped = true;
	p->wait_status = wait_status;
	if (p->state == PROCESS_RUNNING) {
		p->state = PROCESS_EXITED;
		p->read_ns = clock_now_ns();
		p->grace_end_ns = deadline_after_ms(GRACE_MAX_MS);
		loop_timer_set(t->agent->loop, &p->grace, deadline_after_ms(GRACE_MS));
	}
	process_settle(p);
	return true;
}

static int process_new(struct process_table *t, const struct spawn_config *spawn,
		       const struct process_options *o, struct process **ret)
{
	struct process *p = calloc(1, sizeof(*p));

	if (!p)
		return error_trace(-ENOMEM);
	p->table = t;
	p->exec_fd = p->in_fd = -1;
	p->out[0] = (struct output){.p = p, .name = "stdout", .fd = -1};
	p->out[1] = (struct output){.p = p, .name = "stderr", .fd = -1};
	p->config = json_incref(o->config);
	p->cwd = strdup(spawn->cwd);
	p->tag = o->tag ? strdup(o->tag) : NULL;
	p->timeout_ms = o->timeout_ms;
	p->keepalive_ms = o->keepalive_ms;
	p->timeout = (struct loop_timer){.fire = on_timeout, .userdata = p};
	p->keepalive = (struct loop_timer){.fire = on_keepalive, .userdata = p};
	p->grace = (struct loop_timer){.fire = on_grace, .userdata = p};
	p->next = t->first;
	p->prev = &t->first;
	if (p->next)
		p->next->prev = &p->next;
	t->first = p;
	t->n++;
	if (!p->cwd || (o->tag && !p->tag)) {
		process_free(p);
		return error_trace(-ENOMEM);
	}
	*ret = p;
	return 0;
}

static void process_attach(struct process *p, struct request *rq)
{
	struct loop *l = p->table->agent->loop;

	p->rq = rq;
	p->sent_ns = clock_now_ns();
	request_keep(rq, p, on_client_closed, on_client_writable);
	loop_timer_set(l, &p->keepalive, p->sent_ns + p->keepalive_ms * NSEC_PER_MSEC);
	if (p->timeout_ms)
		loop_timer_set(l, &p->timeout, deadline_after_ms(p->timeout_ms));
}

int process_start(struct process_table *t, struct request *rq, const struct spawn_config *spawn,
		  const struct process_options *options)
{
	struct process *p = NULL;
	struct spawn s;
	int r;

	if (t->n >= PROCESS_MAX)
		return -EAGAIN;
	r = process_new(t, spawn, options, &p);
	if (r < 0)
		return r;
	r = spawn_start(spawn, &s);
	if (r < 0) {
		process_free(p);
		return r;
	}
	p->pid = s.pid;
	p->exec_fd = s.exec_fd;
	p->in_fd = s.stdin_fd;
	p->out[0].fd = s.stdout_fd;
	p->out[1].fd = s.stderr_fd;
	process_attach(p, rq);
	r = loop_add(t->agent->loop, p->exec_fd, EPOLLIN, on_exec, p, &p->exec_source);
	if (r < 0) { /* it runs, and nobody would know: not for long */
		process_kill(p);
		(void)process_detach(p);
		p->state = PROCESS_ENDED;
		output_close(&p->out[0]);
		output_close(&p->out[1]);
	}
	return r;
}

/* --- the table ---------------------------------------------------------------------------------
 */

int process_table_new(struct agent *a, struct process_table **ret)
{
	struct process_table *t = calloc(1, sizeof(*t));

	if (!t)
		return error_trace(-ENOMEM);
	t->agent = a;
	*ret = t;
	return 0;
}

struct process_table *process_table_free(struct process_table *t)
{
	while (t && t->first) {
		process_kill(t->first);
		(void)process_detach(t->first);
		process_free(t->first);
	}
	free(t);
	return NULL;
}

static bool process_is_live(const struct process *p)
{
	return p->state == PROCESS_STARTING || p->state == PROCESS_RUNNING;
}

struct process *process_find(struct process_table *t, pid_t pid, const char *tag)
{
	for (struct process *p = t->first; p; p = p->next)
		if (process_is_live(p) && (tag ? p->tag && !strcmp(p->tag, tag) : p->pid == pid))
			return p;
	return NULL;
}

json_t *process_list(struct process_table *t)
{
	json_t *list = json_array();

	for (struct process *p = t->first; p; p = p->next) {
		json_t *o;

		if (!process_is_live(p))
			continue;
		o = json_pack("{s:O, s:i}", "config", p->config, "pid", (int)p->pid);
		if (p->tag)
			(void)json_object_set_new(o, "tag", json_string(p->tag));
		(void)json_array_append_new(list, o); /* short of memory: a shorter list */
	}
	return list;
}

int process_signal(struct process *p, int sig)
{
	if (p->reaped)
		return -ESRCH;
	return kill(-p->pid, sig) < 0 ? -errno : 0;
}
