/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/pager.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/rwlock.h"
#include "image/image-base.h"
#include "pager/background.h"
#include "pager/evict.h"
#include "pager/fault.h"
#include "pager/loader.h"
#include "pager/mode.h"
#include "pager/recording.h"

#define TICK_MS	     1000
#define TICK_SOON_MS 20 /* while a retired session is still in use */
#define SLOT_BITS    16

static_assert(PAGER_MAX_SESSIONS < 1u << SLOT_BITS, "a slot number fits into a handle");

static int init_fds(struct pager *p)
{
	struct epoll_event e = {.events = EPOLLIN, .data.u64 = PAGER_STOP_HANDLE};

	p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	p->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->attention_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->epoll_fd < 0 || p->stop_fd < 0 || p->attention_fd < 0 ||
	    epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, p->stop_fd, &e) < 0)
		return error_errno();
	return 0;
}

static unsigned default_threads(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 2 ? 2 : n > 4 ? 4 : (unsigned)n;
}

int pager_new(const struct pager_options *options, struct pager **ret)
{
	_cleanup_(pager_freep) struct pager *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	p->options = *options;
	if (!p->options.n_threads)
		p->options.n_threads = default_threads();
	p->epoll_fd = p->stop_fd = p->attention_fd = p->budget.wake_fd = -1;
	p->started_real_ns = clock_real_ns();
	r = rwlock_init(&p->lock);
	if (r == 0)
		r = background_init(p);
	if (r == 0)
		r = evict_new(p, &p->evict);
	if (r == 0)
		r = init_fds(p);
	if (r == 0)
		r = loader_new(&(struct loader_options){.next = background_next, .ctx = p},
			       &p->loader);
	if (r == 0)
		r = fault_threads_start(p, p->options.n_threads, &p->threads);
	if (r < 0)
		return r;
	*ret = take_ptr(p);
	return 0;
}

static struct session *free_session(struct session *s)
{
	if (s) {
		job_free(s->job);
		recording_free(s->recording);
	}
	return session_free(s);
}

static struct resident *free_resident(struct resident *r)
{
	job_free(r->job);
	return resident_free(r);
}

void pager_quiesce(struct pager *p)
{
	fault_threads_stop(p, take_ptr(p->threads));
	if (p->loader)
		loader_quiesce(p->loader);
	evict_stop(p->evict); /* a successor counts on what is there */
}

struct pager *pager_free(struct pager *p)
{
	if (!p)
		return NULL;
	pager_quiesce(p);
	for (uint32_t i = 0; i < PAGER_MAX_SESSIONS; i++)
		p->slots[i] = free_session(p->slots[i]);
	while (p->retired) {
		struct session *s = p->retired;

		p->retired = s->next;
		free_session(s);
	}
	while (p->residents) {
		struct resident *r = p->residents;

		p->residents = r->next;
		free_resident(r);
	}
	loader_free(p->loader);
	evict_free(p->evict);
	background_deinit(p);
	for (uint32_t i = 0; i < PAGER_MAX_HISTORY; i++)
		json_decref(p->history[i]);
	fd_close(p->epoll_fd);
	fd_close(p->stop_fd);
	fd_close(p->attention_fd);
	pthread_rwlock_destroy(&p->lock);
	free(p);
	return NULL;
}

/* ---- images -----------------------------------------------------------------------------------
 */

/* A base may lack layers that its owner has no page of (image-base.h): it cannot stand in for an
 * image that has them. */
static bool covers(const struct image *have, const struct image *want)
{
	for (uint32_t i = 0; image_missing_layers(have) && i < image_n_layers(have); i++)
		if (image_layer_is_missing(have, i) && !image_layer_is_missing(want, i))
			return false;
	return true;
}

/* A poisoned image is left to those who have it. */
static struct resident *find_resident(struct pager *p, const struct image *image)
{
	for (struct resident *r = p->residents; r; r = r->next)
		if (!strcmp(image_id(r->image), image_id(image)) &&
		    r->n_pages == image_n_pages(image) && covers(r->image, image) &&
		    resident_audit(r) == 0)
			return r;
	return NULL;
}

static void drop_resident(struct pager *p, struct resident *victim)
{
	for (struct resident **r = &p->residents; *r; r = &(*r)->next) {
		if (*r != victim)
			continue;
		evict_lock(p);
		*r = victim->next;
		evict_unlock(p);
		free_resident(victim);
		return;
	}
}

