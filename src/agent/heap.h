/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * heap.h - the guest's memory is the sandbox's: what a burst of requests needed goes back
 *
 * Large buffers are mappings of their own, which leave when they are freed. The heap is given back
 * HEAP_REST_MS after a request has ended, if it has grown: one wake-up, and none when idle.
 */
#include "agent/loop.h"

#define HEAP_REST_MS 200u

struct heap {
	struct loop *loop;
	struct loop_timer timer;
	char *begin; /* of the heap, as it was at the start */
};

/** heap_setup() - at the start of the program, before anything is allocated */
void heap_setup(void);

/** heap_init() - @h: zero before; heap_deinit() before the loop goes */
void heap_init(struct heap *h, struct loop *loop);
void heap_deinit(struct heap *h);

/** heap_request_ended() - some of it may be free now */
void heap_request_ended(struct heap *h);
