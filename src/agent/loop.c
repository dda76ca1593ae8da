/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/loop.h"

#include <stddef.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"

#define BATCH 64

struct loop_source {
	struct loop *loop;
	int fd;
	loop_callback cb; /* NULL: removed, waiting for the end of the batch */
	void *userdata;
	struct loop_source *next_dead;
};

struct loop {
	int epoll_fd;
	bool stopping;
	struct loop_timer *timers;
	struct loop_source *dead;
	void (*after)(void *userdata);
	void *after_userdata;
};

int loop_new(struct loop **ret)
{
	struct loop *l = calloc(1, sizeof(*l));

	if (!l)
		return error_trace(-ENOMEM);
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll_fd < 0) {
		free(l);
		return error_errno();
	}
	*ret = l;
	return 0;
}

static void loop_bury(struct loop *l)
{
	while (l->dead) {
		struct loop_source *s = l->dead;

		l->dead = s->next_dead;
		free(s);
	}
}

struct loop *loop_free(struct loop *l)
{
	if (l) {
		loop_bury(l);
		fd_close(l->epoll_fd);
		free(l);
	}
	return NULL;
}

int loop_add(struct loop *l, int fd, uint32_t events, loop_callback cb, void *userdata,
	     struct loop_source **ret)
{
	struct loop_source *s = calloc(1, sizeof(*s));
	struct epoll_event ev = {.events = events, .data.ptr = s};

	if (!s)
		return error_trace(-ENOMEM);
	*s = (struct loop_source){.loop = l, .fd = fd, .cb = cb, .userdata = userdata};
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
		int r = error_errno();

		free(s);
		return r;
	}
	*ret = s;
	return 0;
}

struct loop_source *loop_remove(struct loop_source *s)
{
	if (s) {
		/* cannot fail for a descriptor that is still open, as the contract says */
		(void)epoll_ctl(s->loop->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL);
		s->cb = NULL;
		s->next_dead = s->loop->dead;
		s->loop->dead = s;
	}
	return NULL;
}

void loop_timer_clear(struct loop_timer *t)
{
	if (!t->prev)
		return;
	*t->prev = t->next;
	if (t->next)
		t->next->prev = t->prev;
	t->next = NULL;
	t->prev = NULL;
}

void loop_timer_set(struct loop *l, struct loop_timer *t, uint64_t deadline_ns)
{
	loop_timer_clear(t);
	t->deadline_ns = deadline_ns;
	t->next = l->timers;
	t->prev = &l->timers;
	if (t->next)
		t->next->prev = &t->next;
	l->timers = t;
}

void loop_set_after(struct loop *l, void (*after)(void *userdata), void *userdata)
{
	l->after = after;
	l->after_userdata = userdata;
}

static struct loop_timer *earliest_timer(struct loop *l)
{
	struct loop_timer *min = l->timers;

	for (struct loop_timer *t = min; t; t = t->next)
		if (t->deadline_ns < min->deadline_ns)
			min = t;
	return min;
}

/* Those that are due now, earliest first; one that sets itself anew waits for its new time. */
static void loop_fire(struct loop *l)
{
	uint64_t now_ns = clock_now_ns();
	struct loop_timer *t;

	while ((t = earliest_timer(l)) && t->deadline_ns <= now_ns) {
		loop_timer_clear(t);
		t->fire(t->userdata);
	}
}

static int loop_step(struct loop *l)
{
	struct epoll_event events[BATCH];
	struct loop_timer *t = earliest_timer(l);
	int n = epoll_wait(l->epoll_fd, events, BATCH,
			   deadline_poll_ms(t ? t->deadline_ns : DEADLINE_NEVER));

	if (n < 0 && errno != EINTR)
		return error_errno();
	for (int i = 0; i < n; i++) {
		struct loop_source *s = events[i].data.ptr;

		if (s->cb)
			s->cb(s->userdata, events[i].events);
	}
	loop_fire(l);
	if (l->after)
		l->after(l->after_userdata);
	loop_bury(l);
	return 0;
}

int loop_run(struct loop *l)
{
	int r = 0;

	while (r == 0 && !l->stopping)
		r = loop_step(l);
	return r;
}

void loop_stop(struct loop *l)
{
	l->stopping = true;
}