/* What nobody uses leaves when its time is up, when it is no good, or when there are too many. */
static void drop_idle_residents(struct pager *p)
{
	uint64_t now = clock_now_ns();

	for (;;) {
		struct resident *victim = NULL;
		uint32_t idle = 0;

		for (struct resident *r = p->residents; r; r = r->next) {
			if (r->n_sessions || job_state(r->job) == JOB_LOADING)
				continue;
			idle++;
			if (!victim || r->idle_since_ns < victim->idle_since_ns)
				victim = r;
			if (resident_has_failures(r) || resident_audit(r) != 0) {
				victim = r;
				idle = UINT32_MAX;
				break;
			}
		}
		if (!victim || (idle <= p->options.max_lingering &&
				now - victim->idle_since_ns < p->options.linger_ns))
			return;
		drop_resident(p, victim);
	}
}

static void audit_residents(struct pager *p)
{
	char text[512];

	for (struct resident *r = p->residents; r; r = r->next) {
		bool idle = !r->n_sessions && job_state(r->job) != JOB_LOADING;

		__atomic_store_n(&r->idle_ns, idle ? r->idle_since_ns : 0, __ATOMIC_RELEASE);
		if (!r->n_sessions || resident_audit(r) != RESIDENT_E_POISONED)
			continue;
		resident_poison_text(r, text);
		pager_fail_all(p, r, text);
	}
}

/* ---- sessions ---------------------------------------------------------------------------------
 */

struct session *pager_find(struct pager *p, const char *name)
{
	for (uint32_t i = 0; i < PAGER_MAX_SESSIONS; i++) {
		struct session *s = p->slots[i];

		if (s && !strcmp(s->name, name) && session_state(s) <= SESSION_SERVING)
			return s;
	}
	return NULL;
}

static void enter(struct pager *p, struct session *s, uint32_t slot)
{
	pthread_rwlock_wrlock(&p->lock);
	s->handle = (uint64_t)++p->generations[slot] << SLOT_BITS | slot;
	p->slots[slot] = s;
	s->next = s->resident->sessions;
	s->resident->sessions = s;
	s->resident->n_sessions++;
	pthread_rwlock_unlock(&p->lock);
}

static void leave(struct pager *p, struct session *s)
{
	pthread_rwlock_wrlock(&p->lock);
	p->slots[s->handle & ((1u << SLOT_BITS) - 1)] = NULL;
	for (struct session **x = &s->resident->sessions; *x; x = &(*x)->next) {
		if (*x != s)
			continue;
		*x = s->next;
		break;
	}
	pthread_rwlock_unlock(&p->lock);
}

static int find_slot(const struct pager *p, const char *name, struct problem *problem)
{
	int slot = 0;

	if (pager_find((struct pager *)p, name)) {
		problem_set(problem, 409, "session %s is open already", name);
		return -EEXIST;
	}
	while ((unsigned)slot < PAGER_MAX_SESSIONS && p->slots[slot])
		slot++;
	if (slot < (int)PAGER_MAX_SESSIONS)
		return slot;
	problem_set(problem, 503, "%u sessions are open, more are not served", PAGER_MAX_SESSIONS);
	return -EAGAIN;
}

/* From here on it is counted, and may be evicted from. */
static void add_resident(struct pager *p, struct resident *r)
{
	resident_join(r, &p->budget);
	evict_lock(p);
	r->next = p->residents;
	p->residents = r;
	evict_unlock(p);
}

/* New resident memory is idle: unless a session comes, a tick drops it. */
static int need_resident(struct pager *p, struct image *image, struct problem *problem,
			 struct resident **ret)
{
	struct resident *r = find_resident(p, image);
	int e;

	if (!r) {
		e = resident_new(image, problem, &r);
		if (e < 0)
			return e;
		r->idle_since_ns = clock_now_ns();
		add_resident(p, r);
	}
	__atomic_store_n(&r->idle_ns, 0, __ATOMIC_RELEASE); /* the next tick may say otherwise */
	*ret = r;
	return 0;
}

static int start_loading(struct pager *p, struct session *s, const struct working_set *set,
			 enum job_what what)
{
	if (what == JOB_NOTHING)
		return 0;
	return background_start(p, s, NULL, set, what);
}

/* One session of an image is enough, and two bits a page of many would add up. */
static int start_recording(struct session *s)
{
	for (struct session *other = s->resident->sessions; other; other = other->next)
		if (other->recording && !strcmp(image_id(other->image), image_id(s->image)))
			return 0;
	if (s->mode == SESSION_EAGER)
		return 0;
	return recording_new(s, &s->recording);
}

int pager_open(struct pager *p, const struct pager_request *q, struct problem *problem,
	       struct session **ret)
{
	struct mode_choice choice;
	struct session *s = NULL;
	struct resident *r;
	int slot = find_slot(p, q->name, problem), e;
	bool same;

