/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a program is three things in any order: the ends of its two pipes, and SIGCHLD. `end`
 * is sent when all three are in, so all output comes before it. But a background child may hold a
 * pipe, or the terminal, open for ever ("server & exit"): after the exit, silence of GRACE_MS ends
 * the wait, and so do GRACE_MAX_MS of chatter. What the program itself wrote is never cut off,
 * however slow its clients are: that is what was in the pipes when it ended, and it is counted
 * (output.owed).
 */
#include "agent/process-internal.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "agent/event.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"

#define PIPE_CHUNK   32768u
#define PTY_CHUNK    16384u
#define GRACE_MS     100u
#define GRACE_MAX_MS 1000u

static struct loop *process_loop(struct process *p)
{
	return p->table->agent->loop;
}

static void process_close(struct process *p)
{
	output_close(&p->out[0]);
	output_close(&p->out[1]);
	input_queue_shut(&p->in);
}

void process_kill(struct process *p)
{
	if (p->cell)
		(void)cell_kill(p->cell); /* too old a kernel: the process group has to do */
	if (p->reaped)
		return;
	if (kill(-p->pid, SIGKILL) < 0) /* not yet a group leader */
		(void)kill(p->pid, SIGKILL);
}

static void on_timeout(void *userdata)
{
	process_kill(userdata); /* the one who started it is told by its own timer */
}

/* --- output ------------------------------------------------------------------------------------
 */

static void process_settle(struct process *p);

static void process_watch_output(struct process *p)
{
	if (p->state == PROCESS_STARTING || audience_is_held(&p->audience))
		return; /* process_exec_result() does it: `start` goes first; or on_room() */
	for (size_t i = 0; i < ARRAY_SIZE(p->out); i++)
		output_watch(&p->out[i], process_loop(p));
}

static void on_output(struct output *o, const void *data, size_t len)
{
	struct process *p = o->userdata;
	char text[EVENT_DATA_TEXT_MAX];

	p->read_ns = clock_now_ns();
	if (p->state != PROCESS_ENDED && p->audience.n)
		audience_send(&p->audience, text, event_data(o->name, data, len, text));
}

static void on_output_step(struct output *o)
{
	struct process *p = o->userdata;

	for (size_t i = 0; audience_is_held(&p->audience) && i < ARRAY_SIZE(p->out); i++)
		output_unwatch(&p->out[i]);
	process_settle(p);
}

/* The clients can take more. */
static void on_room(void *userdata)
{
	struct process *p = userdata;

	process_watch_output(p);
	if (p->state == PROCESS_EXITED && !p->grace.prev) /* on_grace() has found them held */
		loop_timer_set(process_loop(p), &p->grace, deadline_after_ms(GRACE_MS));
}

/* --- start --------------------------------------------------------------------------------------
 */

static void process_fail_start(struct process *p, const struct spawn_failure *f)
{
	struct audience *a = &p->audience;
	const char *cmd = json_string_value(json_object_get(p->config, "cmd"));
	const char *why = strerrordesc_np(f->error);

	p->state = PROCESS_ENDED;
	loop_timer_clear(&p->timeout);
	process_close(p);
	if (f->stage == SPAWN_CWD && f->error == ENOENT)
		audience_fail(a, CONNECT_INVALID_ARGUMENT, "cwd '%.300s' does not exist", p->cwd);
	else if (f->stage == SPAWN_CWD)
		audience_fail(a, CONNECT_INVALID_ARGUMENT, "cwd '%.300s': %s", p->cwd, why);
	else if (f->stage == SPAWN_EXEC)
		audience_fail(a, CONNECT_INVALID_ARGUMENT, "cannot run '%.300s': %s",
			      cmd ? cmd : "", why);
	else
		audience_fail(a, CONNECT_INTERNAL, "cannot prepare the process: %s", why);
}

/* exec_fd is readable: either the end of it, or why not. */
static void process_exec_result(struct process *p)
{
	struct spawn_failure f;
	ssize_t n = read(p->exec_fd, &f, sizeof(f));
	char text[EVENT_TEXT_MAX];

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	p->exec_source = loop_remove(p->exec_source);
	p->exec_fd = fd_close(p->exec_fd);
	if (n == sizeof(f)) {
		process_fail_start(p, &f);
		return;
	}
	p->state = PROCESS_RUNNING;
	audience_send(&p->audience, text, event_start(p->pid, text));
	process_watch_output(p);
}

static void on_exec(void *userdata, uint32_t events)
{
	struct process *p = userdata;

	process_exec_result(p);
	process_settle(p);
}

/* --- end ----------------------------------------------------------------------------------------
 */

void process_free(struct process *p)
{
	loop_timer_clear(&p->timeout);
	loop_timer_clear(&p->grace);
	loop_remove(p->exec_source);
	fd_close(p->exec_fd);
	process_close(p);
	audience_deinit(&p->audience);
	p->cell = cell_leave(p->cell);
	*p->prev = p->next;
	if (p->next)
		p->next->prev = p->prev;
	p->table->n--;
	json_decref(p->config);
	free(p->tag);
	free(p->cwd);
	free(p);
}

