/* SPDX-License-Identifier: Apache-2.0 */
/* orphan.c - sessions whose VM is here and whose image is not (takeover.h) */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "pager/takeover-internal.h"
#include "sys/pidfd.h"

#define ADOPT_MS 30000

enum orphan_state { ORPHANED, SETTLED, ENDING };

struct orphan {
	struct orphan *next;
	enum orphan_state state;
	struct journal_entry e;
	int pidfd, uffd, memfd;
	bool full;
	bool kept;   /* resident_keep() was called for it */
	bool failed; /* ENDING: killed */
	uint64_t deadline_ns;
	char text[512];
};

static bool has_memory(const struct orphan *o, uint64_t dev, uint64_t ino)
{
	return o->e.memory_dev == dev && o->e.memory_ino == ino;
}

int orphan_revive_memory(struct control *c, struct image *image, const struct journal_entry *e,
			 int memfd, struct problem *problem, struct resident **ret)
{
	int r = pager_take_memory(c->p, image, memfd, problem, ret);

	for (struct orphan *o = c->orphans; o && r == 0; o = o->next) {
		if (!o->full || !has_memory(o, e->memory_dev, e->memory_ino))
			continue;
		resident_keep(*ret, true);
		o->kept = true;
	}
	return r;
}

int orphan_new(struct control *c, struct taking *t, const char *why)
{
	struct orphan *o = calloc(1, sizeof(*o));
	struct resident *r = pager_find_memory(c->p, t->e->memory_dev, t->e->memory_ino);

	if (!o)
		return -ENOMEM;
	o->e = *t->e;
	o->kept = r && t->full && t->e->mode != SESSION_COPY;
	if (o->kept)
		resident_keep(r, true);
	o->pidfd = take_fd(t->pidfd);
	o->uffd = take_fd(t->uffd);
	o->memfd = take_fd(t->memfd);
	o->full = t->full;
	o->state = t->full ? SETTLED : ORPHANED;
	o->deadline_ns = deadline_after_ms(c->options.adopt_ms ? c->options.adopt_ms : ADOPT_MS);
	str_copy(o->text, sizeof(o->text), why);
	o->next = c->orphans;
	c->orphans = o;
	log_info("session=%s pid=%d %s: %s", o->e.name, o->e.pid,
		 t->full ? "has all of its memory" : "waits for its image", why);
	return 0;
}

static void remove_orphan(struct control *c, struct orphan *victim)
{
	struct resident *r = pager_find_memory(c->p, victim->e.memory_dev, victim->e.memory_ino);

	if (r && victim->kept)
		resident_keep(r, false);
	for (struct orphan **o = &c->orphans; *o; o = &(*o)->next) {
		if (*o != victim)
			continue;
		*o = victim->next;
		break;
	}
	fd_close(victim->pidfd);
	fd_close(victim->uffd);
	fd_close(victim->memfd);
	free(victim);
}

void takeover_free(struct control *c)
{
	while (c->orphans)
		remove_orphan(c, c->orphans);
}

static void expire(struct control *c, struct orphan *o)
{
	char text[sizeof(o->text)];

	str_copy(text, sizeof(text), o->text);
	(void)snprintf(o->text, sizeof(o->text),
		       "it could not be taken back: nobody gave its image again in time; %.400s",
		       text);
	o->state = ENDING;
	o->failed = true;
	(void)pidfd_signal(o->pidfd, SIGKILL); /* ESRCH: it was faster */
	log_error("session=%s pid=%d failed and was killed: %s", o->e.name, o->e.pid, o->text);
	takeover_note(c, &o->e, "failed", o->text);
	c->lost++;
}

void takeover_tick(struct control *c)
{
	for (struct orphan *o = c->orphans, *next; o; o = next) {
		next = o->next;
		if (o->state == ORPHANED && deadline_passed(o->deadline_ns))
			expire(c, o);
		if (pidfd_is_gone(o->pidfd) != 1)
			continue;
		log_info("session=%s pid=%d the VM has ended", o->e.name, o->e.pid);
		if (o->state != ENDING)
			takeover_note(c, &o->e, "closed", NULL);
		remove_orphan(c, o);
	}
}

struct orphan *takeover_find(struct control *c, const char *name)
{
	for (struct orphan *o = c->orphans; name && o; o = o->next)
		if (o->state != ENDING && !strcmp(o->e.name, name))
			return o;
	return NULL;
}

bool takeover_needs_base(const struct orphan *o)
{
	return o->e.mode == SESSION_OVERLAY;
}

void takeover_offer(struct control *c, struct image *image)
{
	struct problem problem = PROBLEM_INIT;
	struct resident *r;
	int memfd;

	for (struct orphan *o = c->orphans; o; o = o->next) {
		if (o->memfd < 0 || strcmp(o->e.memory_id, image_id(image)) != 0 ||
		    o->e.n_pages != image_n_pages(image) ||
		    pager_find_memory(c->p, o->e.memory_dev, o->e.memory_ino))
			continue;
		memfd = fcntl(o->memfd, F_DUPFD_CLOEXEC, 0);
		if (memfd >= 0 && orphan_revive_memory(c, image, &o->e, memfd, &problem, &r) == 0)
			return;
		log_warn("session=%s its memory could not be shared again: %s", o->e.name,
			 problem.message);
	}
}

void takeover_close(struct control *c, struct orphan *o)
{
	log_info("session=%s closed", o->e.name);
	o->state = ENDING;
	takeover_note(c, &o->e, "closed", NULL);
}

int takeover_adopt(struct control *c, struct orphan *o, struct image *image, struct image *base,
		   const struct working_set *set, struct problem *problem, struct session **ret)
{
	_cleanup_(taking_deinit) struct taking t = {.e = &o->e,
						    .pidfd = -1,
						    .uffd = -1,
						    .memfd = -1,
						    .conn = -1,
						    .full = o->full,
						    .image = image,
						    .base = base};
	int r;

	if (strcmp(image_id(image), o->e.image_id) != 0 || image_n_pages(image) != o->e.n_pages) {
		problem_set(problem, 409, "session %s runs from image %s, not from %s", o->e.name,
			    o->e.image_id, image_id(image));
		return -EINVAL;
	}
	if (o->e.load == JOB_WORKING_SET)
		t.set = set;
	r = taking_slate(c->journal, &t, problem);
	if (r < 0)
		return r;
	t.pidfd = fcntl(o->pidfd, F_DUPFD_CLOEXEC, 0);
	t.uffd = o->uffd < 0 ? -1 : fcntl(o->uffd, F_DUPFD_CLOEXEC, 0);
	t.memfd = o->memfd < 0 ? -1 : fcntl(o->memfd, F_DUPFD_CLOEXEC, 0);
	if (t.pidfd < 0 || (t.uffd < 0) != (o->uffd < 0) || (t.memfd < 0) != (o->memfd < 0))
		return error_errno();
	r = taking_finish(c, &t, problem, ret);
	if (r < 0)
		return r;
	c->taken_back++;
	remove_orphan(c, o);
	return pager_serve_taken(c->p, *ret, problem);
}

json_t *takeover_stats(const struct orphan *o)
{
	static const char *const names[] = {"orphaned", "serving", "closed"};
	const char *state = o->failed ? "failed" : names[o->state];

	return takeover_entry_stats(&o->e, state, o->state == SETTLED ? NULL : o->text, o->full);
}

void orphan_add_stats(const struct control *c, json_t *sessions)
{
	/* a member that is missing is better than failing */
	for (const struct orphan *o = c->orphans; o; o = o->next)
		(void)json_array_append_new(sessions, takeover_stats(o));
}
