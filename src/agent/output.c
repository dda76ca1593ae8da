/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/output.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "agent/event.h"
#include "agent/pty.h"
#include "base/fd.h"
#include "base/mem.h"

/* Return: true when there may be more */
static bool output_read(struct output *o)
{
	char data[EVENT_DATA_MAX];
	ssize_t n = read(o->fd, data, o->chunk);

	if (n < 0 && errno == EINTR)
		return true;
	if (n < 0 && errno == EAGAIN) {
		o->owed = 0;
		return false;
	}
	if (n <= 0) { /* EIO: nobody has the terminal open any more */
		output_close(o);
		return false;
	}
	o->owed -= MIN(o->owed, (size_t)n);
	o->on_data(o, data, (size_t)n);
	return true;
}

/* One read per event: the outputs of a thousand programs take turns. */
static void on_readable(void *userdata, uint32_t events)
{
	struct output *o = userdata;

	(void)output_read(o); /* more raises another event */
	o->on_step(o);
}

void output_watch(struct output *o, struct loop *l)
{
	if (o->fd >= 0 && !o->source && loop_add(l, o->fd, EPOLLIN, on_readable, o, &o->source) < 0)
		output_close(o); /* no memory: its writer sees a broken pipe */
}

void output_unwatch(struct output *o)
{
	o->source = loop_remove(o->source);
}

void output_close(struct output *o)
{
	output_unwatch(o);
	o->fd = fd_close(o->fd);
	o->owed = 0;
}

/* Of a terminal FIONREAD sees only what has reached its line discipline: up to a full one then. */
void output_note_owed(struct output *o)
{
	int n = 0;

	if (o->fd < 0)
		return;
	if (!strcmp(o->name, "pty"))
		o->owed = PTY_CAPACITY;
	else if (ioctl(o->fd, FIONREAD, &n) == 0)
		o->owed = (size_t)n;
}

void output_drain(struct output *o)
{
	while (o->fd >= 0 && o->owed && output_read(o))
		;
}
