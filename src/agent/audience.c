/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/audience.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"

struct subscriber {
	struct audience *all;
	struct subscriber *next, **prev;
	struct request *rq;
	uint64_t keepalive_ms, timeout_ms;
	uint64_t sent_ns; /* last message */
	uint64_t held_ns; /* since when; 0: not held */
	struct loop_timer keepalive, deadline;
};

/* --- held and waiting ---------------------------------------------------------------------------
 */

/* From when on @s may be ended for the sake of the others. */
static uint64_t patience_end(const struct subscriber *s)
{
	return MAX(s->held_ns, s->all->waiting_ns) + AUDIENCE_PATIENCE_MS * NSEC_PER_MSEC;
}

/* After every change of who is there and who is held. */
static void audience_review(struct audience *a)
{
	uint64_t first_ns = DEADLINE_NEVER;

	if (!a->n_held || a->n_held == a->n) {
		a->waiting_ns = 0;
		loop_timer_clear(&a->patience);
		return;
	}
	if (!a->waiting_ns)
		a->waiting_ns = clock_now_ns();
	for (struct subscriber *s = a->first; s; s = s->next)
		if (s->held_ns)
			first_ns = deadline_min(first_ns, patience_end(s));
	loop_timer_set(a->loop, &a->patience, first_ns);
}

/* How much may wait for one of so many. */
static size_t crowd_share(const struct crowd *c)
{
	size_t share = AUDIENCE_TOTAL / MAX(c->n, 1u);

	return MIN(share, (size_t)AUDIENCE_HIGH);
}

static void subscriber_hold(struct subscriber *s, size_t share)
{
	if (s->held_ns)
		return;
	s->held_ns = clock_now_ns();
	s->all->n_held++;
	server_stream_want_writable_below(s->rq->stream, share / 2 + 1);
	audience_review(s->all);
}

/* Return: was it the last one that was held? */
static bool subscriber_unhold(struct subscriber *s)
{
	if (!s->held_ns)
		return false;
	s->held_ns = 0;
	return --s->all->n_held == 0;
}

/* --- coming and going ---------------------------------------------------------------------------
 */

/* Return: the request, somebody else's from here. The audience goes on without it. */
static struct request *subscriber_free(struct subscriber *s)
{
	struct audience *a = s->all;
	struct request *rq = s->rq;
	bool room = subscriber_unhold(s);

	*s->prev = s->next;
	if (s->next)
		s->next->prev = s->prev;
	a->n--;
	a->crowd->n--;
	loop_timer_clear(&s->keepalive);
	loop_timer_clear(&s->deadline);
	request_release(rq);
	free(s);
	audience_review(a);
	if (room)
		a->on_room(a->userdata);
	return rq;
}

static void on_closed(struct request *rq)
{
	(void)subscriber_free(rq->keeper); /* the request is going, too */
}

static void on_writable(struct request *rq)
{
	struct subscriber *s = rq->keeper;
	struct audience *a = s->all;
	bool room = subscriber_unhold(s);

	audience_review(a);
	if (room)
		a->on_room(a->userdata);
}

static void on_patience(void *userdata)
{
	struct audience *a = userdata;
	struct subscriber *s = a->first, *next;
	uint64_t now_ns = clock_now_ns();

	for (; s; s = next) {
		next = s->next;
		if (s->held_ns && patience_end(s) <= now_ns)
			break;
	}
	if (!s) {
		audience_review(a);
		return;
	}
	/* one at a time: the callback may have ended the whole audience. The rest fires at once */
	connect_stream_fail(subscriber_free(s), CONNECT_RESOURCE_EXHAUSTED,
			    "this client has not taken the program's output for %u s, and others "
			    "wait for it; the program goes on, and Connect follows it again",
			    AUDIENCE_PATIENCE_MS / 1000);
}

static void on_deadline(void *userdata)
{
	struct subscriber *s = userdata;
	unsigned long long ms = s->timeout_ms;

	connect_stream_fail(subscriber_free(s), CONNECT_DEADLINE_EXCEEDED,
			    "the deadline of %llu ms has passed", ms);
}

static void on_keepalive(void *userdata)
{
	static const char message[] = "{\"event\":{\"keepalive\":{}}}";
	struct subscriber *s = userdata;
	uint64_t now_ns = clock_now_ns(), period_ns = s->keepalive_ms * NSEC_PER_MSEC;

	if (s->held_ns) /* it has enough to read, and more would be without bound */
		s->sent_ns = now_ns;
	else if (now_ns >= s->sent_ns + period_ns)
		audience_tell(s->rq, message, sizeof(message) - 1);
	loop_timer_set(s->all->loop, &s->keepalive, s->sent_ns + period_ns);
}

int audience_join(struct audience *a, struct request *rq, const struct listening *how)
{
	struct subscriber *s = calloc(1, sizeof(*s));

	if (!s)
		return error_trace(-ENOMEM);
	*s = (struct subscriber){.all = a,
				 .rq = rq,
				 .keepalive_ms = how->keepalive_ms,
				 .timeout_ms = how->timeout_ms,
				 .sent_ns = clock_now_ns(),
				 .keepalive = {.fire = on_keepalive, .userdata = s},
				 .deadline = {.fire = on_deadline, .userdata = s}};
	s->next = a->first;
	s->prev = &a->first;
	if (s->next)
		s->next->prev = &s->next;
	a->first = s;
	a->n++;
	a->crowd->n++;
	request_keep(rq, s, on_closed, on_writable);
	loop_timer_set(a->loop, &s->keepalive, s->sent_ns + s->keepalive_ms * NSEC_PER_MSEC);
	if (how->deadline_ns != DEADLINE_NEVER)
		loop_timer_set(a->loop, &s->deadline, how->deadline_ns);
	audience_review(a);
	return 0;
}

/* --- to all -------------------------------------------------------------------------------------
 */

void audience_init(struct audience *a, struct loop *l, struct crowd *crowd,
		   void (*on_room)(void *userdata), void *userdata)
{
	*a = (struct audience){.loop = l, .crowd = crowd, .on_room = on_room, .userdata = userdata};
	a->patience = (struct loop_timer){.fire = on_patience, .userdata = a};
}

static void no_room(void *userdata)
{
}

/* Everybody is about to go: whoever speaks need not hear that there is room. */
static void audience_dismiss(struct audience *a)
{
	a->on_room = no_room;
}

void audience_deinit(struct audience *a)
{
	audience_dismiss(a);
	while (a->first)
		(void)subscriber_free(a->first); /* nothing to say to it */
}

void audience_tell(struct request *rq, const char *json, size_t len)
{
	struct subscriber *s = rq->keeper;
	size_t share = crowd_share(s->all->crowd);

	connect_stream_send(rq, json, len);
	s->sent_ns = clock_now_ns();
	if (server_stream_buffered(rq->stream) > share)
		subscriber_hold(s, share);
}

void audience_send(struct audience *a, const char *json, size_t len)
{
	for (struct subscriber *s = a->first; s; s = s->next)
		audience_tell(s->rq, json, len);
}

void audience_end(struct audience *a)
{
	audience_dismiss(a);
	while (a->first)
		connect_stream_end(subscriber_free(a->first));
}

void audience_fail(struct audience *a, enum connect_code code, const char *fmt, ...)
{
	char message[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(message, sizeof(message), fmt, ap); /* cut is better than nothing */
	va_end(ap);
	audience_dismiss(a);
	while (a->first)
		connect_stream_fail(subscriber_free(a->first), code, "%s", message);
}
