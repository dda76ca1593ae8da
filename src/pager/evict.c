/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Eviction
 *
 * Every page here can be had again from its layer, and whoever has written to one has a copy of its
 * own. So pages are taken away by punching holes into the memfd: they vanish from the VMs that have
 * them mapped, and come back by a fault (a refault).
 *
 * When. Three marks for a limit L, of the host or of an image:
 *
 *     L            above it, a thread that brought pages in takes as many away (evict_help())
 *     L - L / 32   above it, the thread here is woken, by one write to an eventfd
 *     L - L / 16   down to here it evicts, and then sleeps again
 *
 * So resident memory stays at or below L but for what is on its way in: a frame for each thread
 * that loads, and one background read. (And some more while the thread here has the lock but no
 * processor: whoever has to help waits HELP_MS for it and no longer, since faults come first.)
 *
 * Under pressure (psi.h) a sixteenth of all resident memory is evicted for each event; events come
 * at most once in the window of the trigger, for as long as there is pressure. Without a trigger,
 * MemAvailable is looked at once a second.
 *
 * Who goes first
 *  1. An image over its own limit pays for it, and only it.
 *  2. Memory without sessions, oldest first, without a second chance. It stays in the list, empty,
 *     until its time is up.
 *  3. Otherwise images give in proportion to what they have: each gets credit by its size, the one
 *     with the most is next and pays with the credit of all (the smooth weighted round of nginx).
 *     Within an image a hand goes round over its frames and takes those whose clock has run down
 *     (frames.h). How much a frame has on its clock: 3 when it was needed again after it had been
 *     evicted, or was asked for by a second VM; 1 when a fault asked for it; 0 when it was only
 *     thought to be useful. A page that is mapped is used without our knowing; so being needed
 *     again is the evidence there is. Pages that belong to no frame (aliases, zeros) have no clock:
 *     a second hand sweeps them at the same pace.
 *  4. Frames of a working set are favoured: passed over until nothing else is left, in any image.
 *     Then they go by the clock too, but a share of each working set stays, the floor (25 %): it
 *     would be the first to be read again. Should the floors together be more than half of the
 *     limit, they are lowered until they are half. Whoever wants a limit gets it.
 *  5. Memory that is kept (resident_keep(): VMs that need all of it and do not ask us) never goes.
 *     If that is more than the limit, the limit does not hold; it is counted (stalls), and nobody
 *     tries again for a tenth of a second.
 *
 * Worked example: limit 1 GiB, image A 700 MiB with sessions, B 200 MiB with sessions, C 100 MiB
 * that lingers. A fault in A passes 992 MiB. C goes first, until 960 MiB are reached: 32 MiB of it.
 * Once C is empty, of every 90 MiB A gives 70 and B 20.
 *
 * All of this (evict-choose.c) runs under one lock, for a batch of frames at a time. It keeps the
 * list of residents and their hands; the control thread takes it to change the list, faults only
 * above the limits. Wakes are given under it: a fault that found the frame being taken away left a
 * mark, and has to look again.
 */
#include "pager/evict-internal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"

#define HELP_PAGES     (2 * IMAGE_FRAME_PAGES)
#define HELP_TRIES     4
#define HELP_MS	       5 /* wait for the lock for so long */
#define PRESSURE_SHARE 16
#define PRESSURE_MIN   1024u /* pages; less helps nobody */
#define LOOK_MS	       1000  /* between looks at MemAvailable */
#define NICE	       10

/* ---- the thread -------------------------------------------------------------------------------
 */

static void pursue(struct evict *e, const struct goal *g)
{
	uint64_t begun_ns = clock_now_ns(), freed = 0;

	pthread_mutex_lock(&e->lock);
	evict_begin(e);
	pthread_mutex_unlock(&e->lock);
	while (freed != UINT64_MAX) {
		pthread_mutex_lock(&e->lock);
		freed = evict_step(e, g);
		pthread_mutex_unlock(&e->lock);
	}
	count(e->n.busy_ns, clock_now_ns() - begun_ns);
}

static uint64_t low_mark(uint64_t limit)
{
	return limit ? limit - limit / 16 : UINT64_MAX;
}

static bool is_above(struct evict *e, uint64_t limit, uint64_t image_limit)
{
	const struct goal g = {.pages = limit ? resident_mark(limit) : UINT64_MAX,
			       .image_pages =
				       image_limit ? resident_mark(image_limit) : UINT64_MAX};
	bool above;

	pthread_mutex_lock(&e->lock);
	above = !evict_is_reached(e, &g);
	pthread_mutex_unlock(&e->lock);
	return above;
}

