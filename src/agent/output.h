/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * output.h - one descriptor that a program writes to: a pipe, or our end of its terminal
 *
 * Read only while it is watched; not watching it is what makes the program wait. `owed` is what the
 * program itself had written when it ended: that much is the client's, whoever else still holds the
 * other end.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/loop.h"

struct output {
	const char *name; /* "stdout", "stderr", "pty" */
	int fd;		  /* -1: it has ended */
	size_t chunk;	  /* most bytes at once; at most EVENT_DATA_MAX */
	size_t owed;
	struct loop_source *source;
	void (*on_data)(struct output *o, const void *data, size_t len);
	void (*on_step)(struct output *o); /* after each read, or the end */
	void *userdata;
};

/** output_watch() - read when there is something; fine when it is watched already, or has ended */
void output_watch(struct output *o, struct loop *l);
void output_unwatch(struct output *o);
void output_close(struct output *o);

/** output_note_owed() - the program has just ended */
void output_note_owed(struct output *o);

/** output_drain() - read what is owed, and no more: somebody else may be writing for ever */
void output_drain(struct output *o);
