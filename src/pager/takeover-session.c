/* SPDX-License-Identifier: Apache-2.0 */
/* takeover-session.c - one session, put together again (theory: takeover.c) */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "image/image-base.h"
#include "pager/ledger.h"
#include "pager/reclaim.h"
#include "pager/takeover-internal.h"
#include "sys/uffd.h"

void taking_deinit(struct taking *t)
{
	fd_close(t->pidfd);
	fd_close(t->uffd);
	fd_close(t->memfd);
	fd_close(t->conn);
	slate_deinit(&t->slate);
}

int taking_slate(int journal, struct taking *t, struct problem *problem)
{
	bool needed = !t->e->features || (t->e->features & UFFD_FEATURE_EVENT_REMOVE);
	char name[SESSION_NAME_MAX + 8];
	int r;

	(void)snprintf(name, sizeof(name), "%s.pages", t->e->name);
	r = slate_open(journal, name, t->e->n_pages, problem, &t->slate);
	if (r == 0 || needed) {
		if (r < 0 && t->e->pid)
			problem_hint(problem, "what the VM gave back is not known any more");
		return r;
	}
	log_warn("session=%s %s; it is made anew", t->e->name, problem->message);
	*problem = PROBLEM_INIT;
	return slate_new(journal, name, t->e->n_pages, problem, &t->slate);
}

/* It was being left alone when its pager died: what is still registered is not any more. */
static int finish_leaving(struct taking *t)
{
	_cleanup_fd_ int uffd = reclaim_uffd(t->e->pid, t->pidfd, &t->e->map, true, NULL);
	int r = 0;

	if (uffd == -ENOENT)
		return 0;
	for (uint32_t i = 0; uffd >= 0 && i < t->e->map.n_regions && r == 0; i++)
		r = uffd_unregister(uffd, t->e->map.regions[i].hva,
				    t->e->map.regions[i].n_pages * DORM_PAGE_SIZE);
	return uffd < 0 ? uffd : r;
}

static int take_uffd(struct taking *t, struct problem *problem)
{
	int r = 0;

	t->full = t->e->full || t->e->mode == SESSION_EAGER || slate_is_full(&t->slate);
	if (!t->full) {
		t->uffd = reclaim_uffd(t->e->pid, t->pidfd, &t->e->map, false, problem);
		return t->uffd < 0 ? t->uffd : 0;
	}
	if (!t->e->full && t->e->mode != SESSION_EAGER)
		r = finish_leaving(t);
	if (r < 0)
		problem_errno(problem, r, "leaving the VM's memory alone");
	return r;
}

static int take_memory(struct control *c, struct taking *t, struct problem *problem)
{
	const struct journal_entry *e = t->e;

	if (e->mode == SESSION_COPY || pager_find_memory(c->p, e->memory_dev, e->memory_ino))
		return 0;
	if (!e->pid) {
		problem_set(problem, 410, "nobody has its memory any more: open it again");
		return -ENOENT;
	}
	t->memfd = reclaim_memory(e->pid, e->memory_dev, e->memory_ino, problem);
	return t->memfd < 0 ? t->memfd : 0;
}

int taking_descriptors(struct control *c, struct taking *t, struct problem *problem)
{
	int r = taking_slate(c->journal, t, problem);

	if (r == 0 && t->e->pid)
		r = take_uffd(t, problem);
	if (r == 0)
		r = take_memory(c, t, problem);
	return r;
}

static int get_resident(struct control *c, struct taking *t, struct problem *problem,
			struct resident **ret)
{
	struct image *memory = t->e->mode == SESSION_OVERLAY ? t->base : t->image;

	*ret = pager_find_memory(c->p, t->e->memory_dev, t->e->memory_ino);
	if (*ret && t->e->mode != SESSION_OVERLAY && image_missing_layers((*ret)->image)) {
		problem_set(problem, 409, "its memory is that of a base, which is not complete");
		return -ESTALE;
	}
	if (*ret || t->e->mode == SESSION_COPY)
		return 0;
	if (!memory || strcmp(image_id(memory), t->e->memory_id) != 0) {
		problem_set(problem, 409, "the image whose memory it shares (%s) is not there",
			    t->e->memory_id);
		return -ESTALE;
	}
	return orphan_revive_memory(c, memory, t->e, take_fd(t->memfd), problem, ret);
}