static void relieve(struct evict *e, bool pressure)
{
	const struct resident_budget *b = &e->p->budget;
	uint64_t limit = get(b->limit), image_limit = get(b->image_limit), pages = get(b->pages);
	struct goal g = {.pages = low_mark(limit),
			 .image_pages = low_mark(image_limit),
			 .cause = EVICT_LIMIT};

	if (is_above(e, limit, image_limit))
		pursue(e, &g);
	if (!pressure)
		return;
	count(e->n.events, 1);
	if (pages < PRESSURE_MIN)
		return;
	g.pages = pages - MAX(pages / PRESSURE_SHARE, (uint64_t)PRESSURE_MIN);
	g.cause = EVICT_PRESSURE;
	pursue(e, &g);
}

enum { POLL_STOP, POLL_WAKE, POLL_PSI, N_POLL = POLL_PSI + PSI_MAX_FDS };

/* Return: is the host short of memory? */
static bool wait_for_work(struct evict *e, struct pollfd polls[N_POLL])
{
	bool rests = !deadline_passed(get(e->rest_until_ns)), pressure = false;
	eventfd_t n;

	for (unsigned i = 0; i < PSI_MAX_FDS; i++)
		polls[POLL_PSI + i] =
			(struct pollfd){.fd = i < e->psi.n ? e->psi.fds[i] : -1, .events = POLLPRI};
	polls[POLL_STOP] = (struct pollfd){.fd = e->stop_fd, .events = POLLIN};
	polls[POLL_WAKE] =
		(struct pollfd){.fd = rests ? -1 : e->p->budget.wake_fd, .events = POLLIN};
	if (poll(polls, N_POLL, rests ? EVICT_REST_MS : e->looks ? LOOK_MS : -1) < 0)
		return false;
	for (unsigned i = e->psi.n; i-- > 0;) {
		pressure |= (polls[POLL_PSI + i].revents & POLLPRI) != 0;
		if (polls[POLL_PSI + i].revents & (POLLERR | POLLNVAL))
			psi_drop(&e->psi, i);
	}
	if (!rests) {
		(void)eventfd_read(e->p->budget.wake_fd, &n); /* EAGAIN: it was something else */
		__atomic_store_n(&e->p->budget.woken, 0, __ATOMIC_SEQ_CST); /* then look */
	}
	return pressure || (e->looks && psi_is_short());
}

static void *run(void *arg)
{
	struct evict *e = arg;
	struct pollfd polls[N_POLL];

	(void)setpriority(PRIO_PROCESS, 0, NICE); /* of this thread; faults come first */
	for (;;) {
		bool pressure = wait_for_work(e, polls);

		if (polls[POLL_STOP].revents)
			return NULL;
		relieve(e, pressure);
	}
}

static int start(struct evict *e)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = -pthread_create(&e->thread, NULL, run, e);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	e->started = r == 0;
	return error_trace(r);
}

static void watch_pressure(struct evict *e)
{
	if (e->p->options.no_pressure) {
		str_copy(e->text, sizeof(e->text), "not watched");
		return;
	}
	e->looks = psi_open(&e->psi) < 0;
	e->watches = !e->looks;
	if (e->looks)
		(void)snprintf(e->text, sizeof(e->text), "MemAvailable, once a second (%s)",
			       e->psi.text);
	else
		str_copy(e->text, sizeof(e->text), e->psi.text);
}

int evict_new(struct pager *p, struct evict **ret)
{
	struct evict *e = calloc(1, sizeof(*e));
	int r;

	if (!e)
		return -ENOMEM;
	e->p = p;
	e->floor_percent = p->options.floor_percent;
	pthread_mutex_init(&e->lock, NULL);
	e->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->budget.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	*ret = e;
	if (e->stop_fd < 0 || p->budget.wake_fd < 0)
		return error_errno();
	watch_pressure(e);
	evict_limits(p, p->options.memory_limit, p->options.image_limit);
	r = start(e);
	return r;
}

void evict_stop(struct evict *e)
{
	if (!e || !e->started)
		return;
	(void)eventfd_write(e->stop_fd, 1);
	pthread_join(e->thread, NULL);
	e->started = false;
}

struct evict *evict_free(struct evict *e)
{
	if (!e)
		return NULL;
	evict_stop(e);
	psi_close(&e->psi);
	fd_close(e->stop_fd);
	e->p->budget.wake_fd = fd_close(e->p->budget.wake_fd);
	pthread_mutex_destroy(&e->lock);
	free(e);
	return NULL;
}

/* ---- others -----------------------------------------------------------------------------------
 */

void evict_lock(struct pager *p)
{
	pthread_mutex_lock(&p->evict->lock);
}

void evict_unlock(struct pager *p)
{
	pthread_mutex_unlock(&p->evict->lock);
}