	if (slot < 0)
		return slot;
	e = mode_choose(p, q, find_resident(p, q->image) != NULL, problem, &choice);
	if (e < 0)
		return e;
	e = need_resident(p, choice.memory, problem, &r);
	if (e < 0) {
		free(choice.own);
		return e;
	}
	same = choice.memory == q->image; /* then one open image is enough for all */
	e = session_new(&(struct session_options){.name = q->name,
						  .mode = choice.mode,
						  .why = choice.why,
						  .image = same ? r->image : q->image,
						  .resident = r,
						  .own = choice.own,
						  .slate_dirfd = p->options.slate_dirfd},
			problem, &s);
	if (e < 0)
		return e;
	enter(p, s, (uint32_t)slot);
	if (s->mode == SESSION_EAGER) {
		resident_keep(r, true);
		s->full = 1;
	}
	e = q->no_record ? 0 : start_recording(s); /* before anything is brought for it */
	if (e == 0)
		e = start_loading(p, s, q->prefetch ? q->set : NULL,
				  s->mode == SESSION_EAGER ? JOB_FULL : q->what);
	if (e == 0 && s->recording && q->set)
		recording_begin_with(s->recording, q->set);
	if (e < 0) {
		pager_retire(p, s);
		return e;
	}
	*ret = s;
	return 0;
}

int pager_warm(struct pager *p, struct image *image, const struct working_set *set,
	       enum job_what what, struct problem *problem)
{
	struct resident *r;
	int e = need_resident(p, image, problem, &r);

	if (e < 0)
		return e;
	r->idle_since_ns = clock_now_ns();
	return background_start(p, NULL, r, set, what);
}

static int serve(struct pager *p, struct session *s, struct problem *problem)
{
	/* once per fault and not as long as there is one, which would wake all threads for it */
	struct epoll_event e = {.events = EPOLLIN | EPOLLET, .data.u64 = s->handle};
	int r;

	loader_kick(p->loader); /* what had to wait for the VM's memory */
	if (s->uffd < 0 || epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, s->uffd, &e) == 0)
		return 0;
	r = error_errno();
	problem_errno(problem, r, "session %s: cannot wait for its faults", s->name);
	pager_fail(p, s, problem ? problem->message : "cannot wait for its faults");
	return r;
}

int pager_attach(struct pager *p, struct session *s, const struct handshake *map, int uffd,
		 int pidfd, int pid, struct problem *problem)
{
	int r = session_attach(s, map, uffd, pidfd, pid, problem);

	return r < 0 ? r : serve(p, s, problem);
}

/* ---- taking back ------------------------------------------------------------------------------
 */

struct resident *pager_find_memory(struct pager *p, uint64_t dev, uint64_t ino)
{
	struct stat st;

	for (struct resident *r = p->residents; r; r = r->next)
		if (fstat(r->memfd, &st) == 0 && st.st_dev == dev && st.st_ino == ino)
			return r;
	return NULL;
}

int pager_take_memory(struct pager *p, struct image *image, int memfd, struct problem *problem,
		      struct resident **ret)
{
	struct resident *r;
	int e = resident_take_back(image, memfd, problem, &r);

	if (e < 0)
		return e;
	r->idle_since_ns = clock_now_ns();
	add_resident(p, r);
	*ret = r;
	return 0;
}

static int make_returned(struct pager *p, const struct pager_return *q, struct problem *problem,
			 struct session **ret)
{
	struct session_options o = q->options;
	int slot = find_slot(p, o.name, problem), e = slot < 0 ? slot : 0;

	if (e == 0 && !o.resident)
		e = need_resident(p, o.image, problem, &o.resident);
	if (e < 0) {
		free(o.own);
		if (o.slate)
			slate_deinit(o.slate);
		return e;
	}
	e = session_new(&o, problem, ret);
	if (e < 0)
		return e;
	enter(p, *ret, (uint32_t)slot);
	if ((*ret)->mode == SESSION_EAGER || q->full)
		(*ret)->full = 1;
	if ((*ret)->full && (*ret)->mode != SESSION_COPY)
		resident_keep(o.resident, true);
	return 0;
}

int pager_take_session(struct pager *p, const struct pager_return *q, struct problem *problem,
		       struct session **ret)
{
	struct session *s = NULL;
	int e = make_returned(p, q, problem, &s);

	if (e < 0) {
		fd_close(q->uffd);
		fd_close(q->pidfd);
		return e;
	}
	if (q->map)
		e = session_resume(s, q->map, q->uffd, q->pidfd, q->pid, problem);
	if (e == 0)
		e = start_loading(p, s, q->set, q->what);
	if (e < 0) {
		pager_retire(p, s);
		return e;
	}
	*ret = s;
	return 0;
}

int pager_serve_taken(struct pager *p, struct session *s, struct problem *problem)
{
	if (s->uffd >= 0)
		session_wake(s, 0, image_n_pages(s->image));
	return serve(p, s, problem);
}

