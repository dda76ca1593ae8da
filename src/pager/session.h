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

#define SESSION_NAME_MAX    63u
#define SESSION_FAILURE_MAX 767u

/*
 * state       holds                                          left by
 * LISTENING   no VM yet; its socket is being listened on     session_attach() -> SERVING,
 *                                                            session_fail() -> FAILED, close ->
 * CLOSED SERVING     uffd, pidfd and regions are set; fault threads session_fail() -> FAILED, serve
 * it                                       session_close() -> CLOSED FAILED      @failure is set;
 * not served; its VM has been   the process's exit: freed killed and may not be dead yet CLOSED not
 * served; kept until the process has ended   the process's exit: freed
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

/* Counted with relaxed atomics; pager/client.h says what they mean. */
struct session_counters {
	uint64_t faults_stored;
	uint64_t faults_resident;
	uint64_t faults_zero;
	uint64_t faults_joined;
	uint64_t zero_preinstalled;
	uint64_t frames_loaded;
	uint64_t pages_inserted;
	uint64_t bytes_read;
};

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

	/* REMOVE events must be known before a fault that was read later is served, so reading
	 * and noting them is one step under this lock. Faults are served outside of it. */
	pthread_mutex_t read_lock;
	bitmap_word *removed; /* per page: the VM gave it back, it reads as zeros; atomic bits */
	bool has_removed;     /* atomic */

	struct session_counters n;
	struct histogram service_ns;

	pthread_mutex_t failure_lock;
	char failure[SESSION_FAILURE_MAX + 1]; /* under failure_lock; empty: none */

	struct session *next; /* of the same resident; the engine's lock */
};

/** session_new() - in state LISTENING; @resident is borrowed and outlives it */
int session_new(const char *name, struct resident *resident, struct session **ret);
struct session *session_free(struct session *s);
DEFINE_CLEANUP(struct session *, session_free)

/**
 * session_attach() - a VM handed over its memory
 * @uffd, @pidfd: consumed in every case
 * Installs the zero pages that earlier VMs of the image needed, so it takes up to a millisecond.
 * Return: 0, and the state is SERVING; -EINVAL, @problem says why; negative errno
 */
int session_attach(struct session *s, const struct handshake *map, int uffd, int pidfd, int pid,
		   struct problem *problem);

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

/** session_remove() - the VM gave back the memory from @hva to @end; under read_lock */
void session_remove(struct session *s, uint64_t hva, uint64_t end);

static inline bool session_is_removed(const struct session *s, uint64_t gfn)
{
	return __atomic_load_n(&s->has_removed, __ATOMIC_ACQUIRE) &&
	       bitmap_test_atomic(s->removed, gfn);
}

/** session_stats() - the object of pager/client.h. Return: new reference; NULL without memory */
json_t *session_stats(struct session *s);
