/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * fifo.h - a queue of bytes: appended at the end, consumed from the front
 *
 * Like base/buf.h, but consuming is cheap: the front is an offset, and the bytes are moved together
 * only when room is needed, so each byte is moved at most once on average. An empty queue gives its
 * memory back, so a thousand idle ones cost nothing. Embedded by value, zero-initialised.
 */
#include <stddef.h>

struct fifo {
	char *data;
	size_t head; /* offset of the first byte that was not consumed */
	size_t len;  /* bytes waiting */
	size_t cap;
};

/** fifo_deinit() - release and empty */
void fifo_deinit(struct fifo *f);

/** fifo_reserve() - make room for @more bytes at the end at once. Return: 0; -ENOMEM */
int fifo_reserve(struct fifo *f, size_t more);

/** fifo_append() - copy @len bytes to the end. Return: 0; -ENOMEM, with nothing appended */
int fifo_append(struct fifo *f, const void *data, size_t len);

/** fifo_front() - the waiting bytes, fifo->len of them; valid until the next change */
static inline const char *fifo_front(const struct fifo *f)
{
	return f->data + f->head;
}

/** fifo_consume() - drop @len bytes from the front; @len <= f->len */
void fifo_consume(struct fifo *f, size_t len);

/** fifo_take() - move up to @len bytes from the front to @out. Return: how many */
size_t fifo_take(struct fifo *f, void *out, size_t len);
