/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/input.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "channel/fifo.h"

struct input {
	struct input *next;
	input_done done; /* NULL: forgotten */
	void *userdata;
	struct input **slot; /* the bringer's, cleared at the end; or NULL */
	struct fifo data;
};

void input_queue_init(struct input_queue *q, struct loop *l)
{
	*q = (struct input_queue){.loop = l, .fd = -1};
}

void input_queue_open(struct input_queue *q, int fd)
{
	q->fd = fd;
}

/* The first one is over. What its bringer does next may come back here: it is out of the queue. */
static void finish_first(struct input_queue *q, bool ok)
{
	struct input *in = q->first;

	q->first = in->next;
	q->len -= in->data.len;
	if (in->slot)
		*in->slot = NULL;
	if (in->done)
		in->done(in->userdata, ok);
	fifo_deinit(&in->data);
	free(in);
}

void input_queue_shut(struct input_queue *q)
{
	q->source = loop_remove(q->source);
	q->fd = fd_close(q->fd);
	while (q->first)
		finish_first(q, false);
}

/* Return: true when all of @in is written */
static bool input_write(struct input_queue *q, struct input *in)
{
	while (in->data.len) {
		ssize_t n = write(q->fd, fifo_front(&in->data), in->data.len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			input_queue_shut(q);
		if (n < 0)
			return false;
		fifo_consume(&in->data, (size_t)n);
		q->len -= (size_t)n;
	}
	return true;
}

static void pump(void *userdata, uint32_t events)
{
	struct input_queue *q = userdata;

	while (q->first && input_write(q, q->first))
		finish_first(q, true);
	if (!q->first && q->close)
		input_queue_shut(q);
	if (!q->first)
		q->source = loop_remove(q->source);
	else if (!q->source && loop_add(q->loop, q->fd, EPOLLOUT, pump, q, &q->source) < 0)
		input_queue_shut(q);
}

int input_queue_push(struct input_queue *q, const void *data, size_t len, input_done done,
		     void *userdata, struct input **slot)
{
	struct input *in, **end = &q->first;

	if (q->fd < 0 || q->close)
		return -EPIPE;
	in = calloc(1, sizeof(*in));
	if (!in || fifo_append(&in->data, data, len) < 0) {
		free(in);
		return error_trace(-ENOMEM);
	}
	in->done = done;
	in->userdata = userdata;
	in->slot = slot;
	if (slot)
		*slot = in;
	while (*end)
		end = &(*end)->next;
	*end = in;
	q->len += len;
	pump(q, 0);
	return 0;
}

void input_forget(struct input *in)
{
	if (!in)
		return;
	in->done = NULL;
	if (in->slot)
		*in->slot = NULL;
	in->slot = NULL;
}

int input_queue_close(struct input_queue *q)
{
	if (q->fd < 0)
		return -EPIPE;
	q->close = true;
	pump(q, 0);
	return 0;
}
