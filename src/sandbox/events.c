/* SPDX-License-Identifier: Apache-2.0 */
/*
 * events.c - a ring of texts, and a condition for those who wait for the next
 *
 * An event is turned into text once, outside the lock, but for its number, which it gets inside:
 * the text is kept without it, and the number is put in front when somebody reads it.
 *
 *     slot number % EVENTS_KEPT:  {type, subject, owner, "\"time\":...,\"type\":...}"}
 *
 * 4096 events of about 200 bytes are less than a megabyte, allocated as they come. Watchers wait on
 * one condition: all of them look when something comes, which is seldom, and they are few.
 */
#include "sandbox/events.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"

struct slot {
	char type[EVENTS_TYPE_MAX + 1];
	char subject[EVENTS_SUBJECT_MAX + 1];
	char owner[EVENTS_OWNER_MAX + 1];
	char *rest; /* the object's text behind its id; NULL: it was lost */
};

struct events {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t first; /* the number of the first ever; constant */
	uint64_t next;
	uint64_t lost, missed;
	bool stopped;
	struct slot slots[EVENTS_KEPT];
};

int events_new(struct events **ret)
{
	struct events *e = calloc(1, sizeof(*e));
	pthread_condattr_t attr;

	if (!e)
		return -ENOMEM;
	pthread_mutex_init(&e->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&e->changed, &attr);
	pthread_condattr_destroy(&attr);
	e->first = e->next = clock_real_ns() / 1000;
	*ret = e;
	return 0;
}

struct events *events_free(struct events *e)
{
	if (!e)
		return NULL;
	for (unsigned i = 0; i < EVENTS_KEPT; i++)
		free(e->slots[i].rest);
	pthread_cond_destroy(&e->changed);
	pthread_mutex_destroy(&e->lock);
	free(e);
	return NULL;
}

/* ---- adding -----------------------------------------------------------------------------------
 */

/* What is said of it, without the id and the brace in front. NULL without memory */
static char *make_text(const char *type, const char *sandbox_id, json_t *details)
{
	json_auto_t *o = json_object();
	_cleanup_free_ char *text = NULL;
	char when[32];
	int r = 0;

	r |= json_object_set_new(o, "time", json_string(clock_rfc3339(clock_real_ns(), when)));
	r |= json_object_set_new(o, "type", json_string(type));
	if (sandbox_id)
		r |= json_object_set_new(o, "sandboxID", json_string(sandbox_id));
	if (log_request()[0])
		r |= json_object_set_new(o, "request", json_string(log_request()));
	if (details)
		r |= json_object_update_missing(o, details);
	text = r ? NULL : json_dumps(o, JSON_COMPACT);
	return text ? strdup(text + 1) : NULL;
}

static void keep(struct events *e, const char *type, const char *subject, const char *owner,
		 char *rest)
{
	struct slot *s;

	LOCK_SCOPE(&e->lock);
	s = &e->slots[e->next++ % EVENTS_KEPT];
	free(s->rest);
	str_copy(s->type, sizeof(s->type), type);
	str_copy(s->subject, sizeof(s->subject), subject ? subject : "");
	str_copy(s->owner, sizeof(s->owner), owner);
	s->rest = rest;
	e->lost += !rest;
	pthread_cond_broadcast(&e->changed);
}

void events_add_owned(struct events *e, const char *type, const char *sandbox_id, const char *owner,
		      json_t *details)
{
	if (e)
		keep(e, type, sandbox_id, owner, make_text(type, sandbox_id, details));
	json_decref(details);
}

void events_add(struct events *e, const char *type, const char *sandbox_id, json_t *details)
{
	events_add_owned(e, type, sandbox_id, "", details);
}

/* ---- reading ----------------------------------------------------------------------------------
 */

/* "sandbox" wants "sandbox.state", but not "sandboxes". */
static bool type_matches(const char *type, const char *wanted)
{
	size_t n = strlen(wanted);

	return !strncmp(type, wanted, n) && (!type[n] || type[n] == '.');
}

static bool matches(const struct slot *s, const struct event_filter *f)
{
	return (!f->sandbox_id || !strcmp(s->subject, f->sandbox_id)) &&
	       (!f->type || type_matches(s->type, f->type)) &&
	       (!f->owner || (s->subject[0] && !strcmp(s->owner, f->owner)));
}

/* lock held. Where to go on after @after, and what is not there any more. */
static uint64_t resume_at(struct events *e, uint64_t after, struct event *ret)
{
	uint64_t oldest = e->next - MIN(e->next - e->first, (uint64_t)EVENTS_KEPT);

	if (!after)
		return oldest;
	/* of an earlier daemon, or of one whose clock was ahead */
	ret->restarted = after + 1 < e->first || after >= e->next;
	if (ret->restarted)
		return oldest;
	ret->lost = oldest > after + 1 ? oldest - after - 1 : 0;
	return MAX(oldest, after + 1);
}

/* lock held. Return: true with the number of the next one that @f lets pass, or that was lost */
static bool find(struct events *e, uint64_t *number, const struct event_filter *f, uint64_t *lost)
{
	for (; *number < e->next; (*number)++) {
		const struct slot *s = &e->slots[*number % EVENTS_KEPT];

		if (!matches(s, f))
			continue;
		if (s->rest)
			return true;
		++*lost;
	}
	return false;
}

/* lock held. Until something is added. Return: false when it is too late */
static bool wait_for_more(struct events *e, uint64_t deadline_ns)
{
	const struct timespec until = {.tv_sec = (time_t)(deadline_ns / NSEC_PER_SEC),
				       .tv_nsec = (long)(deadline_ns % NSEC_PER_SEC)};
	uint64_t next = e->next;

	while (e->next == next && !e->stopped)
		if (pthread_cond_timedwait(&e->changed, &e->lock, &until) == ETIMEDOUT)
			break;
	return e->next != next;
}

int events_next(struct events *e, uint64_t after, const struct event_filter *filter,
		uint64_t deadline_ns, struct event *ret)
{
	const struct slot *s;
	uint64_t number;

	LOCK_SCOPE(&e->lock);
	*ret = (struct event){0};
	number = resume_at(e, after, ret);
	e->missed += ret->lost;
	while (!find(e, &number, filter, &ret->lost)) {
		ret->number = e->next - 1;
		if (e->stopped || !wait_for_more(e, deadline_ns))
			return 0;
		/* asleep for longer than the ring lasts */
		if (e->next - number > EVENTS_KEPT) {
			ret->lost += e->next - number - EVENTS_KEPT;
			number = e->next - EVENTS_KEPT;
		}
	}
	s = &e->slots[number % EVENTS_KEPT];
	ret->number = number;
	str_copy(ret->type, sizeof(ret->type), s->type);
	ret->text = str_printf("{\"id\":%llu,%s", (unsigned long long)number, s->rest);
	return ret->text ? 1 : -ENOMEM;
}

uint64_t events_last(struct events *e)
{
	LOCK_SCOPE(&e->lock);
	return e->next - 1;
}

void events_counters(struct events *e, struct events_counters *ret)
{
	LOCK_SCOPE(&e->lock);
	*ret = (struct events_counters){
		.added = e->next - e->first, .lost = e->lost, .missed = e->missed};
}

void events_stop(struct events *e)
{
	LOCK_SCOPE(&e->lock);
	e->stopped = true;
	pthread_cond_broadcast(&e->changed);
}

bool events_stopped(struct events *e)
{
	LOCK_SCOPE(&e->lock);
	return e->stopped;
}
