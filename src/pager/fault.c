/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From an event to a page
 *
 * Every thread takes events of any session. An event is a host address; it becomes a guest page,
 * and the map says where that page's bytes are:
 *
 *   given back by the VM         zeros into the VM's own range, whatever the map says
 *   a page of a frame            resident_claim() decides:
 *       nobody has it            read, verify, insert the whole frame, then wake
 *       being read               leave a mark; whoever reads it wakes everybody. Go on at once
 *       there                    it came between the touch and now: wake
 *                                but a page that shares its slot with a lower one, the owner, is
 *                                copied from the owner first; loading a frame inserts only owners
 *       known to be corrupt      the session fails
 *   zero, in a short run         zero pages into the memfd: the next VM has no event for them
 *   zero, in a run of 64 KiB or  zero pages into the VM's own range, all of the run that lies in
 * the more                         same 2 MiB: costs no memory. Remembered for VMs that attach
 * later
 *
 * Why no fault is lost
 *  1. A thread of the VM that finds its page missing queues an event and sleeps, also when the page
 *     came in the meantime (the kernel looks at the page table only). So every sleep has an event.
 *  2. An event that nobody has read yet disappears when its range is woken, and then the thread
 * looks again. An event that was read belongs to the thread that read it, which ends it with a
 * wake, with the mark LOADING_WAITED, or with the end of the session.
 *     (A mark of its own says that the page waited for is not an owner. Then the loader wakes all
 *     memory: it does not know which pages share the frame's slots.)
 *  3. The mark is left by compare-and-swap on LOADING, and the loader leaves LOADING by an exchange
 *     after its last insertion. So either the loader sees the mark and wakes all, or the marker
 * sees the loader's final state and deals with it.
 *  4. What could not be done is undone (ABSENT) and woken: the VM's threads raise their events
 * anew. That also is the answer to EAGAIN: the mappings of the VM are being changed, and the change
 *     waits for a thread of ours to read its event. So wake, go back to reading, and meet the same
 *     fault again; never insist here.
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
#include "sys/uffd.h"

#define EVENTS_PER_READ 4u /* the others stay for other threads */
#define READY_PER_WAIT	4
#define SHORT_RUN	RESIDENT_BLOCK_PAGES /* zero runs below this go into the memfd */

struct fault_thread {
	struct pager *p;
	struct bounce bounce;
	pthread_t thread;
	unsigned n_threads; /* in the first one: how many there are */
};

#define count(_field, _n) ((void)__atomic_fetch_add(&(_field), (_n), __ATOMIC_RELAXED))

/* One fault of one session, on its way through this file. */
struct fault {
	struct fault_thread *t;
	struct session *s;
	uint64_t gfn;
	uint64_t read_ns;
};

static void fail(struct fault *f, const char *text)
{
	pager_fail(f->t->p, f->s, text);
}

static void served(struct fault *f)
{
	histogram_add(&f->s->service_ns, clock_now_ns() - f->read_ns);
}

/* The page is in the memory of the image: let the VM look again. */
static void serve_present(struct fault *f, uint64_t first, uint64_t n_pages)
{
	if (session_repeats(f->s, f->gfn)) {
		fail(f, "the VM's memory is not a mapping of the image's memory");
		return;
	}
	session_wake(f->s, first, n_pages);
	served(f);
}

/* The VM's own range did not take a page. */
static void zero_result(struct fault *f, int r)
{
	char text[256];

	switch (r) {
	case 0:
		served(f);
		break;
	case -EAGAIN: /* woken; rule 4 above */
		break;
	case -ESRCH: /* the process is ending; its pidfd will tell the control thread */
		(void)epoll_ctl(f->t->p->epoll_fd, EPOLL_CTL_DEL, f->s->uffd, NULL);
		break;
	default:
		(void)snprintf(text, sizeof(text),
			       "zero pages at gfn %llu could not be installed in the VM: %s",
			       (unsigned long long)f->gfn,
			       r == -ENOENT ? "it unmapped or unregistered part of its memory"
					    : strerrordesc_np(-r));
		fail(f, text);
	}
}

static void serve_removed(struct fault *f)
{
	uint64_t first = f->gfn, end = f->gfn + 1, installed = 0;
	uint64_t block = f->gfn - f->gfn % RESIDENT_BLOCK_PAGES;
	uint64_t block_end = MIN(block + RESIDENT_BLOCK_PAGES, f->s->resident->n_pages);

	while (first > block && session_is_removed(f->s, first - 1))
		first--;
	while (end < block_end && session_is_removed(f->s, end))
		end++;
	count(f->s->n.faults_zero, 1);
	zero_result(f, session_zero(f->s, first, end - first, f->gfn, &installed));
}

static void serve_short_zeros(struct fault *f, uint64_t first, uint64_t n_pages)
{
	uint64_t inserted = 0;
	char text[256];
	int r = resident_insert_zeros(f->s->resident, first, n_pages, &inserted);

	count(f->s->n.pages_inserted, inserted);
	if (r == 0) {
		serve_present(f, first, n_pages);
		return;
	}
	(void)snprintf(
		text, sizeof(text), "image %s gfn %llu: zero pages could not be inserted: %s",
		image_id(f->s->resident->image), (unsigned long long)f->gfn, strerrordesc_np(-r));
	fail(f, text);
}

static void serve_zero(struct fault *f, const struct page_run *run)
{
	uint64_t window = f->gfn - f->gfn % RESIDENT_WINDOW_PAGES, installed = 0;
	uint64_t first = MAX(run->gfn, window);
	uint64_t end = MIN(run->gfn + run->n_pages, window + RESIDENT_WINDOW_PAGES);
	int r;

	count(f->s->n.faults_zero, 1);
	if (end - first < SHORT_RUN) {
		serve_short_zeros(f, first, end - first);
		return;
	}
	r = session_zero(f->s, first, end - first, f->gfn, &installed);
	if (r == 0)
		resident_remember_zeros(f->s->resident, first, end - first);
	zero_result(f, r);
}

static void frame_text(const struct resident *r, uint32_t layer, uint32_t frame, const char *why,
		       char out[512])
{
	(void)snprintf(out, 512, "image %s layer %s frame %u: %.300s", image_id(r->image),
		       image_layer_id(r->image, layer), frame, why);
}

/* The frame did not come, for reason @e. What is left of LOADING, and who must know? */
static enum frame_state load_failed(struct fault *f, uint32_t layer, uint32_t frame, int e,
				    struct problem *problem)
{
	struct resident *r = f->s->resident;
	char text[512];

	if (e == RESIDENT_E_POISONED) {
		resident_poison_text(r, text);
		resident_note_failure(r, layer, frame, text);
		pager_fail_all(f->t->p, r, text);
		return FRAME_FAILED;
	}
	if (e < 0)
		problem_errno(problem, e, "it could not be loaded");
	frame_text(r, layer, frame, problem->message, text);
	if (e == RESIDENT_E_CORRUPT)
		resident_note_failure(r, layer, frame, text);
	fail(f, text);
	return e == RESIDENT_E_CORRUPT ? FRAME_FAILED : FRAME_ABSENT;
}

/* The part of @run that lies in the same frame as the page, and whose slots others own. */
static struct page_run alias_part(const struct fault *f, const struct page_run *run)
{
	uint64_t slot = run->slot + (f->gfn - run->gfn);
	uint64_t begin = MAX(run->slot, slot - slot % IMAGE_FRAME_PAGES);
	uint64_t end =
		MIN(run->slot + run->n_pages, slot - slot % IMAGE_FRAME_PAGES + IMAGE_FRAME_PAGES);

	return (struct page_run){.gfn = run->gfn + (begin - run->slot),
				 .n_pages = end - begin,
				 .layer = run->layer,
				 .slot = begin};
}

/* The frame is there: make it so of this part as well. Return: is it? */
static bool copy_aliases(struct fault *f, const struct page_run *part, bool decoded)
{
	struct resident *r = f->s->resident;
	uint64_t inserted = 0;
	char text[512];
	int e = resident_copy_aliases(r, &f->t->bounce, part, decoded, &inserted);

	count(f->s->n.pages_inserted, inserted);
	if (e == 0)
		return true;
	if (e == RESIDENT_E_POISONED) {
		resident_poison_text(r, text);
		pager_fail_all(f->t->p, r, text);
		return false;
	}
	(void)snprintf(text, sizeof(text),
		       "image %s gfn %llu: a page with the content of another one could not be "
		       "copied: %s",
		       image_id(r->image), (unsigned long long)f->gfn, strerrordesc_np(-e));
	fail(f, text);
	return false;
}

static void wake_loaded(struct fault *f, enum frame_wake wake, const struct frame_page *pages,
			uint32_t n)
{
	if (wake == WAKE_ALL)
		pager_wake_memory(f->t->p, f->s->resident);
	else if (wake == WAKE_FRAME)
		pager_wake_all(f->t->p, f->s->resident, pages, n);
	else
		pager_wake(f->s, pages, n);
}

/* @aliases: of the page that is waited for, if it does not own its slot; NULL: it does */
static void load_frame(struct fault *f, uint32_t layer, uint32_t frame,
		       const struct page_run *aliases)
{
	struct frame_page pages[IMAGE_FRAME_PAGES];
	struct problem problem = PROBLEM_INIT;
	enum frame_state state = FRAME_RESIDENT;
	uint64_t inserted = 0, bytes = 0;
	bool copied = true;
	uint32_t n = 0;
	int e = resident_load(f->s->resident, &f->t->bounce, layer, frame, pages, &n, &inserted,
			      &bytes, &problem);

	count(f->s->n.faults_stored, 1);
	count(f->s->n.frames_loaded, bytes ? 1 : 0);
	count(f->s->n.bytes_read, bytes);
	count(f->s->n.pages_inserted, inserted);
	if (e)
		state = load_failed(f, layer, frame, e, &problem);
	else if (aliases)
		copied = copy_aliases(f, aliases, true);
	wake_loaded(f, resident_settle(f->s->resident, layer, frame, state), pages, n);
	if (aliases)
		session_wake(f->s, aliases->gfn, aliases->n_pages);
	if (e == 0 && copied)
		served(f);
}

static void serve_resident(struct fault *f, const struct page_run *aliases)
{
	count(f->s->n.faults_resident, 1);
	if (!aliases)
		serve_present(f, f->gfn, 1);
	else if (copy_aliases(f, aliases, false))
		serve_present(f, aliases->gfn, aliases->n_pages);
}

static void serve_stored(struct fault *f, const struct page_run *run)
{
	uint64_t slot = run->slot + (f->gfn - run->gfn);
	uint32_t frame = (uint32_t)(slot / IMAGE_FRAME_PAGES);
	bool alias = image_owner(f->s->resident->image, run->layer, slot) != f->gfn;
	struct page_run part = alias_part(f, run);
	char text[512];

	switch (resident_claim(f->s->resident, run->layer, frame, alias)) {
	case FRAME_ABSENT:
		load_frame(f, run->layer, frame, alias ? &part : NULL);
		break;
	case FRAME_LOADING:
	case FRAME_LOADING_WAITED:
	case FRAME_LOADING_ALIAS:
		count(f->s->n.faults_joined, 1);
		break;
	case FRAME_RESIDENT:
		serve_resident(f, alias ? &part : NULL);
		break;
	case FRAME_FAILED:
		resident_failure(f->s->resident, run->layer, frame, text);
		fail(f, text);
		break;
	}
}

static void serve_fault(struct fault *f, const struct uffd_msg *m)
{
	uint64_t flags = m->arg.pagefault.flags;
	struct page_run run;

	if (flags & (UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_MINOR)) {
		fail(f, "the VM's memory is registered for events other than missing pages");
		return;
	}
	if (!session_gfn(f->s, m->arg.pagefault.address, &f->gfn)) {
		fail(f, "a page fault outside of the regions of the handshake");
		return;
	}
	if (session_is_removed(f->s, f->gfn)) {
		serve_removed(f);
		return;
	}
	image_lookup(f->s->resident->image, f->gfn, &run);
	if (run.layer == IMAGE_LAYER_ZERO)
		serve_zero(f, &run);
	else
		serve_stored(f, &run);
}

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

static void serve_session(struct fault_thread *t, struct session *s, uint32_t ready)
{
	struct uffd_msg msgs[EVENTS_PER_READ];
	struct fault f = {.t = t, .s = s};
	int n = 0;

	if (session_state(s) == SESSION_SERVING) {
		LOCK_SCOPE(&s->read_lock);
		n = uffd_read(s->uffd, msgs, EVENTS_PER_READ);
		f.read_ns = clock_now_ns();
		for (int i = 0; i < n; i++)
			note_event(t, s, &msgs[i]);
	}
	/* EPOLLERR: the VM made the descriptor blocking, and would have us wait */
	if (n < 0 || (ready & (EPOLLERR | EPOLLHUP)))
		pager_fail(t->p, s, "the VM's userfaultfd cannot be read");
	for (int i = 0; i < n && session_state(s) == SESSION_SERVING; i++)
		if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
			serve_fault(&f, &msgs[i]);
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
