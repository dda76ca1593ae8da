/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From an event to a page
 *
 * Every thread takes events of any session, and serve.c answers them.
 *
 * Why no fault is lost
 *  1. A thread of the VM that finds its page missing queues an event and sleeps, also when the page
 *     came in the meantime (the kernel looks at the page table only). So every sleep has an event.
 *  2. An event that nobody has read yet disappears when its range is woken, and then the thread
 *     looks again. An event that was read belongs to the thread that read it, which ends it with a
 *     wake, with the mark WAITED on the frame (frames.h), with the read that it hands to the
 *     loader, or with the end of the session.
 *     (The mark ALIAS says that the page waited for is not an owner. Then whoever brings the frame
 *     wakes all memory: it does not know which pages share the frame's slots.)
 *  3. The mark is left by compare-and-swap on LOADING, and who brings the frame leaves LOADING by
 *     an exchange after its last insertion. So either that one sees the mark and wakes, or the
 *     marker sees the final state and deals with it.
 *  4. What could not be done is undone (ABSENT) and woken: the VM's threads raise their events
 *     anew. That also is the answer to EAGAIN: the mappings of the VM are being changed, and the
 *     change waits for a thread of ours to read its event. So wake, go back to reading, and meet
 *     the same fault again; never insist here.
 *  5. A session that attaches while a frame is being read has not been served yet: its events wait
 *     in its userfaultfd, and find the frame LOADING or RESIDENT when they are read.
 *
 * A VM whose page cannot be had is killed. Its threads would wait for ever, and the only other
 * answer, zeros, is wrong.
 *
 * Here nothing is allocated and nothing is logged; a failure's text is made in the session.
 */
#include "pager/fault.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "pager/pager.h"
#include "pager/serve.h"
#include "sys/uffd.h"

#define EVENTS_PER_READ ((int)SLATE_INBOX) /* the others stay for other threads */
#define READS_IN_A_ROW	64
#define READY_PER_WAIT	4

struct fault_thread {
	struct pager *p;
	struct bounce bounce;
	pthread_t thread;
	unsigned n_threads; /* in the first one: how many there are */
};

/* Events that are not faults, before any fault that came after them is served. */
static void note_event(struct fault_thread *t, struct session *s, const struct uffd_msg *m)
{
	switch (m->event) {
	case UFFD_EVENT_PAGEFAULT:
	case UFFD_EVENT_UNMAP: /* nobody can fault there any more */
		break;
	case UFFD_EVENT_REMOVE:
		session_remove(s, m->arg.remove.start, m->arg.remove.end);
		break;
	case UFFD_EVENT_FORK: /* reading the event made a descriptor of the child's */
		fd_close((int)m->arg.fork.ufd);
		pager_fail(t->p, s, "the VM forked: two processes cannot share one session");
		break;
	default:
		pager_fail(t->p, s, "the VM moved its memory");
	}
}

static int read_events(struct fault_thread *t, struct session *s, struct uffd_msg *msgs)
{
	int n = uffd_read(s->uffd, msgs, EVENTS_PER_READ);

	for (int i = 0; i < n; i++)
		note_event(t, s, &msgs[i]);
	return n;
}

/* What was read and not noted is found in the slate by whoever takes the VM over from us. */
static int read_removals(struct fault_thread *t, struct session *s, struct uffd_msg *msgs)
{
	struct uffd_msg *inbox;
	int n;

	pthread_rwlock_wrlock(&s->remove_lock);
	inbox = slate_begin(&s->slate);
	n = read_events(t, s, inbox);
	if (n > 0)
		memcpy(msgs, inbox, (size_t)n * sizeof(*msgs));
	slate_end(&s->slate);
	pthread_rwlock_unlock(&s->remove_lock);
	return n;
}

/* Its descriptor reports once per fault (EPOLLET): whoever leaves something there says so. */
static void leave_to_others(struct fault_thread *t, struct session *s)
{
	struct epoll_event e = {.events = EPOLLIN | EPOLLET, .data.u64 = s->handle};

	(void)epoll_ctl(t->p->epoll_fd, EPOLL_CTL_MOD, s->uffd, &e); /* ENOENT: not served now */
}

/* Return: how many events there were */
static int serve_some(struct fault_thread *t, struct session *s)
{
	struct uffd_msg msgs[EVENTS_PER_READ];
	uint64_t read_ns;
	int n = s->can_remove ? read_removals(t, s, msgs) : read_events(t, s, msgs);

	if (n < 0)
		pager_fail(t->p, s, "the VM's userfaultfd cannot be read");
	if (n == EVENTS_PER_READ)
		leave_to_others(t, s);
	read_ns = clock_now_ns();
	for (int i = 0; i < n && session_state(s) == SESSION_SERVING; i++)
		if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
			serve_fault(t->p, s, &t->bounce, &msgs[i], read_ns);
	return n;
}

static void serve_session(struct fault_thread *t, struct session *s, uint32_t ready)
{
	unsigned reads = 0;

	/* the VM made the descriptor blocking, and would have us wait */
	if (ready & (EPOLLERR | EPOLLHUP))
		pager_fail(t->p, s, "the VM's userfaultfd cannot be read");
	while (session_state(s) == SESSION_SERVING && serve_some(t, s) > 0)
		if (++reads == READS_IN_A_ROW) { /* it is the others' turn */
			leave_to_others(t, s);
			break;
		}
	if (session_state(s) != SESSION_SERVING)
		(void)epoll_ctl(t->p->epoll_fd, EPOLL_CTL_DEL, s->uffd, NULL);
}

static void *run(void *arg)
{
	struct fault_thread *t = arg;
	struct epoll_event ready[READY_PER_WAIT];

	for (;;) {
		int n = epoll_wait(t->p->epoll_fd, ready, READY_PER_WAIT, -1);

		for (int i = 0; i < n; i++) {
			struct session *s;

			if (ready[i].data.u64 == PAGER_STOP_HANDLE)
				return NULL;
			s = pager_hold(t->p, ready[i].data.u64);
			if (!s)
				continue;
			serve_session(t, s, ready[i].events);
			pager_release(s);
		}
	}
}

static int start_one(struct fault_thread *t)
{
	sigset_t all, before;
	int r = bounce_init(&t->bounce);

	if (r < 0)
		return r;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = -pthread_create(&t->thread, NULL, run, t);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r < 0)
		bounce_deinit(&t->bounce);
	return error_trace(r);
}

int fault_threads_start(struct pager *p, unsigned n, struct fault_thread **ret)
{
	struct fault_thread *t = calloc(n, sizeof(*t));
	int r = 0;

	if (!t)
		return -ENOMEM;
	for (unsigned i = 0; i < n && r == 0; i++) {
		t[i].p = p;
		r = start_one(&t[i]);
		if (r == 0)
			t->n_threads++;
	}
	if (r < 0) {
		fault_threads_stop(p, t);
		return r;
	}
	*ret = t;
	return 0;
}

void fault_threads_stop(struct pager *p, struct fault_thread *t)
{
	if (!t)
		return;
	(void)eventfd_write(p->stop_fd, 1); /* never read, so all of them see it */
	for (unsigned i = 0; i < t->n_threads; i++) {
		pthread_join(t[i].thread, NULL);
		bounce_deinit(&t[i].bounce);
	}
	free(t);
}
