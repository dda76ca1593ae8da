/* SPDX-License-Identifier: Apache-2.0 */
/*
 * monitor.c - one thread that notices deaths and deadlines
 *
 * It waits on an epoll set that holds the pidfd of every VM, every dorm-net and the pager, and an
 * eventfd to be told that a deadline changed, and a timer that tells when the clock is set. It
 * never does the work itself: ending, sleeping and restarting can block, so each event becomes a
 * worker thread that takes the sandbox's op lock like any client.
 *
 * A VM's pidfd is a duplicate owned by the set's entry: struct watch below, one-shot, freed by the
 * worker that handles it, or at the end: many belong to processes that live on. A VM that we end
 * ourselves also fires; the worker then finds that the sandbox no longer runs that process, and
 * does nothing.
 */
#include "sandbox/private.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "sandbox/pool.h"

#define MAX_SLEEP_MS 10000
#define STACK_BYTES  (512u << 10)
#define TRIM_MS	     3000 /* after this much quiet, memory is given back */

enum watch_kind { WATCH_KICK, WATCH_CLOCK, WATCH_VM, WATCH_NETWORK, WATCH_PAGER };

struct watch {
	struct watch *prev, *next; /* in host->watches */
	enum watch_kind kind;
	int pidfd;
	pid_t pid;
	char id[ID_LEN + 1];
};

static struct watch kick_watch = {.kind = WATCH_KICK};
static struct watch clock_watch = {.kind = WATCH_CLOCK};

/* Before it is armed, as it may be handled at once. */
static void watch_insert(struct host *host, struct watch *w)
{
	LOCK_SCOPE(&host->watch_lock);
	w->next = host->watches;
	if (w->next)
		w->next->prev = w;
	host->watches = w;
}

static void watch_free(struct host *host, struct watch *w)
{
	pthread_mutex_lock(&host->watch_lock);
	if (w->next)
		w->next->prev = w->prev;
	if (w->prev)
		w->prev->next = w->next;
	else
		host->watches = w->next;
	pthread_mutex_unlock(&host->watch_lock);
	fd_close(w->pidfd);
	free(w);
}

static int watch_add(struct host *host, enum watch_kind kind, int pidfd, pid_t pid, const char *id)
{
	struct watch *w = calloc(1, sizeof(*w));
	struct epoll_event ev = {.events = EPOLLIN | EPOLLONESHOT, .data.ptr = w};
	int r = 0;

	if (!w)
		return -ENOMEM;
	w->kind = kind;
	w->pid = pid;
	memcpy(w->id, id, strlen(id) + 1);
	watch_insert(host, w);
	w->pidfd = fcntl(pidfd, F_DUPFD_CLOEXEC, 0);
	if (w->pidfd < 0 || epoll_ctl(host->epoll_fd, EPOLL_CTL_ADD, w->pidfd, &ev) < 0) {
		r = error_errno();
		watch_free(host, w);
	}
	return r;
}

int monitor_watch(struct host *host, struct sandbox *sb)
{
	return watch_add(host, WATCH_VM, vmm_pidfd(sb->vmm), vmm_pid(sb->vmm), sb->record.id);
}

int monitor_watch_network(struct host *host, struct sandbox *sb)
{
	return watch_add(host, WATCH_NETWORK, sb->net.pidfd, sb->net.pid, sb->record.id);
}

int monitor_watch_pager(struct host *host)
{
	return watch_add(host, WATCH_PAGER, host->pager_process.pidfd, host->pager_process.pid, "");
}

void monitor_kick(struct host *host)
{
	(void)eventfd_write(host->kick_fd, 1); /* full means that it is about to look anyway */
}

/* ---- workers ----------------------------------------------------------------------------------
 */

struct worker {
	struct host *host;
	void (*fn)(struct host *host, void *arg);
	void *arg;
};

static void *worker_main(void *arg)
{
	struct worker w = *(struct worker *)arg;

	free(arg);
	w.fn(w.host, w.arg);
	atomic_fetch_sub(&w.host->workers, 1);
	return NULL;
}

