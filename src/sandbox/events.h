/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * events.h - what happened on this host, for those who watch: GET /events, `dorm events`
 *
 * The last EVENTS_KEPT are kept in memory, as the JSON that watchers get. Their numbers ascend by
 * one, so that a watcher who was away reads on where it was. The first number of a daemon is the
 * time of its start in microseconds: numbers ascend over restarts, too, and one of an earlier
 * daemon is recognised. A watcher that is slow loses the oldest, and is told how many; nobody else
 * notices. Any thread; adding never waits for a watcher.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"

#define EVENTS_KEPT	   4096u
#define EVENTS_TYPE_MAX	   31
#define EVENTS_SUBJECT_MAX 63
#define EVENTS_OWNER_MAX   32

struct events;

int events_new(struct events **ret);
struct events *events_free(struct events *e);
DEFINE_CLEANUP(struct events *, events_free)

/**
 * events_add() - something happened
 * @e:          NULL: nobody wants to know
 * @type:       "sandbox.state", "sandbox.expired", "template.ready", "pager.died", ...
 *              (docs/observability.md has them all)
 * @sandbox_id: NULL when it concerns none
 * @details:    stolen; an object whose members are added to the event, or NULL
 * The request that this thread works for (base/log.h) is added by itself.
 * An event that cannot be kept for want of memory is lost, and counted as such.
 */
void events_add(struct events *e, const char *type, const char *sandbox_id, json_t *details);

/** events_add_owned() - the same, for what only that API key's bearer, and an administrator, may
 *  know. @owner: "": only an administrator */
void events_add_owned(struct events *e, const char *type, const char *sandbox_id, const char *owner,
		      json_t *details);

/* Which ones a watcher wants; NULL: any. */
struct event_filter {
	const char *sandbox_id;
	const char *type;  /* "sandbox.state", or "sandbox" for all that begin so */
	const char *owner; /* those that concern a sandbox of this key's */
};

struct event {
	uint64_t number;
	uint64_t lost;	/* how many between the last one and this are not there any more */
	bool restarted; /* the last one was of an earlier daemon: what came then is not known */
	char type[EVENTS_TYPE_MAX + 1];
	char *text; /* {"id", "time", "type", "sandboxID"?, "request"?, ...}; free() */
};

/**
 * events_next() - the first after @after that @filter lets pass, waiting for it until @deadline_ns
 * @after: the number of the last one that was seen; 0: from the oldest that is there
 * Return: 1; 0 when none came in time or it is stopped, with only number (from where to go on),
 * lost and restarted in @ret; -ENOMEM
 */
int events_next(struct events *e, uint64_t after, const struct event_filter *filter,
		uint64_t deadline_ns, struct event *ret);

/** events_last() - the number of the newest, after which the next will come */
uint64_t events_last(struct events *e);

struct events_counters {
	uint64_t added, lost; /* lost: never kept, for want of memory */
	uint64_t missed;      /* kept, but gone when a slow watcher came for it */
};
void events_counters(struct events *e, struct events_counters *ret);

/** events_stop() - whoever waits returns at once, now and from now on */
void events_stop(struct events *e);

/** events_stopped() - was it stopped? */
bool events_stopped(struct events *e);
