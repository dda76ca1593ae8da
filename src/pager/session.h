/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * session.h - one VM as the pager sees it: regions, userfaultfd, process, counters
 *
 *     session_new() -> session_attach() -> [fault threads serve it] -> session_free()
 *
 * Threads: new, attach and free belong to the control thread. A fault thread uses a session only
 * while it holds a reference from the engine (pager/pager.h), and then changes nothing but the
 * atomic fields, the removed bits, and the failure, each by the function made for it.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bitmap.h"
#include "base/mem.h"
#include "pager/handshake.h"
#include "pager/histogram.h"
#include "pager/resident.h"
#include "pager/slate.h"

#define SESSION_NAME_MAX    63u
#define SESSION_FAILURE_MAX 767u

/*
 *   state      holds                                       left by
 *   LISTENING  no VM yet; its socket is listened on        session_attach(), _resume() -> SERVING,
 *                                                          session_fail() -> FAILED,
 *                                                          session_stop() -> CLOSED
 *   SERVING    uffd, pidfd and regions are set; fault      session_fail() -> FAILED,
 *              threads serve it                            session_stop() -> CLOSED
 *   FAILED     @failure is set; not served; its VM was     the process's exit: freed
 *              killed, and may not be dead yet
 *   CLOSED     not served; kept until the process ends     the process's exit: freed
 *
 * In FAILED and CLOSED the userfaultfd stays open until the process is gone: closing it could be
 * closing the last one, and then missing pages would read as zeros (DESIGN.md invariant 6).
 */
enum session_state {
	SESSION_LISTENING,
	SESSION_SERVING,
	SESSION_FAILED,
	SESSION_CLOSED,
	SESSION_N_STATES,
};

/*
 * How pages get into the VM (DESIGN.md section 4).
 *
 * SHARED    its memory is a private mapping of the image's resident memory: a page is there as soon
 *           as it is in the memfd
 * OVERLAY   a private mapping of the resident memory of another image, its base, and registered for
 *           minor faults too. Pages that are the same in both are mapped from there
 *           (UFFDIO_CONTINUE), its own are copied (UFFDIO_COPY)
 * COPY      memory of its own: every page is copied
 * EAGER     as SHARED, but all of it was there before the VM was: no userfaultfd
 */
enum session_mode {
	SESSION_AUTO, /* to be chosen; no session has it */
	SESSION_SHARED,
	SESSION_OVERLAY,
	SESSION_COPY,
	SESSION_EAGER,
	SESSION_N_MODES,
};

/** session_mode_name() - "shared"... */
const char *session_mode_name(enum session_mode mode);

/** session_mode_parse() - of a name. Return: 0; -EINVAL */
int session_mode_parse(const char *name, enum session_mode *ret);

/* What is loaded for a session while nobody waits for it (background.h). */
enum job_what { JOB_NOTHING, JOB_WORKING_SET, JOB_FULL };

/* Counted with relaxed atomics; pager/client.h says what they mean. */
struct session_counters {
	uint64_t faults_stored;
	uint64_t faults_resident;
	uint64_t faults_zero;
	uint64_t faults_joined;
	uint64_t faults_copied;	   /* of those: answered by a copy of a page that was at hand */
	uint64_t faults_continued; /* of those: answered by a mapping of the base's page */
	uint64_t pages_copied;
	uint64_t pages_continued;
	uint64_t zero_preinstalled;
	uint64_t frames_loaded;
	uint64_t pages_inserted;
	uint64_t bytes_read;
};

/* Reads that somebody in the VM waits for; watch.h. More of them at once than there are places are
 * not watched: the older ones are. */
#define SESSION_WAITS 16u

struct session_wait {
	uint64_t since_ns; /* atomic; 0: free, 1: being filled in */
	uint64_t what;	   /* atomic; layer in the upper half, frame and a mark in the lower */
};

#define SESSION_REPEAT_SLOTS 64u
#define SESSION_REPEAT_MAX   256u

