/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Going on where another pager stopped
 *
 * What is left when a pager dies, and where:
 *
 *   its VMs' userfaultfds     open in the VMs. Threads that fault wait meanwhile
 *   the images' memfds        mapped by the VMs. What is in them is right (resident.c, invariant 1)
 *   the journal               who the VMs are, where their memory is, which images
 *   the slates                what they gave back; what was read of their events and not yet noted
 *   the images                immutable files
 *
 * What is lost: events that were read and not answered (so everything is woken, and whoever waits
 * asks again), which frames are remembered as failed (they fail again), counters, which zero pages
 * are worth installing early.
 * Also what the audit (resident.h) had not seen yet: a VMM that broke the rule and touched memory
 * that it had not registered, in the second before the death, is not found out any more.
 *
 * Why no page can be wrong
 *  - A page that the old pager was putting somewhere was put, or was not: UFFDIO_COPY and its
 *    kin are atomic. What is there is not replaced (EEXIST).
 *  - An event that a page was given back is either still in the userfaultfd; or noted; or in the
 *    slate's inbox. So a page is never filled from the image after its VM gave it back. A slate
 *    that is damaged says nothing: its session is taken back only if its VM cannot give pages back.
 *  - A VM that was being left alone (graduate.c) is marked in the slate before the first of its
 *    ranges is unregistered. From then on it may give pages back without anybody being told, so it
 *    must not be registered again: it is left alone completely.
 *  - A VM is believed to be the journal's if pid and start time agree; a memfd if its inode does; a
 *    userfaultfd if it is registered at the VM's regions; an image if its id, a digest, agrees.
 *
 * What cannot be taken back would wait for ever, and is killed. So it is with sessions that nobody
 * gave an image for within the time to adopt.
 *
 * Sessions that no VM has attached to are listened for again, at the same name. Their memory is
 * known to nobody but VMs of the same image, or the one that is coming: without the former, the
 * session is given up, and whoever opened it has to do so again (an `open` of the same name takes
 * its place). A VM that connected and was not let in yet got an end of file; its owner sees a
 * session that goes on listening, and ends it.
 */
#include "pager/takeover-internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "image/working-set.h"
#include "pager/reclaim.h"
#include "sys/pidfd.h"

/* ---- what cannot be ---------------------------------------------------------------------------
 */

json_t *takeover_entry_stats(const struct journal_entry *e, const char *state, const char *failure,
			     bool full)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:b, s:s?}", "session", e->name,
			 "image_id", e->image_id, "state", state, "mode",
			 session_mode_name(e->mode), "why", e->why, "pid", e->pid, "full",
			 (int)full, "failure", failure);
}

void takeover_note(struct control *c, const struct journal_entry *e, const char *state,
		   const char *text)
{
	pager_note(c->p, takeover_entry_stats(e, state, text, false));
	if (c->journal >= 0)
		journal_remove(c->journal, e->name);
}

void takeover_give_up(struct control *c, const struct journal_entry *e, int pidfd, int r,
		      const struct problem *problem)
{
	char text[SESSION_FAILURE_MAX + 1];

	if (r == -ESRCH) {
		log_info("session=%s pid=%d the VM ended while no pager ran", e->name, e->pid);
		takeover_note(c, e, "closed", NULL);
		return;
	}
	(void)snprintf(text, sizeof(text), "it could not be taken back: %.400s%s%.200s",
		       problem->message, problem->hint[0] ? "; " : "", problem->hint);
	if (pidfd >= 0)
		(void)pidfd_signal(pidfd, SIGKILL); /* ESRCH: it was faster */
	log_error("session=%s pid=%d failed%s: %s", e->name, e->pid,
		  pidfd >= 0 ? " and was killed" : "", text);
	takeover_note(c, e, "failed", text);
	c->lost++;
}

/* ---- all of them ------------------------------------------------------------------------------
 */

static void get_set(struct taking *t, const struct opened *o, struct working_set *set)
{
	if (t->e->load == JOB_WORKING_SET && o->dirfd >= 0 &&
	    working_set_read(o->dirfd, t->image, NULL, set) == 0)
		t->set = set;
}

static int take_back(struct control *c, struct takeover_images *images, struct taking *t,
		     struct problem *problem)
{
	_cleanup_(working_set_deinit) struct working_set set = {0};
	const struct opened *o;
	struct session *s;
	uint64_t t0 = clock_now_ns(), t1;
	int r = taking_descriptors(c, t, problem);

	t1 = clock_now_ns();
	c->took.descriptors_ns += t1 - t0;
	if (r < 0)
		return r;
	o = takeover_image(images, t->e);
	c->took.images_ns += clock_now_ns() - t1;
	if (!o)
		return -ENOMEM;
	if (!o->image && t->e->pid && !c->options.alone)
		return orphan_new(c, t, o->problem.message);
	if (!o->image) {
		*problem = o->problem;
		return -ENOENT;
	}
	t->image = o->image;
	t->base = o->base;
	get_set(t, o, &set);
	r = taking_finish(c, t, problem, &s);
	if (r == 0)
		c->taken_back++;
	return r;
}