int host_run(struct host *host, void (*fn)(struct host *host, void *arg), void *arg)
{
	struct worker *w = malloc(sizeof(*w));
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	if (!w)
		return -ENOMEM;
	*w = (struct worker){host, fn, arg};
	atomic_fetch_add(&host->workers, 1);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	r = pthread_create(&thread, &attr, worker_main, w);
	pthread_attr_destroy(&attr);
	if (r) {
		atomic_fetch_sub(&host->workers, 1);
		free(w);
	}
	return -r;
}

static void vm_died(struct host *host, void *arg)
{
	struct watch *w = arg;
	_cleanup_(sandbox_unrefp) struct sandbox *sb = sandbox_find(host, w->id, NULL);

	if (sb && op_wait(sb)) {
		if (sb->vmm && vmm_pid(sb->vmm) == w->pid && sb->record.state == SANDBOX_RUNNING) {
			char why[400];

			vmm_exit_reason(sb->vmm, why, sizeof(why));
			sandbox_fail_asking_pager(sb, why);
		}
		if (sb->pooled)
			pool_recheck(host->pool);
		op_unlock(sb);
	}
	watch_free(host, w);
}

static void network_died(struct host *host, void *arg)
{
	struct watch *w = arg;
	_cleanup_(sandbox_unrefp) struct sandbox *sb = sandbox_find(host, w->id, NULL);

	if (sb)
		sandbox_network_died(sb, w->pid);
	watch_free(host, w);
}

/* Nothing comes before the new pager: every VM waits for its pages. */
static void pager_died(struct host *host, void *arg)
{
	struct watch *w = arg;

	take_back_all(host, w->pid);
	pool_recheck(host->pool);
	watch_free(host, w);
}

static void time_is_up(struct host *host, void *arg)
{
	struct sandbox *sb = arg;
	struct problem p = PROBLEM_INIT;

	if (sandbox_expire(sb, &p) < 0)
		log_warn("sandbox=%s time is up, but it could not be ended: %s", sb->record.id,
			 p.message);
	sandbox_unref(sb);
}

/* ---- the thread -------------------------------------------------------------------------------
 */

/* May the clock end this sandbox? An auto-pausing one that sleeps already has nothing left to do.
 */
static bool clock_applies(const struct sandbox *sb)
{
	if (!sb->record.end_ns || sb->gone || sb->expiring || atomic_load(&sb->doomed))
		return false;
	if (sb->record.state == SANDBOX_RUNNING)
		return true;
	return !sb->record.auto_pause &&
	       (sb->record.state == SANDBOX_ASLEEP || sb->record.state == SANDBOX_CREATING ||
		sb->record.state == SANDBOX_PAUSING);
}

/* When it is to be asked for its working set, or 0. info held. */
static uint64_t refine_due(struct host *host, struct sandbox *sb, uint64_t now)
{
	if (!sb->refine_ns || sb->gone || sb->refine_ns > now)
		return sb->gone ? 0 : sb->refine_ns;
	sb->refine_ns = 0; /* set again by the worker */
	if (host_run(host, sandbox_refine_now, sandbox_ref(sb)) < 0)
		sandbox_unref(sb); /* not the last one; then not at all */
	return 0;
}

static void too_late(struct host *host, void *arg)
{
	struct sandbox *sb = arg;

	log_warn("sandbox=%s the operation under way takes too long: it is ended", sb->record.id);
	op_interrupt(sb, OP_TOO_LATE);
	sandbox_unref(sb);
}

/* info held, which op_interrupt() needs, too. */
static void op_is_over(struct host *host, struct sandbox *sb)
{
	if (host_run(host, too_late, sandbox_ref(sb)) < 0)
		sandbox_unref(sb); /* not the last one; tried again at the next occasion */
}

