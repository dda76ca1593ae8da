/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/process-internal.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "agent/event.h"
#include "base/clock.h"
#include "base/error.h"

/* --- the table ---------------------------------------------------------------------------------
 */

int process_table_new(struct agent *a, struct process_table **ret)
{
	struct process_table *t = calloc(1, sizeof(*t));

	if (!t)
		return error_trace(-ENOMEM);
	t->agent = a;
	t->cells.workload = &a->workload;
	*ret = t;
	return 0;
}

struct process_table *process_table_free(struct process_table *t)
{
	while (t && t->first) {
		process_kill(t->first);
		process_free(t->first);
	}
	if (t) {
		cells_deinit(&t->cells);
		exited_clear(&t->exited);
	}
	free(t);
	return NULL;
}

static struct process *table_find(struct process_table *t, pid_t pid, const char *tag,
				  enum process_state last)
{
	for (struct process *p = t->first; p; p = p->next)
		if (p->state <= last && (tag ? p->tag && !strcmp(p->tag, tag) : p->pid == pid))
			return p;
	return NULL;
}

struct process *process_find(struct process_table *t, pid_t pid, const char *tag)
{
	return table_find(t, pid, tag, PROCESS_RUNNING);
}

json_t *process_list(struct process_table *t)
{
	json_t *list = json_array();

	for (struct process *p = t->first; p; p = p->next) {
		json_t *o;

		if (p->state > PROCESS_RUNNING)
			continue;
		o = json_pack("{s:O, s:i}", "config", p->config, "pid", (int)p->pid);
		if (p->tag)
			(void)json_object_set_new(o, "tag", json_string(p->tag));
		(void)json_array_append_new(list, o); /* short of memory: a shorter list */
	}
	return list;
}

void process_table_sweep(struct process_table *t)
{
	cells_sweep(&t->cells);
}

bool process_reaped(struct process_table *t, pid_t pid, int wait_status)
{
	struct process *p = t->first;

	while (p && (p->pid != pid || p->reaped))
		p = p->next;
	if (p)
		process_waited(p, wait_status);
	return p;
}

/* Bytes that clients have made us keep. */
static size_t table_memory(const struct process_table *t)
{
	size_t n = 0;

	for (const struct process *p = t->first; p; p = p->next)
		n += p->config_len + p->in.len;
	return n;
}

int process_start(struct process_table *t, struct request *rq, const struct spawn_config *spawn,
		  const struct process_options *o)
{
	struct process *p = NULL;
	int r;

	if (t->n >= PROCESS_MAX)
		return -EAGAIN;
	if (table_memory(t) + o->config_len > PROCESS_MEMORY_MAX)
		return -ENOSPC;
	r = process_new(t, spawn, o, &p);
	if (r < 0)
		return r;
	r = audience_join(&p->audience, rq, &o->listening);
	if (r == 0)
		r = process_run(p, spawn, o->listening.deadline_ns);
	if (r < 0)
		process_free(p);
	return r;
}

/* --- what clients do with one -------------------------------------------------------------------
 */

static void tell_exited(const struct exited *e, struct request *rq)
{
	char text[EVENT_TEXT_MAX];

	connect_stream_send(rq, text, event_start(e->pid, text));
	connect_stream_send(rq, text, event_end(e->wait_status, e->duration_ns, text));
	connect_stream_end(rq);
}

int process_connect(struct process_table *t, pid_t pid, const char *tag, struct request *rq,
		    const struct listening *how)
{
	struct process *p = table_find(t, pid, tag, PROCESS_EXITED);
	char text[EVENT_TEXT_MAX];
	const struct exited *e;
	int r;

	if (!p) {
		e = exited_find(&t->exited, pid, tag);
		if (e)
			tell_exited(e, rq);
		return e ? 0 : -ENOENT;
	}
	r = audience_join(&p->audience, rq, how);
	if (r == 0 && p->state != PROCESS_STARTING)
		audience_tell(rq, text, event_start(p->pid, text));
	return r;
}

int process_signal(struct process *p, int sig)
{
	if (p->reaped)
		return -ESRCH;
	if (sig == SIGKILL) {
		process_kill(p);
		return 0;
	}
	return kill(-p->pid, sig) < 0 ? -errno : 0;
}

int process_kill_left(struct process_table *t, pid_t pid)
{
	return cells_kill_left(&t->cells, pid);
}

bool process_has_pty(const struct process *p)
{
	return p->has_pty;
}

int process_resize(struct process *p, const struct pty_size *size)
{
	return p->out[0].fd < 0 ? -ENOTTY : pty_resize(p->out[0].fd, size);
}

int process_input(struct process *p, const void *data, size_t len, input_done done, void *userdata,
		  struct input **slot)
{
	if (p->in.len + len > PROCESS_INPUT_MAX ||
	    table_memory(p->table) + len > PROCESS_MEMORY_MAX)
		return -ENOSPC;
	return input_queue_push(&p->in, data, len, done, userdata, slot);
}

int process_close_input(struct process *p)
{
	return input_queue_close(&p->in);
}
