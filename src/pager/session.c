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

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/rwlock.h"
#include "base/str.h"
#include "pager/watch.h"
#include "sys/uffd.h"

static const char *const state_names[] = {"listening", "serving", "failed", "closed"};
static_assert(ARRAY_SIZE(state_names) == SESSION_N_STATES, "every state has a name");

static const char *const mode_names[] = {"auto", "shared", "overlay", "copy", "eager"};
static_assert(ARRAY_SIZE(mode_names) == SESSION_N_MODES, "every mode has a name");

const char *session_mode_name(enum session_mode mode)
{
	return mode_names[mode];
}

int session_mode_parse(const char *name, enum session_mode *ret)
{
	for (unsigned i = 0; i < SESSION_N_MODES; i++) {
		if (strcmp(name, mode_names[i]) != 0)
			continue;
		*ret = (enum session_mode)i;
		return 0;
	}
	return -EINVAL;
}

static int make_slate(struct session *s, int dirfd, struct problem *problem)
{
	char name[SESSION_NAME_MAX + 8];

	(void)snprintf(name, sizeof(name), "%s.pages", s->name); /* has room for every name */
	return slate_new(dirfd, name, image_n_pages(s->image), problem, &s->slate);
}

int session_new(const struct session_options *o, struct problem *problem, struct session **ret)
{
	_cleanup_(session_freep) struct session *s = calloc(1, sizeof(*s));
	int r;

	if (!s) {
		free(o->own);
		if (o->slate)
			slate_deinit(o->slate);
		return -ENOMEM;
	}
	if (o->slate) {
		s->slate = *o->slate;
		*o->slate = (struct slate){0};
	}
	str_copy(s->name, sizeof(s->name), o->name);
	str_copy(s->why, sizeof(s->why), o->why);
	s->mode = o->mode;
	s->resident = o->resident;
	s->image = image_ref(o->image);
	s->own = o->own;
	s->uffd = s->pidfd = -1;
	pthread_mutex_init(&s->failure_lock, NULL);
	r = rwlock_init(&s->remove_lock);
	if (r == 0 && (s->mode == SESSION_COPY || s->mode == SESSION_OVERLAY))
		r = frames_init(&s->direct, s->image);
	if (r == 0 && !s->slate.header)
		r = make_slate(s, o->slate_dirfd, problem);
	if (r < 0)
		return r;
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
	free(s->own);
	frames_deinit(&s->direct);
	slate_deinit(&s->slate);
	image_unref(s->image);
	pthread_rwlock_destroy(&s->remove_lock);
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

/* Pages share slots and threads race: either only makes it take longer. */
bool session_repeats(struct session *s, uint64_t gfn)
{
	uint64_t *slot = &s->repeats[gfn % SESSION_REPEAT_SLOTS];
	uint64_t seen = __atomic_load_n(slot, __ATOMIC_RELAXED);
	/* what was evicted since may well have been this page: begin anew */
	uint64_t evictions = __atomic_load_n(&s->resident->evictions, __ATOMIC_RELAXED);
	uint64_t key = gfn << 16 | (evictions & 0xffff);

	seen = seen >> 16 == key ? seen + 1 : key << 16 | 1;
	__atomic_store_n(slot, seen, __ATOMIC_RELAXED);
	return (seen & 0xffff) > SESSION_REPEAT_MAX;
}

/* ---- attaching --------------------------------------------------------------------------------
 */

/* What cannot be known is taken for possible. */
static bool may_remove(int uffd)
{
	uint64_t features = uffd_features(uffd);

	return !features || (features & UFFD_FEATURE_EVENT_REMOVE);
}

/* Whatever the descriptor is, after this it is a userfaultfd that answers, over these regions. */
static int check_uffd(struct session *s, struct problem *problem)
{
	if ((s->uffd < 0) != (s->mode == SESSION_EAGER)) {
		problem_set(problem, 400,
			    s->uffd < 0
				    ? "session %s: handshake: no descriptor came with it"
				    : "session %s: its memory is complete, but the VM registered "
				      "it with a userfaultfd",
			    s->name);
		return -EINVAL;
	}
	if (s->uffd < 0)
		return 0;
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

/* From here on session_fail() knows whom to kill; if it was earlier, nobody serves this VM. */
static void go_live(struct session *s, int pidfd)
{
	uint8_t listening = SESSION_LISTENING;
	LOCK_SCOPE(&s->failure_lock);

	s->pidfd = pidfd;
	if (!__atomic_compare_exchange_n(&s->state, &listening, SESSION_SERVING, false,
					 __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		(void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
}

int session_attach(struct session *s, const struct handshake *map, int uffd, int pidfd, int pid,
		   struct problem *problem)
{
	int r;

	s->map = *map;
	s->uffd = uffd;
	s->pid = pid;
	r = check_uffd(s, problem);
	s->can_remove = r == 0 && uffd >= 0 && may_remove(uffd);
	if (r == 0 && uffd >= 0 && s->mode == SESSION_SHARED) {
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
	go_live(s, pidfd);
	return 0;
}

/* ---- taking back ------------------------------------------------------------------------------
 */

/* Events that our predecessor had read when it died. Faults among them are asked again. */
static int note_inbox(struct session *s, struct problem *problem)
{
	const struct uffd_msg *m = s->slate.header->inbox;

	for (unsigned i = 0; slate_is_reading(&s->slate) && i < SLATE_INBOX; i++) {
		switch (m[i].event) {
		case 0:
		case UFFD_EVENT_PAGEFAULT:
		case UFFD_EVENT_UNMAP:
			break;
		case UFFD_EVENT_REMOVE:
			session_remove(s, m[i].arg.remove.start, m[i].arg.remove.end);
			break;
		default:
			problem_set(problem, 500, "session %s: the VM forked, or moved its memory",
				    s->name);
			return -EINVAL;
		}
	}
	slate_end(&s->slate);
	return 0;
}

int session_resume(struct session *s, const struct handshake *map, int uffd, int pidfd, int pid,
		   struct problem *problem)
{
	int r;

	s->map = *map;
	s->uffd = uffd;
	s->pid = pid;
	s->can_remove = uffd >= 0 && may_remove(uffd);
	r = note_inbox(s, problem);
	if (r == 0 && uffd >= 0)
		r = fd_set_nonblock(uffd, 1);
	if (r < 0) {
		fd_close(pidfd);
		s->uffd = fd_close(uffd);
		return r;
	}
	go_live(s, pidfd);
	return 0;
}

/* ---- statistics -------------------------------------------------------------------------------
 */

static json_int_t get(const uint64_t *counter)
{
	return (json_int_t)__atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* An object that gets members one by one: NULL when there is no memory. */
static void add(json_t *o, const char *name, json_int_t value)
{
	(void)json_object_set_new(o, name,
				  json_integer(value)); /* missing is better than failing */
}

json_t *session_stats(struct session *s)
{
	json_int_t stored = get(&s->n.faults_stored), resident = get(&s->n.faults_resident);
	json_int_t zero = get(&s->n.faults_zero), joined = get(&s->n.faults_joined);
	struct watch_report waits;
	LOCK_SCOPE(&s->failure_lock);
	json_t *o =
		json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:b, s:s?}", "session", s->name,
			  "image_id", image_id(s->image), "state", state_names[session_state(s)],
			  "mode", session_mode_name(s->mode), "why", s->why, "pid", s->pid, "full",
			  (int)__atomic_load_n(&s->full, __ATOMIC_ACQUIRE), "failure",
			  s->failure[0] ? s->failure : NULL);

	if (!o)
		return NULL;
	add(o, "faults", stored + resident + zero + joined);
	add(o, "faults_stored", stored);
	add(o, "faults_resident", resident);
	add(o, "faults_zero", zero);
	add(o, "faults_joined", joined);
	add(o, "faults_copied", get(&s->n.faults_copied));
	add(o, "faults_continued", get(&s->n.faults_continued));
	add(o, "zero_preinstalled", get(&s->n.zero_preinstalled));
	add(o, "frames_loaded", get(&s->n.frames_loaded));
	add(o, "pages_inserted", get(&s->n.pages_inserted));
	add(o, "pages_copied", get(&s->n.pages_copied));
	add(o, "pages_continued", get(&s->n.pages_continued));
	add(o, "bytes_read", get(&s->n.bytes_read));
	add(o, "service_ns_p50", (json_int_t)histogram_percentile(&s->service_ns, 50));
	add(o, "service_ns_p99", (json_int_t)histogram_percentile(&s->service_ns, 99));
	add(o, "queue_ns_p50", (json_int_t)histogram_percentile(&s->queue_ns, 50));
	add(o, "queue_ns_p99", (json_int_t)histogram_percentile(&s->queue_ns, 99));
	watch_look(s, clock_now_ns(), WATCH_STUCK_NS, &waits);
	add(o, "stuck_faults", waits.n_stuck);
	add(o, "oldest_fault_ns", (json_int_t)waits.oldest_ns);
	return o;
}