/* A base may have been opened where some of its layers are missing. What lies in them is copied
 * from the session's own image, as if it were not the base's. */
static void own_missing(const struct image *memory, uint64_t n_pages, bitmap_word *own)
{
	struct page_run run;

	for (uint64_t gfn = 0; image_missing_layers(memory) && gfn < n_pages;
	     gfn = run.gfn + run.n_pages) {
		image_lookup(memory, gfn, &run);
		if (run.layer == IMAGE_LAYER_ZERO || !image_layer_is_missing(memory, run.layer))
			continue;
		for (uint64_t i = run.gfn; i < run.gfn + run.n_pages; i++)
			bitmap_set(own, i);
	}
}

static int get_own(const struct taking *t, const struct resident *memory, struct problem *problem,
		   bitmap_word **ret)
{
	_cleanup_free_ bitmap_word *own = NULL;
	uint64_t n_own = 0, stored = 0, shared = 0;
	int r;

	if (t->e->mode != SESSION_OVERLAY)
		return 0;
	if (!t->base || strcmp(image_id(t->base), t->e->memory_id) != 0) {
		problem_set(problem, 409, "the image whose memory it shares (%s) is not there",
			    t->e->memory_id);
		return -ESTALE;
	}
	own = bitmap_new(t->e->n_pages);
	r = own ? image_diff_bitmap(t->image, t->base, own, &n_own, &stored, &shared) : -ENOMEM;
	if (r < 0)
		return r;
	own_missing(memory->image, t->e->n_pages, own);
	*ret = take_ptr(own);
	return 0;
}

static int add_door(struct control *c, struct taking *t, struct session *s, struct problem *problem)
{
	const struct journal_entry *e = t->e;
	struct door *d = NULL;
	int r = e->pid ? door_new_inside(s, take_fd(t->conn), &d)
		       : door_new(c->options.run_dir, s, problem, &d);

	if (r == 0)
		r = ledger_resume(c->journal, e, &d->ledger);
	if (r == 0 && c->options.alone)
		ledger_keep(d->ledger, &c->options.keeper_sock,
			    &(struct ledger_fds){s->uffd, s->pidfd, s->slate.fd, d->conn},
			    !t->kept);
	if (r < 0) {
		door_free(d);
		return r;
	}
	d->returned = true;
	d->next = c->doors;
	c->doors = d;
	return 0;
}

int taking_finish(struct control *c, struct taking *t, struct problem *problem,
		  struct session **ret)
{
	const struct journal_entry *e = t->e;
	struct pager_return q = {.options = {.name = e->name,
					     .mode = e->mode,
					     .why = e->why,
					     .image = t->image,
					     .slate_dirfd = c->journal,
					     .slate = &t->slate},
				 .map = e->pid ? &e->map : NULL,
				 .pid = e->pid,
				 .full = t->full,
				 .set = t->set,
				 .what = t->full ? JOB_NOTHING : e->load};
	struct session *s;
	uint64_t t0 = clock_now_ns();
	int r = get_resident(c, t, problem, &q.options.resident);

	c->took.memory_ns += clock_now_ns() - t0;
	if (r == 0)
		r = get_own(t, q.options.resident, problem, &q.options.own);
	if (r < 0)
		return r;
	if (e->mode == SESSION_EAGER && !e->pid)
		q.what = JOB_FULL;
	q.uffd = take_fd(t->uffd);
	/* a copy: whatever goes wrong, the caller can still end the VM */
	q.pidfd = e->pid ? fcntl(t->pidfd, F_DUPFD_CLOEXEC, 0) : -1;
	if (e->pid && q.pidfd < 0) {
		fd_close(q.uffd);
		return error_errno();
	}
	r = pager_take_session(c->p, &q, problem, &s);
	if (r < 0)
		return r;
	r = add_door(c, t, s, problem);
	if (r < 0) {
		pager_retire(c->p, s);
		return r;
	}
	*ret = s;
	return 0;
}
