/* SPDX-License-Identifier: Apache-2.0 */
/*
 * take-back.c - when the pager dies: another one goes on where it stopped
 *
 * A VM whose pager is gone loses nothing: its threads wait at their next missing page, for its
 * userfaultfd stays open in the VM itself. So a new pager is started before anything else is looked
 * at, and takes back by itself what the old one left in its run directory. What remains for the
 * daemon, per sandbox, by what the new pager says of its session:
 *
 *   serving     nothing
 *   orphaned    it could not open the image by itself (sealed, moved): it is given the directory
 *               and the keys again, as for a wake, and then serves
 *   otherwise   the VM waits for ever. Unless all of its memory is there and it needs no pager, it
 *               is ended, and the sandbox has failed
 *
 * The first two need no lock of the sandbox, and must not wait for one: an operation that is under
 * way holds it, and may wait for the VM. Should the directory change under our hands, it belongs to
 * another image than the session, and the pager refuses it. Failing a sandbox does take its lock,
 * and then looks again: the operation may have ended the VM, or brought up another.
 */
#include "sandbox/private.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"

#define ASK_MS		10000
#define PAGER_TRIES	5
#define PAGER_PAUSE_MS	200
#define SETTLE_PAUSE_MS 10

/* ---- one sandbox ------------------------------------------------------------------------------
 */

/* Give the pager the image of a session that it has but cannot serve. */
static int adopt_session(struct sandbox *sb, struct problem *problem)
{
	struct pager_session session = {.memory_fd = -1};
	_cleanup_fd_ int dirfd = -1;
	uint64_t memory_bytes;
	unsigned generation;
	char memory[32];
	int r;

	pthread_mutex_lock(&sb->info);
	generation = sb->record.generation;
	memory_bytes = sb->manifest.memory_bytes;
	pthread_mutex_unlock(&sb->info);
	dirfd = file_open_dir(sb->dirfd, sandbox_memory_name(generation, memory));
	if (dirfd < 0) {
		problem_errno(problem, dirfd, "its memory directory");
		return dirfd;
	}
	r = pager_client_open_as(sb->host->pager, sb->record.id, dirfd, sb->host->keys,
				 memory_bytes / DORM_PAGE_SIZE, NULL, deadline_after_ms(ASK_MS),
				 problem, &session);
	fd_close(session.memory_fd);
	if (r == 0 && !session.adopted) {
		problem_set(problem, 500, "the pager began another session for it");
		(void)pager_client_close_session(sb->host->pager, sb->record.id,
						 deadline_after_ms(ASK_MS)); /* the error counts */
		r = -EPROTO;
	}
	return r > 0 ? -EBADMSG : error_trace(r);
}

int sandbox_take_back(struct sandbox *sb, pid_t pid, struct problem *problem)
{
	json_auto_t *stats = NULL;
	const char *state, *failure;
	int r = pager_client_session_stats(sb->host->pager, sb->record.id,
					   deadline_after_ms(ASK_MS), &stats);

	if (r < 0) {
		if (r == -ENOENT)
			problem_set(problem, 500, "the new pager (pid %d) does not know it",
				    (int)pid);
		problem_errno(problem, r, "asking the new pager for it");
		return r;
	}
	state = json_string_value(json_object_get(stats, "state"));
	failure = json_string_value(json_object_get(stats, "failure"));
	if (state && !strcmp(state, "orphaned")) {
		r = adopt_session(sb, problem);
		if (r < 0)
			return r;
	} else if (!state || strcmp(state, "serving") != 0) {
		problem_set(problem, 500, "%.400s",
			    failure ? failure : "the new pager does not serve it");
		return -ENOTCONN;
	}
	atomic_store(&sb->pager_pid, pid);
	return 0;
}

/* op held. Is it a VM that the dead pager served, and nobody after it? */
static bool is_left_behind(const struct sandbox *sb, pid_t dead)
{
	return !sb->gone && sb->vmm && atomic_load(&sb->pager_pid) == dead &&
	       sb->record.state == SANDBOX_RUNNING;
}

/* op held. All of its memory is there: the pager is nothing to it any more. */
static bool lives_without_pager(struct sandbox *sb)
{
	if (vmm_needs_pager(sb->vmm) != 0)
		return false;
	atomic_store(&sb->pager_pid, 0);
	log_info("sandbox=%s goes on without a pager: its memory is complete", sb->record.id);
	return true;
}

/* ---- all of them ------------------------------------------------------------------------------
 */

struct all {
	struct sandbox **items;
	size_t n;
};

