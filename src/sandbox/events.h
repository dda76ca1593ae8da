/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * events.h - what happened on this host, for those who watch: GET /events, `dorm events`
 *
 * The last EVENTS_KEPT are kept in memory, numbered from 1 without gaps as long as dormd lives, so
 * that a watcher who was away reads on where it was. A watcher that is slow loses the oldest, and
 * is told how many; nobody else notices. Any thread; never blocks.
 */
#include <jansson.h>
#include <stdint.h>

#include "base/mem.h"

#define EVENTS_KEPT 4096u

struct events;

int events_new(struct events **ret);
struct events *events_free(struct events *e);
DEFINE_CLEANUP(struct events *, events_free)

/**
 * events_add() - something happened
 * @type:       "sandbox.state", "sandbox.expired", "template.ready", "pager.died", ...
 * @sandbox_id: NULL when it concerns none
 * @details:    stolen; an object whose members are added to the event, or NULL
 * An event that cannot be kept for want of memory is lost, and counted as such.
 */
void events_add(struct events *e, const char *type, const char *sandbox_id, json_t *details);

/**
 * events_next() - the first after @after, waiting for it until @deadline_ns
 * @ret: new reference: {"id", "time", "type", "sandboxID"?, ...}
 * @ret_lost: how many between @after and it are not there any more
 * Return: its number, > 0; 0 when none came in time; negative errno
 */
int64_t events_next(struct events *e, uint64_t after, uint64_t deadline_ns, json_t **ret,
		    uint64_t *ret_lost);

/** events_last() - the number of the newest; 0: none yet */
uint64_t events_last(struct events *e);

/** events_stop() - whoever waits returns at once, now and from now on */
void events_stop(struct events *e);