static void process_finish(struct process *p)
{
	char text[EVENT_TEXT_MAX];

	output_drain(&p->out[0]);
	output_drain(&p->out[1]);
	p->duration_ns = clock_now_ns() - p->start_ns;
	audience_send(&p->audience, text, event_end(p->wait_status, p->duration_ns, text));
	audience_end(&p->audience);
	exited_add(&p->table->exited, p->pid, p->tag, p->wait_status, p->duration_ns);
	loop_timer_clear(&p->grace);
	loop_timer_clear(&p->timeout);
	p->state = PROCESS_ENDED;
	if (p->has_pty)
		process_close(p);
	input_queue_shut(&p->in);
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

	if (audience_is_held(&p->audience) && (p->out[0].owed || p->out[1].owed))
		return; /* on_room() begins anew */
	if (now_ns < p->grace_end_ns && now_ns - p->read_ns < GRACE_MS * NSEC_PER_MSEC) {
		loop_timer_set(process_loop(p), &p->grace, p->read_ns + GRACE_MS * NSEC_PER_MSEC);
		return;
	}
	process_finish(p);
	process_settle(p);
}

static void process_exited(struct process *p)
{
	p->state = PROCESS_EXITED;
	output_note_owed(&p->out[0]);
	output_note_owed(&p->out[1]);
	p->read_ns = clock_now_ns();
	p->grace_end_ns = deadline_after_ms(GRACE_MAX_MS);
	loop_timer_set(process_loop(p), &p->grace, deadline_after_ms(GRACE_MS));
}

void process_waited(struct process *p, int wait_status)
{
	if (p->state == PROCESS_STARTING)
		process_exec_result(p);
	if (p->state == PROCESS_STARTING) { /* killed before it could say anything */
		p->exec_source = loop_remove(p->exec_source);
		process_fail_start(p, &(struct spawn_failure){SPAWN_EXEC, EINTR});
	}
	p->reaped = true;
	p->wait_status = wait_status;
	p->cell = cell_leave(p->cell);
	if (p->state == PROCESS_RUNNING)
		process_exited(p);
	process_settle(p);
}

/* --- making one ---------------------------------------------------------------------------------
 */

static struct output output_of(struct process *p, const char *name, size_t chunk)
{
	return (struct output){.name = name,
			       .fd = -1,
			       .chunk = chunk,
			       .on_data = on_output,
			       .on_step = on_output_step,
			       .userdata = p};
}

int process_new(struct process_table *t, const struct spawn_config *spawn,
		const struct process_options *o, struct process **ret)
{
	struct process *p = calloc(1, sizeof(*p));
	bool pty = spawn->with_pty;

	if (!p)
		return error_trace(-ENOMEM);
	p->table = t;
	p->start_ns = clock_now_ns();
	p->exec_fd = -1;
	p->has_pty = pty;
	p->out[0] = output_of(p, pty ? "pty" : "stdout", pty ? PTY_CHUNK : PIPE_CHUNK);
	p->out[1] = output_of(p, "stderr", PIPE_CHUNK);
	input_queue_init(&p->in, t->agent->loop);
	audience_init(&p->audience, t->agent->loop, &t->crowd, on_room, p);
	p->config = json_incref(o->config);
	p->config_len = o->config_len;
	p->cwd = strdup(spawn->cwd);
	p->tag = o->tag ? strdup(o->tag) : NULL;
	p->timeout = (struct loop_timer){.fire = on_timeout, .userdata = p};
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

/* In a cell; without one in the workload, which freezes it; the system's own stay with us. */
static int process_spawn(struct process *p, const struct spawn_config *config)
{
	struct spawn_config c = *config;
	_cleanup_fd_ int cell_fd = -1;
	struct spawn s;
	int r;

	c.procs_fd = -1;
	if (!c.system) {
		bool in_cell = cell_new(&p->table->cells, &p->cell, &cell_fd) == 0;

		c.procs_fd = in_cell ? cell_fd : p->table->agent->workload.procs_fd;
	}
	r = spawn_start(&c, &s);
	if (r < 0)
		return r;
	p->pid = s.pid;
	p->exec_fd = s.exec_fd;
	p->out[0].fd = s.stdout_fd;
	p->out[1].fd = s.stderr_fd;
	input_queue_open(&p->in, s.stdin_fd);
	if (p->cell)
		cell_set_pid(p->cell, s.pid);
	return 0;
}

int process_run(struct process *p, const struct spawn_config *config, uint64_t deadline_ns)
{
	int r = process_spawn(p, config);

	if (r < 0)
		return r;
	if (deadline_ns != DEADLINE_NEVER)
		loop_timer_set(process_loop(p), &p->timeout, deadline_ns);
	r = loop_add(process_loop(p), p->exec_fd, EPOLLIN, on_exec, p, &p->exec_source);
	if (r < 0) /* it runs, and nobody would know: not for long */
		process_kill(p);
	return r;
}