static void collect(void *userdata, struct sandbox *sb)
{
	struct all *all = userdata;
	struct sandbox **p = realloc(all->items, (all->n + 1) * sizeof(*p));

	if (!p) {
		log_error("sandbox=%s out of memory: it is left as it is", sb->record.id);
		return;
	}
	all->items = p;
	all->items[all->n++] = sandbox_ref(sb);
}

/* A new one may die too before it is ready, whatever killed the last one. If it never comes up, the
 * next wake tries again, and says why it cannot. Return: 0; negative errno */
static int replace(struct host *host, struct problem *problem, pid_t *ret_pid)
{
	int r = -ECANCELED;

	for (int i = 0; i < PAGER_TRIES && !atomic_load(&host->stopping); i++) {
		*problem = PROBLEM_INIT;
		r = host_pager(host, problem, ret_pid);
		if (r == 0)
			return 0;
		log_error("pager could not be started again: %s", problem->message);
		clock_sleep_ms(PAGER_PAUSE_MS);
	}
	problem_errno(problem, r, "starting the pager again");
	return r;
}

/* What became of the pager. */
struct death {
	pid_t dead;
	pid_t next;		/* which took its place; 0: none could be started */
	bool takes_back;	/* the next one can go on with the sessions of the dead one */
	struct problem problem; /* why there is none */
};

static int try_to_take_back(struct sandbox *sb, const struct death *d, struct problem *problem)
{
	int r = sandbox_take_back(sb, d->next, problem);

	if (r == 0)
		log_info("sandbox=%s is served again, by pager pid=%d", sb->record.id,
			 (int)d->next);
	return r;
}

/* op held. An operation may have ended since the first try, and with it what was in the way. */
static void settle_one(struct sandbox *sb, const struct death *d)
{
	struct problem p = PROBLEM_INIT;

	if (!is_left_behind(sb, d->dead))
		return;
	if (d->takes_back && try_to_take_back(sb, d, &p) == 0)
		return;
	if (lives_without_pager(sb))
		return;
	if (d->takes_back)
		sandbox_fail(sb, "its pager (pid %d) died, and it could not be taken back: %.300s",
			     (int)d->dead, p.message);
	else if (d->next)
		sandbox_fail(sb, "its pager (pid %d) died", (int)d->dead);
	else
		sandbox_fail(sb, "its pager (pid %d) died, and no other could be started: %.300s",
			     (int)d->dead, d->problem.message);
}

/* Return: how many are left, with which something is being done */
static size_t settle_free(struct all *all, const struct death *d)
{
	size_t left = 0;

	for (size_t i = 0; i < all->n; i++) {
		struct sandbox *sb = all->items[i];

		if (!sb)
			continue;
		if (!op_try(sb)) {
			left++;
			continue;
		}
		settle_one(sb, d);
		op_unlock(sb);
		all->items[i] = sandbox_unref(sb);
	}
	return left;
}

/* Each as soon as nothing is done with it: some operations may have to run into their deadlines,
 * and nobody else is to wait for that. */
static void settle_all(struct host *host, struct all *all, const struct death *d)
{
	while (settle_free(all, d) && !atomic_load(&host->stopping))
		clock_sleep_ms(SETTLE_PAUSE_MS);
	for (size_t i = 0; i < all->n; i++)
		all->items[i] = sandbox_unref(all->items[i]);
}

void take_back_all(struct host *host, pid_t dead)
{
	struct death d = {.dead = dead};
	uint64_t t0 = clock_now_ns();
	struct all all = {0};

	if (replace(host, &d.problem, &d.next) == 0)
		d.takes_back = host_pager_takes_back(host);
	else
		d.next = 0;
	atomic_fetch_add(&host->pager_deaths, 1);
	log_error("pager pid=%d ended; %s after %.1f ms", (int)dead,
		  d.next ? "there is another" : "there is no other",
		  (double)(clock_now_ns() - t0) / 1e6);
	events_add(host->events, "pager.died", NULL,
		   json_pack("{s:i, s:i, s:b}", "pid", (int)dead, "next", (int)d.next, "takesBack",
			     (int)d.takes_back));
	(void)host_each_sandbox(host, collect, &all); /* without memory, none */
	for (size_t i = 0; d.takes_back && i < all.n; i++) {
		struct problem p = PROBLEM_INIT;

		if (atomic_load(&all.items[i]->pager_pid) == dead &&
		    try_to_take_back(all.items[i], &d, &p) == 0)
			all.items[i] = sandbox_unref(all.items[i]);
	}
	settle_all(host, &all, &d);
	free(all.items);
}
