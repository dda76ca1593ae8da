/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/session.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "sys/uffd.h"

static const char *const state_names[] = {"listening", "serving", "failed", "closed"};
static_assert(ARRAY_SIZE(state_names) == SESSION_N_STATES, "every state has a name");

static const uint8_t zero_page[DORM_PAGE_SIZE] __attribute__((aligned(4096)));

int session_new(const char *name, struct resident *resident, struct session **ret)
{
	_cleanup_(session_freep) struct session *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	str_copy(s->name, sizeof(s->name), name);
	s->resident = resident;
	s->uffd = s->pidfd = -1;
	pthread_mutex_init(&s->read_lock, NULL);
	pthread_mutex_init(&s->failure_lock, NULL);
	s->removed = bitmap_new(resident->n_pages);
	if (!s->removed)
		return -ENOMEM;
	*ret = take_ptr(s);
	return 0;
}

struct session *session_free(struct session *s)
{
	if (!s)
		return NULL;
	assert(__atomic_load_n(&s->refs, __ATOMIC_ACQUIRE) == 0);
	fd_close(s->uffd);
	fd_close(s->pidfd);
	free(s->removed);
	pthread_mutex_destroy(&s->read_lock);
	pthread_mutex_destroy(&s->failure_lock);
	free(s);
	return NULL;
}

static bool leave_open_states(struct session *s, enum session_state to)
{
	uint8_t seen = session_state(s);

	while (seen == SESSION_LISTENING || seen == SESSION_SERVING)
		if (__atomic_compare_exchange_n(&s->state, &seen, to, false, __ATOMIC_ACQ_REL,
						__ATOMIC_ACQUIRE))
			return true;
	return false;
}

bool session_stop(struct session *s)
{
	return leave_open_states(s, SESSION_CLOSED);
}

bool session_fail(struct session *s, const char *fmt, ...)
{
	LOCK_SCOPE(&s->failure_lock);
	va_list ap;

	if (!leave_open_states(s, SESSION_FAILED))
		return false;
	va_start(ap, fmt);
	(void)vsnprintf(s->failure, sizeof(s->failure), fmt, ap); /* cut is better than nothing */
	va_end(ap);
	if (s->pidfd >= 0) /* ESRCH: it was faster */
		(void)syscall(SYS_pidfd_send_signal, s->pidfd, SIGKILL, NULL, 0);
	return true;
}

void session_failure(struct session *s, char out[SESSION_FAILURE_MAX + 1])
{
	LOCK_SCOPE(&s->failure_lock);

	str_copy(out, SESSION_FAILURE_MAX + 1, s->failure);
}

/* ---- the VM's memory --------------------------------------------------------------------------
 */

bool session_gfn(const struct session *s, uint64_t hva, uint64_t *ret)
{
	for (uint32_t i = 0; i < s->map.n_regions; i++) {
		const struct handshake_region *g = &s->map.regions[i];

		if (hva < g->hva || hva - g->hva >= g->n_pages * DORM_PAGE_SIZE)
			continue;
		*ret = g->gfn + (hva - g->hva) / DORM_PAGE_SIZE;
		return true;
	}
	return false;
}

bool session_piece(const struct session *s, uint64_t *gfn, uint64_t *n_pages, uint64_t *ret_hva,
		   uint64_t *ret_len)
{
	const struct handshake_region *best = NULL;
	uint64_t end = *gfn + *n_pages, begin = 0, n;

	/* regions are in the order of addresses, not of guest pages */
	for (uint32_t i = 0; i < s->map.n_regions; i++) {
		const struct handshake_region *g = &s->map.regions[i];

		if (g->gfn >= end || g->gfn + g->n_pages <= *gfn)
			continue;
		if (!best || g->gfn < best->gfn)
			best = g;
	}
	if (!best)
		return false;
	begin = MAX(*gfn, best->gfn);
	n = MIN(end, best->gfn + best->n_pages) - begin;
	*ret_hva = best->hva + (begin - best->gfn) * DORM_PAGE_SIZE;
	*ret_len = n * DORM_PAGE_SIZE;
	*gfn = begin + n;
	*n_pages = end - *gfn;
	return true;
}

void session_wake(struct session *s, uint64_t gfn, uint64_t n_pages)
{
	uint64_t hva, len;

	while (n_pages && session_piece(s, &gfn, &n_pages, &hva, &len))
		(void)uffd_wake(s->uffd, hva, len); /* checked regions: it cannot fail */
}

/*
 * A write-protect marker on a page that was never there makes UFFDIO_ZEROPAGE say EEXIST for ever;
 * UFFDIO_COPY replaces markers. So where a thread waits for a page that "exists", copy: if it
 * really exists by now, that fails in the same way, and the wake is all that was needed.
 */
static int zero_over_marker(struct session *s, uint64_t hva, uint64_t *installed)
{
	uint64_t done;
	int r = uffd_copy(s->uffd, hva, zero_page, DORM_PAGE_SIZE, &done);

	*installed += done / DORM_PAGE_SIZE;
	return r == -EEXIST ? 0 : r;
}

static int zero_range(struct session *s, uint64_t hva, uint64_t len, uint64_t focus_hva,
		      uint64_t *installed)
{
	uint64_t done;

	for (uint64_t i = 0; i < len; i += done) {
		int r = uffd_zeropage(s->uffd, hva + i, len - i, &done);

		*installed += done / DORM_PAGE_SIZE;
		if (r == 0 || done)
			continue;
		if (r == -EEXIST)
			r = hva + i == focus_hva ? zero_over_marker(s, hva + i, installed) : 0;
		if (r < 0)
			return r;
		done = DORM_PAGE_SIZE;
	}
	return 0;
}

