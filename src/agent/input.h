/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * input.h - what clients want a program to read, waiting for it to do so
 *
 * A queue of pieces before one non-blocking descriptor, a pipe or a terminal. Whoever brought a
 * piece is told when all of it is written, or that it never will be, and answers its client only
 * then: a program that does not read makes its clients wait instead of filling our memory.
 */
#include <stdbool.h>
#include <stddef.h>

#include "agent/loop.h"

struct input;

/* @ok: written; otherwise the program does not read any more. Called once, unless forgotten */
typedef void (*input_done)(void *userdata, bool ok);

struct input_queue {
	struct loop *loop;
	int fd; /* -1: there is none (any more) */
	struct loop_source *source;
	struct input *first; /* is being written */
	size_t len;	     /* bytes that wait */
	bool close;	     /* when all is written */
};

void input_queue_init(struct input_queue *q, struct loop *l);

/** input_queue_open() - @fd: consumed */
void input_queue_open(struct input_queue *q, int fd);

/** input_queue_shut() - nobody will read: tell all that wait, close the descriptor */
void input_queue_shut(struct input_queue *q);

/**
 * input_queue_push() - write @len bytes after those that wait
 * @done: may be called before this returns
 * @slot: set for input_forget(), and NULL again from the moment that @done is called; may be NULL.
 *        It must stay where it is until then
 * Return: 0; -EPIPE when nobody reads; -ENOMEM
 */
int input_queue_push(struct input_queue *q, const void *data, size_t len, input_done done,
		     void *userdata, struct input **slot);

/** input_forget() - whoever brought it went away; it is written all the same. @in may be NULL */
void input_forget(struct input *in);

/** input_queue_close() - end of file after what waits. Return: 0; -EPIPE */
int input_queue_close(struct input_queue *q);
