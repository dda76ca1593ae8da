/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/heap.h"

#include <malloc.h>
#include <stddef.h>
#include <unistd.h>

#include "base/clock.h"

#define GROWN_BYTES (1 << 20) /* less is not worth a wake-up */

/* Without a fixed threshold malloc keeps what it has once mapped in the heap, for the next time. */
void heap_setup(void)
{
	(void)mallopt(M_MMAP_THRESHOLD, 48 << 10);
	(void)mallopt(M_TRIM_THRESHOLD, 64 << 10);
	(void)mallopt(M_TOP_PAD, 16 << 10);
	(void)mallopt(M_ARENA_MAX, 1);
}

/* Free pages leave also from the middle, where a small block that stays would hold them. */
static void on_rest(void *userdata)
{
	(void)malloc_trim(0);
}

void heap_init(struct heap *h, struct loop *loop)
{
	h->loop = loop;
	h->begin = sbrk(0);
	h->timer = (struct loop_timer){.fire = on_rest, .userdata = h};
}

void heap_deinit(struct heap *h)
{
	loop_timer_clear(&h->timer);
}

void heap_request_ended(struct heap *h)
{
	if (!h->timer.prev && (char *)sbrk(0) - h->begin > GROWN_BYTES)
		loop_timer_set(h->loop, &h->timer, deadline_after_ms(HEAP_REST_MS));
}
