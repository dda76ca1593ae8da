/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * pager.h - the engine: images in memory, sessions, and the threads that serve them
 *
 *     pager_new() -> [pager_open() -> pager_attach() -> pager_retire()]* -> pager_free()
 *
 * Three kinds of thread. The control thread calls everything in the first part of this header; it
 * is one thread, so opening, attaching and retiring never race with each other. Fault threads
 * (fault.c) and the loader's threads (loader.h) call the second part.
 *
 * How a session can go while fault threads use it
 *   - epoll does not know sessions but handles: a slot number and the slot's generation. A handle
 *     outlives its session harmlessly: pager_hold() then finds nothing.
 *   - pager_hold() takes a reference under the read lock. pager_retire() empties the slot and
 *     leaves the image's list under the write lock; after it nobody can get a new reference.
 *   - Retired sessions wait in @retired until their references are gone; only the control thread
 *     frees. No fault thread ever waits for another, and none frees memory.
 *
 * A fourth kind evicts (evict.h), alone or with a fault thread that has to help. It finds resident
 * memory in @residents under @evict's lock, which the control thread takes to change that list.
 *
 * Lock order: jobs_lock, evict's lock, a resident's evict_lock, then its loose_lock or pager.lock,
 * then session.failure_lock or resident.failure_lock. A fault thread holds pager.lock (for reading)
 * only to look up, to wake and to fail sessions, never while it reads or inserts pages.
 */
#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/problem.h"
#include "pager/session.h"

#define PAGER_MAX_SESSIONS 1024u
#define PAGER_MAX_HISTORY  256u
#define PAGER_STOP_HANDLE  UINT64_MAX

struct loader;
struct job;
struct evict;

struct pager_options {
	unsigned n_threads;	/* 0: as many as this machine suggests */
	uint64_t linger_ns;	/* keep an image's memory so long after its last session */
	uint32_t max_lingering; /* and so many images at most, the oldest leave first */
	int slate_dirfd;	/* where sessions' slates lie; -1: in memory only. Borrowed */
	bool no_userfaultfd;	/* new sessions are EAGER unless they ask for something else */
	bool no_prefetch;	/* new sessions do not load working sets */
	uint64_t memory_limit;	/* bytes of resident memory of all images; 0: none (evict.h) */
	uint64_t image_limit;	/* and of each; 0: none */
	unsigned floor_percent; /* of a working set that is never evicted; see evict.c */
	bool no_pressure;	/* do not evict when the host is short of memory */
};

struct fault_thread;

struct pager {
	struct pager_options options; /* the control thread's, once the others run */
	pthread_rwlock_t lock;	      /* slots, generations, resident.sessions */
	struct session *slots[PAGER_MAX_SESSIONS];
	uint32_t generations[PAGER_MAX_SESSIONS];
	int epoll_fd;
	int stop_fd;
	int attention_fd; /* eventfd: a session failed, the control thread should look */

	struct loader *loader;
	pthread_mutex_t jobs_lock; /* background.h */
	struct job *jobs;	   /* jobs_lock: those that have something to load */

	struct evict *evict;
	struct resident_budget budget;

	/* the control thread's */
	struct resident *residents; /* changed with evict's lock */
	struct session *retired;
	json_t *history[PAGER_MAX_HISTORY]; /* ring of session_stats() */
	uint64_t n_history;		    /* ever */
	struct fault_thread *threads;
	uint64_t started_real_ns;
	struct pager_totals {
		struct session_counters n;
		struct histogram service_ns, queue_ns;
	} ended[SESSION_N_MODES]; /* of sessions that are forgotten */
};

/* ---- the control thread -----------------------------------------------------------------------
 */

/** pager_new() - start the fault threads. Signals that the caller blocked stay blocked in them */
int pager_new(const struct pager_options *options, struct pager **ret);

/** pager_free() - stop the threads, release everything. VMs that still run wait from then on */
struct pager *pager_free(struct pager *p);
DEFINE_CLEANUP(struct pager *, pager_free)

/* What a client wants of a new session. */
struct pager_request {
	const char *name;
	struct image *image;
	enum session_mode mode;	 /* AUTO: see pager_open() */
	bool exclusive;		 /* no other VM will ever run from this image */
	bool no_record;		 /* its working set is not to be recorded */
	struct image *base;	 /* what it once ran from, or NULL */
	struct working_set *set; /* of the image, or NULL; may be moved into the session */
	bool prefetch;		 /* load the set in the background */
	enum job_what what;	 /* what to load in the background */
};

/**
 * pager_open() - a session, LISTENING, and the resident memory that it needs, made if need be
 * Everything in @q is borrowed; resident memory of the same image id is used if there is some.
 *
 * AUTO is EAGER when userfaultfd is turned off; SHARED when the image's memory is there already, or
 * others may run from it; OVERLAY when none will and a good part of it is its base's. Why it was
 * chosen is in the session.
 * Return: 0; -EEXIST the name is in use; -EAGAIN too many sessions; -EINVAL OVERLAY without a base
 * that it shares anything with; negative errno; @problem says
 */
