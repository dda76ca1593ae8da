/* SPDX-License-Identifier: Apache-2.0 */
#include "channel/fifo.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"

#define FIFO_MIN_CAP 512u

void fifo_deinit(struct fifo *f)
{
	free(f->data);
	*f = (struct fifo){0};
}

/* Room for @more bytes at the end: by moving the bytes down when half of the memory is spent. */
int fifo_reserve(struct fifo *f, size_t more)
{
	size_t need = f->len + more, cap = MAX(f->cap, FIFO_MIN_CAP);
	char *p;

	if (need < more)
		return error_trace(-ENOMEM);
	if (f->head + need <= f->cap)
		return 0;
	if (need <= f->cap && f->head >= f->len) {
		memmove(f->data, f->data + f->head, f->len);
		f->head = 0;
		return 0;
	}
	while (cap < need + f->head)
		cap *= 2;
	p = realloc(f->data, cap);
	if (!p)
		return error_trace(-ENOMEM);
	f->data = p;
	f->cap = cap;
	return 0;
}

int fifo_append(struct fifo *f, const void *data, size_t len)
{
	int r;

	if (len == 0)
		return 0;
	r = fifo_reserve(f, len);
	if (r < 0)
		return r;
	memcpy(f->data + f->head + f->len, data, len);
	f->len += len;
	return 0;
}

void fifo_consume(struct fifo *f, size_t len)
{
	assert(len <= f->len);
	f->head += len;
	f->len -= len;
	if (f->len == 0)
		fifo_deinit(f);
}

size_t fifo_take(struct fifo *f, void *out, size_t len)
{
	len = MIN(len, f->len);
	if (len == 0)
		return 0;
	memcpy(out, fifo_front(f), len);
	fifo_consume(f, len);
	return len;
}