/* Start a worker for every sandbox whose time is up. Return: milliseconds until the next one. */
static int check_deadlines(struct host *host)
{
	uint64_t now = clock_real_ns(), next = now + MAX_SLEEP_MS * NSEC_PER_MSEC;

	uint64_t due, left_ns = MAX_SLEEP_MS * NSEC_PER_MSEC;
	bool any_disk = false;
	LOCK_SCOPE(&host->lock);

	for (size_t i = 0; i < host->n_sandboxes; i++) {
		struct sandbox *sb = host->sandboxes[i];

		LOCK_SCOPE(&sb->info);
		if (op_is_late(sb, &left_ns))
			op_is_over(host, sb);
		any_disk |= sb->record.disk.n && sb->record.state == SANDBOX_RUNNING;
		due = refine_due(host, sb, now);
		if (due)
			next = MIN(next, due);
		if (!clock_applies(sb))
			continue;
		if (sb->record.end_ns > now) {
			next = MIN(next, sb->record.end_ns);
			continue;
		}
		sb->expiring = host_run(host, time_is_up, sandbox_ref(sb)) == 0;
		if (!sb->expiring)
			sandbox_unref(sb); /* not the last one; tried again at the next occasion */
	}
	due = disk_full_check(host, now, any_disk);
	if (due)
		next = MIN(next, due);
	next = MIN(next, now + left_ns);
	return (int)((next - now) / NSEC_PER_MSEC) + 1;
}

/* Readable when somebody sets the real-time clock, in which sandboxes have their ends. */
static void arm_clock(struct host *host)
{
	const struct itimerspec never = {.it_value.tv_sec = INT64_C(1) << 40};

	if (timerfd_settime(host->clock_fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &never,
			    NULL) < 0 &&
	    errno != ECANCELED) /* set again meanwhile, and armed all the same */
		log_warn("changes of the clock are noticed late: %s", strerrordesc_np(errno));
}

static void dispatch(struct host *host, struct watch *w)
{
	static void (*const handlers[])(struct host * host, void *arg) = {
		[WATCH_VM] = vm_died, [WATCH_NETWORK] = network_died, [WATCH_PAGER] = pager_died};
	eventfd_t v;

	if (w->kind == WATCH_KICK) {
		(void)eventfd_read(host->kick_fd, &v); /* only its being readable matters */
		return;
	}
	if (w->kind == WATCH_CLOCK) {
		arm_clock(host); /* deadlines are looked at again now */
		return;
	}
	if (host_run(host, handlers[w->kind], w) < 0) {
		log_error("no thread to look after the death of pid=%d", (int)w->pid);
		watch_free(host, w);
	}
}

static void *monitor_main(void *arg)
{
	struct host *host = arg;
	bool busy = false; /* something has happened since memory was given back */

	while (!atomic_load(&host->stopping)) {
		struct epoll_event ev[16];
		int ms = check_deadlines(host), n = epoll_wait(host->epoll_fd, ev, ARRAY_SIZE(ev),
							       busy ? MIN(ms, TRIM_MS) : ms);

		/* what operations took and freed lies in pages between what is still needed */
		if (n == 0 && busy)
			(void)malloc_trim(0); /* that there was nothing is fine */
		busy = n > 0;
		for (int i = 0; i < n; i++)
			dispatch(host, ev[i].data.ptr);
	}
	return NULL;
}

int monitor_open(struct host *host)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &kick_watch},
			   clock_ev = {.events = EPOLLIN, .data.ptr = &clock_watch};

	host->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	host->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	host->clock_fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (host->epoll_fd < 0 || host->kick_fd < 0 || host->clock_fd < 0 ||
	    epoll_ctl(host->epoll_fd, EPOLL_CTL_ADD, host->kick_fd, &ev) < 0 ||
	    epoll_ctl(host->epoll_fd, EPOLL_CTL_ADD, host->clock_fd, &clock_ev) < 0)
		return error_errno();
	arm_clock(host);
	return 0;
}

int monitor_start(struct host *host)
{
	return -pthread_create(&host->monitor, NULL, monitor_main, host);
}

void monitor_stop(struct host *host)
{
	atomic_store(&host->stopping, true);
	if (host->monitor) {
		monitor_kick(host);
		pthread_join(host->monitor, NULL);
	}
	while (atomic_load(&host->workers) > 0)
		clock_sleep_ms(5); /* their operations have deadlines */
	while (host->watches)
		watch_free(host, host->watches);
	fd_close(host->epoll_fd);
	fd_close(host->kick_fd);
	fd_close(host->clock_fd);
}
