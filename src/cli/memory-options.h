/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * memory-options.h - what run, wake and fork say about the memory of the sandboxes they bring up
 *
 *     struct memory_options memory = {0};
 *     const struct option_spec specs[] = {..., MEMORY_OPTIONS(memory)};
 *     ...
 *     r = memory_options_add(&memory, body);
 */
#include <jansson.h>

#include "cli/options.h"

struct memory_options {
	const char *wait, *mode; /* NULL: dormd's choice */
};

#define MEMORY_OPTIONS(_o)                                                                         \
	{0,	     "wait", OPTION_TEXT,                                                          \
	 &(_o).wait, "FOR",  "ready (default), working-set or full: the memory to wait for"},      \
	{                                                                                          \
		0, "mode", OPTION_TEXT, &(_o).mode, "MODE",                                        \
			"how the pager serves it: auto (default), shared, overlay, eager"          \
	}

/** memory_options_add() - as members of a request's body. Return: 0; -EILSEQ not valid UTF-8 */
int memory_options_add(const struct memory_options *o, json_t *body);