struct session {
	char name[SESSION_NAME_MAX + 1];
	struct resident *resident;
	uint8_t state;	 /* enum session_state, atomic */
	uint32_t refs;	 /* atomic: fault threads that are using it now */
	uint64_t handle; /* what epoll says when its userfaultfd is readable */

	int uffd; /* set by attach, closed by free */
	int pidfd;
	int pid;
	struct handshake map; /* fixed after attach */

	enum session_mode mode;
	char why[160];	      /* this mode */
	struct image *image;  /* what the VM's memory is; in SHARED and EAGER the resident's */
	bitmap_word *own;     /* OVERLAY: pages that are not the base's */
	struct frames direct; /* COPY, OVERLAY: frames of @image on their way into the VM itself */

	/* A page must not be put into the VM after it gave it back. So events are read and noted
	 * as one step with the write lock, and a page is looked up and put there as one step with
	 * the read lock; whoever reads events gets through. Only for VMs whose userfaultfd
	 * reports removals (@can_remove). */
	pthread_rwlock_t remove_lock;
	bool can_remove; /* fixed after attach */
	struct slate slate;

	struct recording *recording; /* recording.h: what it needs; NULL: not recorded */
	struct job *job;	     /* background.h: loads its memory; the engine's lock */
	uint8_t full;		     /* atomic: it needs us no more */

	/* What session_repeats() counts: gfn in the upper 32 bits, then 16 of the number of
	 * evictions, and how often in the lower 16. */
	uint64_t repeats[SESSION_REPEAT_SLOTS]; /* atomic */

	struct session_counters n;
	struct session_wait waits[SESSION_WAITS];
	bool told_stuck; /* the control thread's */
	struct histogram service_ns;
	struct histogram queue_ns; /* of faults whose frame had to wait for the disk */

	pthread_mutex_t failure_lock;
	char failure[SESSION_FAILURE_MAX + 1]; /* under failure_lock; empty: none */

	struct session *next; /* of the same resident; the engine's lock */
};

/* What a session is to be. */
struct session_options {
	const char *name;
	enum session_mode mode; /* not AUTO */
	const char *why;
	struct image *image;	   /* referenced */
	struct resident *resident; /* borrowed, outlives it; of @image, or of the base in OVERLAY */
	bitmap_word *own;	   /* OVERLAY: consumed in every case */
	int slate_dirfd;	   /* where its slate lies; -1: in memory only */
	struct slate *slate;	   /* consumed in every case; NULL: a new one */
};

/** session_new() - in state LISTENING */
int session_new(const struct session_options *o, struct problem *problem, struct session **ret);

/** session_free() - when it has no references and its job is not busy; control thread */
struct session *session_free(struct session *s);
DEFINE_CLEANUP(struct session *, session_free)

/**
 * session_attach() - a VM handed over its memory
 * @uffd, @pidfd: consumed in every case; @uffd -1 for EAGER, and for no other
 * Installs the zero pages that earlier VMs of the image needed, so it takes up to a millisecond.
 * Return: 0, and the state is SERVING; -EINVAL, @problem says why; negative errno
 */
int session_attach(struct session *s, const struct handshake *map, int uffd, int pidfd, int pid,
		   struct problem *problem);

/**
 * session_resume() - a VM whose memory was handed over to a pager before us
 * Notes what that one read and did not note. Its threads go on waiting until they are woken.
 * @uffd, @pidfd: consumed in every case; @uffd -1 when the session is full
 * Return: 0, and the state is SERVING; -EINVAL, @problem says why; negative errno
 */
int session_resume(struct session *s, const struct handshake *map, int uffd, int pidfd, int pid,
		   struct problem *problem);

/** session_state() - SERVING: what attach has set is there. Any thread */
static inline enum session_state session_state(const struct session *s)
{
	return __atomic_load_n(&s->state, __ATOMIC_ACQUIRE);
}