void evict_help_now(struct pager *p)
{
	struct evict *e = p->evict;
	uint64_t limit = get(p->budget.limit), image_limit = get(p->budget.image_limit);
	const struct goal g = {.pages = limit ? limit : UINT64_MAX,
			       .image_pages = image_limit ? image_limit : UINT64_MAX,
			       .cause = EVICT_LIMIT};
	uint64_t freed = 0, n;

	if (!deadline_passed(get(e->rest_until_ns)))
		return;
	/* the thread that has it has a low priority, and may have to wait for a processor: others
	 * need this one more than the limit needs to be exact */
	if (deadline_lock(&e->lock, deadline_after_ms(HELP_MS)) < 0)
		return;
	for (int i = 0; i < HELP_TRIES && freed < HELP_PAGES; i++) {
		n = evict_step(e, &g);
		if (n == UINT64_MAX)
			break;
		freed += n;
	}
	pthread_mutex_unlock(&e->lock);
	count(e->n.helped, freed);
}

static uint64_t pages_of(uint64_t bytes)
{
	return bytes / DORM_PAGE_SIZE + (bytes % DORM_PAGE_SIZE != 0);
}

void evict_limits(struct pager *p, uint64_t memory_limit, uint64_t image_limit)
{
	__atomic_store_n(&p->budget.limit, pages_of(memory_limit), __ATOMIC_RELAXED);
	__atomic_store_n(&p->budget.image_limit, pages_of(image_limit), __ATOMIC_RELAXED);
	__atomic_store_n(&p->evict->rest_until_ns, 0, __ATOMIC_RELAXED);
	(void)eventfd_write(p->budget.wake_fd, 1);
}

bool evict_has_room(struct pager *p, const struct resident *r)
{
	uint64_t limit = get(p->budget.limit), image_limit = get(p->budget.image_limit);
	uint64_t need = image_stored_pages(r->image);

	if (get(r->n_kept))
		return true; /* it stays as it is */
	if (image_limit && need > image_limit)
		return false;
	evict_lock(p);
	for (const struct resident *o = p->residents; o; o = o->next)
		if (o != r && get(o->n_kept))
			need += get(o->present_pages);
	evict_unlock(p);
	return !limit || need <= limit;
}

int evict_parse(const char *text, uint64_t *ret)
{
	_cleanup_free_ char *number = NULL;
	const size_t len = strlen(text);
	uint64_t v;

	if (!len || text[len - 1] != '%') {
		if (str_to_bytes(text, &v) < 0)
			return -EINVAL;
	} else {
		number = strndup(text, len - 1);
		if (!number || str_to_u64(number, &v) < 0 || v < 1 || v > 100)
			return -EINVAL;
		v = (uint64_t)sysconf(_SC_PHYS_PAGES) / 100 * v * DORM_PAGE_SIZE;
	}
	if (v && v < EVICT_MIN_LIMIT)
		return -EINVAL;
	*ret = v;
	return 0;
}

const char *evict_pressure_text(const struct pager *p)
{
	return p->evict->text;
}

size_t evict_watched(const struct pager *p, int *fds, size_t max)
{
	const struct psi *psi = &p->evict->psi;
	size_t n = 0;

	for (; n < psi->n && n < max; n++)
		fds[n] = psi->fds[n];
	return n;
}

bool evict_is_watching(const struct pager *p)
{
	return p->evict->watches;
}

void evict_counters(const struct pager *p, struct evict_counters *ret)
{
	const struct evict_counters *n = &p->evict->n;

	for (int i = 0; i < EVICT_N_CAUSES; i++)
		ret->pages[i] = get(n->pages[i]);
	ret->helped = get(n->helped);
	ret->floor_hits = get(n->floor_hits);
	ret->stalls = get(n->stalls);
	ret->events = get(n->events);
	ret->busy_ns = get(n->busy_ns);
}

json_t *evict_stats(const struct pager *p)
{
	struct evict_counters n;

	evict_counters(p, &n);
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}",
			 "resident_pages", (json_int_t)get(p->budget.pages), "memory_limit_pages",
			 (json_int_t)get(p->budget.limit), "image_limit_pages",
			 (json_int_t)get(p->budget.image_limit), "pages_limit",
			 (json_int_t)n.pages[EVICT_LIMIT], "pages_image_limit",
			 (json_int_t)n.pages[EVICT_IMAGE_LIMIT], "pages_pressure",
			 (json_int_t)n.pages[EVICT_PRESSURE], "pages_helped", (json_int_t)n.helped,
			 "floor_hits", (json_int_t)n.floor_hits, "stalls", (json_int_t)n.stalls,
			 "pressure_events", (json_int_t)n.events, "busy_ns", (json_int_t)n.busy_ns,
			 "pressure", evict_pressure_text(p));
}