int pager_open(struct pager *p, const struct pager_request *q, struct problem *problem,
	       struct session **ret);

/**
 * pager_warm() - load an image's resident memory without a session
 * @set, @what: as above. The memory lingers as if a session had just ended.
 * Return: 0; negative errno, @problem says
 */
int pager_warm(struct pager *p, struct image *image, const struct working_set *set,
	       enum job_what what, struct problem *problem);

/** pager_attach() - session_attach(), and serve it from now on. @uffd -1: EAGER. Same results */
int pager_attach(struct pager *p, struct session *s, const struct handshake *map, int uffd,
		 int pidfd, int pid, struct problem *problem);

/** pager_find_memory() - the resident memory whose memfd has this inode, or NULL */
struct resident *pager_find_memory(struct pager *p, uint64_t dev, uint64_t ino);

/** pager_take_memory() - resident_take_back(); idle until a session comes. Same results */
int pager_take_memory(struct pager *p, struct image *image, int memfd, struct problem *problem,
		      struct resident **ret);

/* A session that a pager before us had. */
struct pager_return {
	struct session_options options; /* @resident NULL: of @image, made if need be */
	const struct handshake *map;	/* NULL: it has no VM yet, and is LISTENING again */
	int uffd;			/* consumed in every case, as @pidfd; -1: it is full */
	int pidfd;
	int pid;
	bool full;
	const struct working_set *set; /* what is to be loaded again, as in a request */
	enum job_what what;
};

/**
 * pager_take_session() - make a session of what another pager left; it is not served yet
 * Return: as pager_open() and session_resume()
 */
int pager_take_session(struct pager *p, const struct pager_return *q, struct problem *problem,
		       struct session **ret);

/**
 * pager_serve_taken() - wake its VM's threads, which ask again, and serve it
 * Return: 0; negative errno, and it has failed
 */
int pager_serve_taken(struct pager *p, struct session *s, struct problem *problem);

/** pager_note() - statistics of a session that is no more, for pager_session_stats(); consumed */
void pager_note(struct pager *p, json_t *stats);

/**
 * pager_quiesce() - no thread of ours touches a VM or memory any more; nothing is lost by it
 * After this only pager_free() makes sense.
 */
void pager_quiesce(struct pager *p);

/** pager_stop_serving() - the session's events are left alone from now on; its descriptors stay */
void pager_stop_serving(struct pager *p, struct session *s);

/** pager_retire() - forget a session whose process is gone; its statistics go to the history */
void pager_retire(struct pager *p, struct session *s);

/** pager_find() - the newest session of that name that listens or serves, or NULL */
struct session *pager_find(struct pager *p, const char *name);

/**
 * pager_tick() - free what nobody uses any more, drop images that lingered, audit memory
 * Return: milliseconds until the next tick is worth it
 */
int pager_tick(struct pager *p);

/** pager_session_stats() - of a present session, or of a past one. Return: new reference; NULL:
 * none */
json_t *pager_session_stats(struct pager *p, const char *name);

/** pager_image_stats() - of resident memory. Return: new reference; NULL: there is none */
json_t *pager_image_stats(struct pager *p, const char *image_id);

/** pager_totals() - of all sessions of a mode that there ever were */
void pager_totals(struct pager *p, enum session_mode mode, struct pager_totals *ret);

/** pager_stats() - the object of pager/client.h. Return: new reference; NULL without memory */
json_t *pager_stats(struct pager *p);

/** pager_stats_of() - of a present session. Return: new reference; NULL without memory */
json_t *pager_stats_of(struct session *s);

/** pager_add_totals() - what a session has counted, added to @t */
void pager_add_totals(struct pager_totals *t, const struct session *s);

/* ---- fault threads ----------------------------------------------------------------------------
 */

/** pager_hold() - the session of a handle, with a reference; NULL when it is gone */
struct session *pager_hold(struct pager *p, uint64_t handle);

/** pager_release() - give a reference back; the session may be freed at once */
static inline void pager_release(struct session *s)
{
	__atomic_fetch_sub(&s->refs, 1, __ATOMIC_RELEASE);
}

/** pager_wake() - wake one VM on the pages of a frame */
void pager_wake(struct session *s, const struct frame_page *pages, uint32_t n_pages);

/** pager_wake_all() - wake every VM of an image on the pages of a frame */
void pager_wake_all(struct pager *p, struct resident *r, const struct frame_page *pages,
		    uint32_t n_pages);

/** pager_wake_memory() - wake every VM of an image on all of its memory */
void pager_wake_memory(struct pager *p, struct resident *r);

/** pager_fail() - session_fail(), and have the control thread stop serving it */
void pager_fail(struct pager *p, struct session *s, const char *text);

/** pager_fail_all() - the same for all sessions of an image */
void pager_fail_all(struct pager *p, struct resident *r, const char *text);