/** session_stop() - SERVING or LISTENING -> CLOSED. Return: was it? */
bool session_stop(struct session *s);

/**
 * session_fail() - SERVING or LISTENING -> FAILED, and kill the VM: its threads would wait for ever
 * The first reason is kept. Any thread. Return: was this the call that failed it?
 */
bool session_fail(struct session *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** session_failure() - the reason, complete as soon as the state is FAILED; empty: none */
void session_failure(struct session *s, char out[SESSION_FAILURE_MAX + 1]);

/** session_gfn() - the guest page at a host address. Return: false outside of all regions */
bool session_gfn(const struct session *s, uint64_t hva, uint64_t *ret);

/**
 * session_piece() - the first part of a run of guest pages that the VM has in one region
 * @gfn, @n_pages: advanced past what was returned, and past pages that the VM does not have
 * @ret_hva, @ret_len: bytes
 * Return: was there one?
 */
bool session_piece(const struct session *s, uint64_t *gfn, uint64_t *n_pages, uint64_t *ret_hva,
		   uint64_t *ret_len);

/** session_wake() - let the VM's threads go on that wait for these pages */
void session_wake(struct session *s, uint64_t gfn, uint64_t n_pages);

/**
 * session_zero() - map zero pages into the VM and wake it; pages that are there are left alone
 * The caller knows that the map calls all of them zero, or that the VM gave them back.
 * @focus:         the page that a thread waits for, or UINT64_MAX (see .c about markers)
 * @ret_installed: pages, added to what it holds
 * Return: 0; -EAGAIN some could not be done now; -ENOENT, -ESRCH; negative errno
 */
int session_zero(struct session *s, uint64_t gfn, uint64_t n_pages, uint64_t focus,
		 uint64_t *ret_installed);

/**
 * session_copy() - put pages into the VM itself, and wake whoever waits for them
 * Pages that it gave back, and those that are there, are left alone.
 * @src: stays valid and unchanged until this returns; pages that are not in the page tables are
 *       found by the kernel
 * @ret_copied: pages, added to what it holds
 * Return: 0; -EAGAIN the mappings are being changed, woken; -ENOENT, -ESRCH; negative errno
 */
int session_copy(struct session *s, uint64_t gfn, uint64_t n_pages, const uint8_t *src,
		 uint64_t *ret_copied);

/**
 * session_continue() - map pages that the resident memory has into an OVERLAY's VM, and wake
 * Pages that the memory does not have are left alone. Return: as session_copy()
 */
int session_continue(struct session *s, uint64_t gfn, uint64_t n_pages, uint64_t *ret_continued);

/** session_remove() - the VM gave back the memory from @hva to @end; with the write lock */
void session_remove(struct session *s, uint64_t hva, uint64_t end);

/**
 * session_unregister() - all of its memory: it needs no more from us
 * @ret_n: regions that are not registered any more
 * Return: 0; negative errno
 */
int session_unregister(struct session *s, uint32_t *ret_n);

/**
 * session_repeats() - a fault on a page that is there: has that happened too often to be chance?
 * Threads of a VM may be late, each once: what is there stays. A VM that faults on it again and
 * again has something else mapped there than the image's memory, and would go on for ever. Only
 * what happens between two evictions counts, since those make honest VMs come back.
 */
bool session_repeats(struct session *s, uint64_t gfn);

/** session_is_removed() - did the VM give it back? With the read lock it stays true or false */
static inline bool session_is_removed(const struct session *s, uint64_t gfn)
{
	return slate_is_removed(&s->slate, gfn);
}

/** session_owns() - is the page to be copied into the VM, rather than to come with its mapping? */
static inline bool session_owns(const struct session *s, uint64_t gfn)
{
	return s->mode == SESSION_COPY || (s->own && bitmap_test(s->own, gfn));
}

/** session_stats() - the object of pager/client.h. Return: new reference; NULL without memory */
json_t *session_stats(struct session *s);