static void take_one(struct control *c, struct takeover_images *images,
		     const struct journal_entry *e)
{
	_cleanup_(taking_deinit) struct taking t = {
		.e = e, .pidfd = -1, .uffd = -1, .memfd = -1, .conn = -1};
	struct problem problem = PROBLEM_INIT;
	int r = 0, pidfd = -1;

	if (pager_find(c->p, e->name))
		return; /* the supervisor had it */
	if (c->options.alone && !e->pid) {
		journal_remove(c->journal, e->name);
		return;
	}
	if (e->pid) {
		t.pidfd = reclaim_process(e->pid, e->start_time, &problem);
		r = t.pidfd < 0 ? t.pidfd : 0;
		pidfd = t.pidfd;
	}
	if (r == 0)
		r = take_back(c, images, &t, &problem);
	if (r == 0)
		return;
	problem_errno(&problem, r, "taking session %s back", e->name);
	if (pidfd >= 0 && pidfd_is_gone(pidfd) == 1)
		r = -ESRCH; /* whatever went wrong, this was why */
	takeover_give_up(c, e, pidfd, r, &problem);
}

/*
 * VMs that bring the memfd of an image first, so that it is there for those that do not: for
 * sessions that still listen, and for those in copy mode, which are fine without. Among them those
 * of the image itself before those whose base it is, and who may know less of it.
 */
static int round_of(const struct journal_entry *e)
{
	if (e->mode == SESSION_COPY)
		return 3;
	return e->pid ? e->mode == SESSION_OVERLAY : 2;
}

static struct journal_entry *read_all(struct control *c, size_t *ret_n)
{
	_cleanup_free_ char(*names)[SESSION_NAME_MAX + 1] = NULL;
	struct journal_entry *entries;
	size_t n = 0, have = 0;

	if (journal_names(c->journal, &names, &n) < 0)
		return NULL;
	entries = calloc(n + 1, sizeof(*entries));
	for (size_t i = 0; entries && i < n; i++) {
		struct problem problem = PROBLEM_INIT;
		int r = journal_read(c->journal, names[i], &problem, &entries[have]);

		if (r == 0) {
			have++;
			continue;
		}
		/* whom to kill is not known; whoever opened the session does not find it */
		log_error("session=%s could not be taken back: %s", names[i], problem.message);
		journal_remove(c->journal, names[i]);
		c->lost++;
	}
	*ret_n = have;
	return entries;
}

/* All at once, at the end: VMs that run again would only take the processors from us, while others
 * still wait. */
static void serve_all(struct control *c)
{
	for (struct door *d = c->doors; d; d = d->next)
		if (d->returned && session_state(d->session) == SESSION_SERVING)
			(void)pager_serve_taken(c->p, d->session, NULL); /* else it has failed */
}

static void take_journal(struct control *c, struct takeover_images *images)
{
	_cleanup_free_ struct journal_entry *entries = NULL;
	size_t n = 0;

	entries = read_all(c, &n);
	if (!entries) {
		log_error("out of memory: no session can be taken back");
		return;
	}
	for (size_t i = 0; i < n; i++)
		takeover_count_name(c, entries[i].name);
	if (c->n_named && !c->keeps_memory && c->options.keeper_sock >= 0)
		takeover_keep_memory(c, NULL); /* a supervisor that does not know the numbers */
	for (int round = 0; round < 4; round++)
		for (size_t i = 0; i < n; i++)
			if (round_of(&entries[i]) == round)
				take_one(c, images, &entries[i]);
}

void takeover_run(struct control *c, struct takeover_images *images)
{
	_cleanup_(takeover_images_freep) struct takeover_images *own = NULL;
	uint64_t t0 = clock_now_ns();

	if (!images)
		images = own = calloc(1, sizeof(*own));
	if (!images ||
	    (c->options.alone && takeover_images_add(images, c->options.alone->image) < 0)) {
		log_error("out of memory: no session can be taken back");
		return;
	}
	if (c->options.alone && c->options.keeper_sock >= 0)
		takeover_kept(c);
	if (c->journal >= 0)
		take_journal(c, images);
	serve_all(c);
	c->takeover_ns = clock_now_ns() - t0;
	if (c->options.alone && c->options.keeper_sock >= 0)
		takeover_keep_pressure(c);
	if (c->taken_back || c->lost)
		log_info("%u sessions taken back in %.1f ms (descriptors %.1f, images %.1f, "
			 "memory %.1f), %u lost",
			 c->taken_back, (double)c->takeover_ns / 1e6,
			 (double)c->took.descriptors_ns / 1e6, (double)c->took.images_ns / 1e6,
			 (double)c->took.memory_ns / 1e6, c->lost);
}

void takeover_add_stats(struct control *c, json_t *stats)
{
	orphan_add_stats(c, json_object_get(stats, "sessions"));
	/* a member that is missing is better than failing */
	(void)json_object_set_new(stats, "taken_back", json_integer(c->taken_back));
	(void)json_object_set_new(stats, "lost", json_integer(c->lost));
	(void)json_object_set_new(stats, "takeover_ns", json_integer((json_int_t)c->takeover_ns));
}