void pager_stop_serving(struct pager *p, struct session *s)
{
	/* explicitly: the VM holds the same open file, so closing ours would leave it in the set */
	if (s->uffd >= 0)
		(void)epoll_ctl(p->epoll_fd, EPOLL_CTL_DEL, s->uffd, NULL);
	(void)session_stop(s);
}

void pager_note(struct pager *p, json_t *stats)
{
	json_t **entry = &p->history[p->n_history++ % PAGER_MAX_HISTORY];

	json_decref(*entry);
	*entry = stats;
}

void pager_retire(struct pager *p, struct session *s)
{
	pager_stop_serving(p, s);
	if (s->job)
		background_cancel(p, s->job);
	leave(p, s);
	pager_note(p, pager_stats_of(s));
	s->next = p->retired;
	p->retired = s;
}

static void free_retired(struct pager *p)
{
	for (struct session **x = &p->retired; *x;) {
		struct session *s = *x;

		if (__atomic_load_n(&s->refs, __ATOMIC_ACQUIRE) ||
		    (s->job && job_is_busy(p, s->job))) {
			x = &s->next;
			continue;
		}
		*x = s->next;
		if (s->full && s->mode != SESSION_COPY)
			resident_keep(s->resident, false);
		if (--s->resident->n_sessions == 0)
			s->resident->idle_since_ns = clock_now_ns();
		pager_add_totals(&p->ended[s->mode], s);
		free_session(s);
	}
}

/* Return: milliseconds until one of them is to be looked at again */
static int watch_recordings(struct pager *p)
{
	uint64_t now = clock_now_ns(), next = now + TICK_MS * NSEC_PER_MSEC;

	for (uint32_t i = 0; i < PAGER_MAX_SESSIONS; i++)
		if (p->slots[i] && p->slots[i]->recording)
			next = MIN(next, recording_watch(p->slots[i]->recording, now));
	return next > now ? (int)((next - now) / NSEC_PER_MSEC) + 1 : 1;
}

/* Jobs may have left frames to others, who are done now: nobody tells. */
static bool is_loading(struct pager *p)
{
	LOCK_SCOPE(&p->jobs_lock);

	return p->jobs != NULL;
}

int pager_tick(struct pager *p)
{
	free_retired(p);
	drop_idle_residents(p);
	audit_residents(p);
	if (is_loading(p)) {
		loader_kick(p->loader);
		(void)watch_recordings(p);
		return TICK_SOON_MS;
	}
	return MIN(watch_recordings(p), p->retired ? TICK_SOON_MS : TICK_MS);
}

/* ---- fault threads ----------------------------------------------------------------------------
 */

struct session *pager_hold(struct pager *p, uint64_t handle)
{
	uint64_t slot = handle & ((1u << SLOT_BITS) - 1);
	struct session *s = NULL;

	pthread_rwlock_rdlock(&p->lock);
	if (slot < PAGER_MAX_SESSIONS)
		s = p->slots[slot];
	if (s && s->handle == handle)
		__atomic_fetch_add(&s->refs, 1, __ATOMIC_RELAXED);
	else
		s = NULL;
	pthread_rwlock_unlock(&p->lock);
	return s;
}

void pager_wake(struct session *s, const struct frame_page *pages, uint32_t n_pages)
{
	for (uint32_t i = 0; i < n_pages;) {
		uint32_t len = resident_run(pages, n_pages, i);

		session_wake(s, pages[i].gfn, len);
		i += len;
	}
}

void pager_wake_all(struct pager *p, struct resident *r, const struct frame_page *pages,
		    uint32_t n_pages)
{
	pthread_rwlock_rdlock(&p->lock);
	for (struct session *s = r->sessions; s; s = s->next)
		if (session_state(s) == SESSION_SERVING)
			pager_wake(s, pages, n_pages);
	pthread_rwlock_unlock(&p->lock);
}

void pager_wake_memory(struct pager *p, struct resident *r)
{
	pthread_rwlock_rdlock(&p->lock);
	for (struct session *s = r->sessions; s; s = s->next)
		if (session_state(s) == SESSION_SERVING)
			session_wake(s, 0, r->n_pages);
	pthread_rwlock_unlock(&p->lock);
}

void pager_fail(struct pager *p, struct session *s, const char *text)
{
	if (session_fail(s, "%s", text))
		(void)eventfd_write(p->attention_fd, 1); /* full: it has been told often enough */
}

void pager_fail_all(struct pager *p, struct resident *r, const char *text)
{
	pthread_rwlock_rdlock(&p->lock);
	for (struct session *s = r->sessions; s; s = s->next)
		pager_fail(p, s, text);
	pthread_rwlock_unlock(&p->lock);
}