int session_zero(struct session *s, uint64_t gfn, uint64_t n_pages, uint64_t focus,
		 uint64_t *ret_installed)
{
	uint64_t hva, len;
	int r = 0;

	while (r == 0 && n_pages && session_piece(s, &gfn, &n_pages, &hva, &len)) {
		uint64_t first = gfn - len / DORM_PAGE_SIZE;
		uint64_t focus_hva =
			focus == UINT64_MAX ? 0 : hva + (focus - first) * DORM_PAGE_SIZE;

		r = zero_range(s, hva, len, focus_hva, ret_installed);
		(void)uffd_wake(s->uffd, hva, len);
	}
	return r;
}

void session_remove(struct session *s, uint64_t hva, uint64_t end)
{
	for (uint32_t i = 0; i < s->map.n_regions; i++) {
		const struct handshake_region *g = &s->map.regions[i];
		uint64_t from = MAX(hva, g->hva);
		uint64_t to = MIN(end, g->hva + g->n_pages * DORM_PAGE_SIZE);

		for (; from < to; from += DORM_PAGE_SIZE)
			(void)bitmap_set_atomic(s->removed,
						g->gfn + (from - g->hva) / DORM_PAGE_SIZE);
	}
	__atomic_store_n(&s->has_removed, true, __ATOMIC_RELEASE);
}

/* ---- attaching --------------------------------------------------------------------------------
 */

/* Whatever the descriptor is, after this it is a userfaultfd that answers, over these regions. */
static int check_uffd(struct session *s, struct problem *problem)
{
	if (!uffd_is(s->uffd)) {
		problem_set(problem, 400, "session %s: the descriptor is not a userfaultfd",
			    s->name);
		return -EINVAL;
	}
	for (uint32_t i = 0; i < s->map.n_regions; i++) {
		const struct handshake_region *g = &s->map.regions[i];

		if (uffd_wake(s->uffd, g->hva, g->n_pages * DORM_PAGE_SIZE) == 0)
			continue;
		problem_set(problem, 400,
			    "session %s: the userfaultfd refuses the region at 0x%llx: not "
			    "initialised, or not an address of its process",
			    s->name, (unsigned long long)g->hva);
		return -EINVAL;
	}
	return fd_set_nonblock(s->uffd, 1);
}

/*
 * What earlier VMs of this image needed as zeros, this one will need. The userfaultfd is not served
 * yet: a thread that waits for one of these pages is woken without its event ever being read.
 */
static int preinstall_zeros(struct session *s)
{
	uint64_t installed = 0, gfn = 0;
	struct page_run run;
	int r = 0;

	while (r == 0 && resident_next_zeros(s->resident, gfn, &run)) {
		r = session_zero(s, run.gfn, run.n_pages, UINT64_MAX, &installed);
		gfn = run.gfn + run.n_pages;
	}
	__atomic_fetch_add(&s->n.zero_preinstalled, installed, __ATOMIC_RELAXED);
	return r == -EAGAIN ? 0 : r; /* the mappings are being changed: no need to insist */
}

int session_attach(struct session *s, const struct handshake *map, int uffd, int pidfd, int pid,
		   struct problem *problem)
{
	uint8_t listening = SESSION_LISTENING;
	int r;

	s->map = *map;
	s->uffd = uffd;
	s->pid = pid;
	r = check_uffd(s, problem);
	if (r == 0) {
		r = preinstall_zeros(s);
		if (r < 0)
			problem_errno(problem, r, "session %s: cannot install pages", s->name);
	}
	if (r < 0) {
		fd_close(pidfd);
		s->uffd = fd_close(uffd);
		s->map.n_regions = 0;
		s->pid = 0;
		return r;
	}
	/* from here on session_fail() knows whom to kill; if it was earlier, nobody serves this VM
	 */
	pthread_mutex_lock(&s->failure_lock);
	s->pidfd = pidfd;
	if (!__atomic_compare_exchange_n(&s->state, &listening, SESSION_SERVING, false,
					 __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		(void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	pthread_mutex_unlock(&s->failure_lock);
	return 0;
}

/* ---- statistics -------------------------------------------------------------------------------
 */

static json_int_t get(const uint64_t *counter)
{
	return (json_int_t)__atomic_load_n(counter, __ATOMIC_RELAXED);
}

json_t *session_stats(struct session *s)
{
	json_int_t stored = get(&s->n.faults_stored), resident = get(&s->n.faults_resident);
	json_int_t zero = get(&s->n.faults_zero), joined = get(&s->n.faults_joined);
	LOCK_SCOPE(&s->failure_lock);

	return json_pack("{s:s, s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
			 "s:I, s:s?}",
			 "session", s->name, "image_id", image_id(s->resident->image), "state",
			 state_names[session_state(s)], "pid", s->pid, "faults",
			 stored + resident + zero + joined, "faults_stored", stored,
			 "faults_resident", resident, "faults_zero", zero, "faults_joined", joined,
			 "zero_preinstalled", get(&s->n.zero_preinstalled), "frames_loaded",
			 get(&s->n.frames_loaded), "pages_inserted", get(&s->n.pages_inserted),
			 "bytes_read", get(&s->n.bytes_read), "service_ns_p50",
			 (json_int_t)histogram_percentile(&s->service_ns, 50), "service_ns_p99",
			 (json_int_t)histogram_percentile(&s->service_ns, 99), "failure",
			 s->failure[0] ? s->failure : NULL);
}
