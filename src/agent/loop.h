/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * loop.h - the agent's event loop: descriptors and timers over one epoll
 *
 * Single-threaded. Without a timer set it sleeps until a descriptor is ready: an idle agent never
 * wakes up, which is also what keeps an idle guest's memory clean.
 *
 * Callbacks may add and remove anything, themselves included: a removed source is not called again,
 * not even for an event that epoll has already reported, and is freed after the batch.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "base/mem.h"

struct loop;
struct loop_source;

typedef void (*loop_callback)(void *userdata, uint32_t events);

struct loop_timer {
	void (*fire)(void *userdata);
	void *userdata;
	/* the loop's */
	uint64_t deadline_ns;
	struct loop_timer *next, **prev; /* prev is NULL when not set */
};

int loop_new(struct loop **ret);
struct loop *loop_free(struct loop *l);
DEFINE_CLEANUP(struct loop *, loop_free)

/**
 * loop_add() - call @cb whenever one of @events happens on @fd
 * @fd: borrowed; remove the source before closing it
 */
int loop_add(struct loop *l, int fd, uint32_t events, loop_callback cb, void *userdata,
	     struct loop_source **ret);

/** loop_remove() - @s may be NULL. Return: NULL, for `s = loop_remove(s)` */
struct loop_source *loop_remove(struct loop_source *s);

/** loop_timer_set() - (again) at @deadline_ns; fires once */
void loop_timer_set(struct loop *l, struct loop_timer *t, uint64_t deadline_ns);

/** loop_timer_clear() - not set is fine. Needed before the timer's memory goes */
void loop_timer_clear(struct loop_timer *t);

/** loop_set_after() - @after runs after every batch of events, before sleeping */
void loop_set_after(struct loop *l, void (*after)(void *userdata), void *userdata);

/** loop_run() - until loop_stop(). Return: 0; negative errno */
int loop_run(struct loop *l);
void loop_stop(struct loop *l);
