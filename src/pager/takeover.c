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
#include "pager/takeover.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "image/image-base.h"
#include "image/working-set.h"
#include "pager/control-internal.h"
#include "pager/reclaim.h"
#include "pager/ledger.h"
#include "sys/pidfd.h"
#include "sys/uffd.h"

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

/* ---- images -----------------------------------------------------------------------------------
 */

struct takeover_images {
	struct opened {
		struct opened *next;
		char id[IMAGE_ID_LEN + 1];
		uint64_t n_pages;
		struct image *image; /* NULL: it could not be opened, @problem says why */
		struct image *base;  /* for sessions in overlay mode; NULL: none */
		struct problem problem;
		int dirfd;
	} * first;
};

struct takeover_images *takeover_images_free(struct takeover_images *images)
{
	while (images && images->first) {
		struct opened *o = images->first;

		images->first = o->next;
		image_unref(o->base);
		image_unref(o->image);
		fd_close(o->dirfd);
		free(o);
	}
	free(images);
	return NULL;
}

static int open_image(const struct journal_entry *e, struct problem *problem, int *ret_dirfd,
		      struct image **ret)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	_cleanup_fd_ int dirfd = -1;
	int r;

	if (e->sealed) {
		problem_set(problem, 403, "its image is sealed, and keys are never kept");
		return -ENOKEY;
	}
	if (!e->zero) {
		dirfd = e->directory[0] ? file_open_dir(AT_FDCWD, e->directory) : -ENOENT;
		if (dirfd < 0) {
			problem_errno(problem, dirfd, "its snapshot directory %s", e->directory);
			return dirfd;
		}
	}
	r = e->zero ? image_open_zero(e->n_pages, &image)
		    : image_open(dirfd, NULL, problem, &image);
	if (r) {
		problem_errno(problem, r, "its image");
		return r > 0 ? -EBADMSG : r;
	}
	if (strcmp(image_id(image), e->image_id) != 0 || image_n_pages(image) != e->n_pages) {
		problem_set(problem, 409, "its snapshot directory %s has another image now: %s",
			    e->directory, image_id(image));
		return -ESTALE;
	}
	*ret_dirfd = take_fd(dirfd);
	*ret = take_ptr(image);
	return 0;
}

/* What its memory is shared with; it has to be the one that the journal names. */
static void open_base(struct opened *o, const struct journal_entry *e)
{
	struct problem problem = PROBLEM_INIT;
	int r;

	if (e->mode != SESSION_OVERLAY || !o->image || o->base || o->dirfd < 0)
		return;
	r = image_open_base(o->dirfd, o->image, NULL, &problem, &o->base);
	if (r)
		log_warn("session=%s its base is of no use: %s", e->name, problem.message);
	if (r)
		o->base = NULL;
}

static struct opened *find_opened(const struct takeover_images *images,
				  const struct journal_entry *e)
{
	struct opened *o = images->first;

	while (o && (strcmp(o->id, e->image_id) != 0 || o->n_pages != e->n_pages))
		o = o->next;
	return o;
}

/* Each image is tried once. Return: what came of it; NULL without memory */
static const struct opened *get_image(struct takeover_images *images, const struct journal_entry *e)
{
	struct opened *o = find_opened(images, e);

	if (o) {
		open_base(o, e);
		return o;
	}
	o = calloc(1, sizeof(*o));
	if (!o)
		return NULL;
	o->problem = PROBLEM_INIT;
	str_copy(o->id, sizeof(o->id), e->image_id);
	o->n_pages = e->n_pages;
	o->dirfd = -1;
	if (open_image(e, &o->problem, &o->dirfd, &o->image) < 0)
		o->image = NULL;
	open_base(o, e);
	o->next = images->first;
	images->first = o;
	return o;
}

int takeover_prepare(int journal, struct takeover_images **ret)
{
	_cleanup_free_ char(*names)[SESSION_NAME_MAX + 1] = NULL;
	_cleanup_free_ struct journal_entry *e = calloc(1, sizeof(*e));
	struct takeover_images *images = calloc(1, sizeof(*images));
	size_t n = 0;

	if (!e || !images || journal_names(journal, &names, &n) < 0) {
		free(images);
		return -ENOMEM;
	}
	for (size_t i = 0; i < n; i++)
		if (journal_read(journal, names[i], NULL, e) == 0)
			(void)get_image(images, e); /* without memory: later, or never */
	*ret = images;
	return 0;
}

/* ---- one session ------------------------------------------------------------------------------
 */

/* What is being put together again. */
struct taking {
	const struct journal_entry *e;
	int pidfd, uffd, memfd;
	struct slate slate;
	bool full;
	struct image *image, *base;    /* borrowed */
	const struct working_set *set; /* borrowed */
};

static void taking_deinit(struct taking *t)
{
	fd_close(t->pidfd);
	fd_close(t->uffd);
	fd_close(t->memfd);
	slate_deinit(&t->slate);
}

/* A VM that cannot give pages back has nothing in its slate that it needs. */
static int take_slate(int journal, struct taking *t, struct problem *problem)
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

/* All that comes from the process and the journal. Return: 0; -ESRCH it is gone; negative errno */
static int take_descriptors(struct control *c, struct taking *t, struct problem *problem)
{
	int r = take_slate(c->journal, t, problem);

	if (r == 0 && t->e->pid)
		r = take_uffd(t, problem);
	if (r == 0)
		r = take_memory(c, t, problem);
	return r;
}

static bool has_memory(const struct orphan *o, uint64_t dev, uint64_t ino)
{
	return o->e.memory_dev == dev && o->e.memory_ino == ino;
}

/* VMs that are left alone may touch what is not there; their memory must not be taken for
 * poisoned, nor be evicted. */
static int revive_memory(struct control *c, struct image *image, const struct journal_entry *e,
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
	return revive_memory(c, memory, t->e, take_fd(t->memfd), problem, ret);
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

static int add_door(struct control *c, const struct journal_entry *e, struct session *s,
		    struct problem *problem)
{
	struct door *d = NULL;
	int r = e->pid ? door_new_inside(s, -1, &d) : door_new(c->options.run_dir, s, problem, &d);

	if (r == 0)
		r = ledger_resume(c->journal, e, &d->ledger);
	if (r < 0) {
		door_free(d);
		return r;
	}
	d->returned = true;
	d->next = c->doors;
	c->doors = d;
	return 0;
}

/* With everything at hand: from here on it is a session as any other, only not served yet. */
static int finish(struct control *c, struct taking *t, struct problem *problem,
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
	r = add_door(c, e, s, problem);
	if (r < 0) {
		pager_retire(c->p, s);
		return r;
	}
	*ret = s;
	return 0;
}

/* ---- what cannot be ---------------------------------------------------------------------------
 */

static json_t *stats_of(const struct journal_entry *e, const char *state, const char *failure,
			bool full)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:b, s:s?}", "session", e->name,
			 "image_id", e->image_id, "state", state, "mode",
			 session_mode_name(e->mode), "why", e->why, "pid", e->pid, "full",
			 (int)full, "failure", failure);
}

static void note(struct control *c, const struct journal_entry *e, const char *state,
		 const char *text)
{
	pager_note(c->p, stats_of(e, state, text, false));
	journal_remove(c->journal, e->name);
}

static void give_up(struct control *c, const struct journal_entry *e, int pidfd, int r,
		    const struct problem *problem)
{
	char text[SESSION_FAILURE_MAX + 1];

	if (r == -ESRCH) {
		log_info("session=%s pid=%d the VM ended while no pager ran", e->name, e->pid);
		note(c, e, "closed", NULL);
		return;
	}
	(void)snprintf(text, sizeof(text), "it could not be taken back: %.400s%s%.200s",
		       problem->message, problem->hint[0] ? "; " : "", problem->hint);
	if (pidfd >= 0)
		(void)pidfd_signal(pidfd, SIGKILL); /* ESRCH: it was faster */
	log_error("session=%s pid=%d failed%s: %s", e->name, e->pid,
		  pidfd >= 0 ? " and was killed" : "", text);
	note(c, e, "failed", text);
	c->lost++;
}

static int make_orphan(struct control *c, struct taking *t, const char *why)
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
	int r = take_descriptors(c, t, problem);

	t1 = clock_now_ns();
	c->took.descriptors_ns += t1 - t0;
	if (r < 0)
		return r;
	o = get_image(images, t->e);
	c->took.images_ns += clock_now_ns() - t1;
	if (!o)
		return -ENOMEM;
	if (!o->image && t->e->pid)
		return make_orphan(c, t, o->problem.message);
	if (!o->image) {
		*problem = o->problem;
		return -ENOENT;
	}
	t->image = o->image;
	t->base = o->base;
	get_set(t, o, &set);
	r = finish(c, t, problem, &s);
	if (r == 0)
		c->taken_back++;
	return r;
}

static void take_one(struct control *c, struct takeover_images *images,
		     const struct journal_entry *e)
{
	_cleanup_(taking_deinit) struct taking t = {.e = e, .pidfd = -1, .uffd = -1, .memfd = -1};
	struct problem problem = PROBLEM_INIT;
	int r = 0, pidfd = -1;

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
	give_up(c, e, pidfd, r, &problem);
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

void takeover_run(struct control *c, struct takeover_images *images)
{
	_cleanup_(takeover_images_freep) struct takeover_images *own = NULL;
	_cleanup_free_ struct journal_entry *entries = NULL;
	uint64_t t0 = clock_now_ns(), read_ns;
	size_t n = 0;

	if (!images)
		images = own = calloc(1, sizeof(*own));
	entries = images ? read_all(c, &n) : NULL;
	if (!entries) {
		log_error("out of memory: no session can be taken back");
		return;
	}
	read_ns = clock_now_ns() - t0;
	for (int round = 0; round < 4; round++)
		for (size_t i = 0; i < n; i++)
			if (round_of(&entries[i]) == round)
				take_one(c, images, &entries[i]);
	serve_all(c);
	c->takeover_ns = clock_now_ns() - t0;
	if (n)
		log_info(
			"%u of %zu sessions taken back in %.1f ms (journal %.1f, descriptors %.1f, "
			"images %.1f, memory %.1f), %u lost",
			c->taken_back, n, (double)c->takeover_ns / 1e6, (double)read_ns / 1e6,
			(double)c->took.descriptors_ns / 1e6, (double)c->took.images_ns / 1e6,
			(double)c->took.memory_ns / 1e6, c->lost);
}

/* ---- orphans ----------------------------------------------------------------------------------
 */

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
		note(c, &o->e, o->failed ? "failed" : "closed", o->failed ? o->text : NULL);
		remove_orphan(c, o);
	}
}

struct orphan *takeover_find(struct control *c, const char *name)
{
	for (struct orphan *o = c->orphans; name && o; o = o->next)
		if (!strcmp(o->e.name, name))
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
		if (memfd >= 0 && revive_memory(c, image, &o->e, memfd, &problem, &r) == 0)
			return;
		log_warn("session=%s its memory could not be shared again: %s", o->e.name,
			 problem.message);
	}
}

void takeover_close(struct control *c, struct orphan *o)
{
	(void)c;
	if (o->state != ENDING)
		log_info("session=%s closed", o->e.name);
	o->state = ENDING;
}

int takeover_adopt(struct control *c, struct orphan *o, struct image *image, struct image *base,
		   const struct working_set *set, struct problem *problem, struct session **ret)
{
	_cleanup_(taking_deinit) struct taking t = {.e = &o->e,
						    .pidfd = -1,
						    .uffd = -1,
						    .memfd = -1,
						    .full = o->full,
						    .image = image,
						    .base = base};
	int r;

	if (o->state == ENDING) {
		problem_set(problem, 409, "session %s is over, but its VM's process is still there",
			    o->e.name);
		return -EEXIST;
	}
	if (strcmp(image_id(image), o->e.image_id) != 0 || image_n_pages(image) != o->e.n_pages) {
		problem_set(problem, 409, "session %s runs from image %s, not from %s", o->e.name,
			    o->e.image_id, image_id(image));
		return -EINVAL;
	}
	if (o->e.load == JOB_WORKING_SET)
		t.set = set;
	r = take_slate(c->journal, &t, problem);
	if (r < 0)
		return r;
	t.pidfd = fcntl(o->pidfd, F_DUPFD_CLOEXEC, 0);
	t.uffd = o->uffd < 0 ? -1 : fcntl(o->uffd, F_DUPFD_CLOEXEC, 0);
	t.memfd = o->memfd < 0 ? -1 : fcntl(o->memfd, F_DUPFD_CLOEXEC, 0);
	if (t.pidfd < 0 || (t.uffd < 0) != (o->uffd < 0) || (t.memfd < 0) != (o->memfd < 0))
		return error_errno();
	r = finish(c, &t, problem, ret);
	if (r < 0)
		return r;
	c->taken_back++;
	remove_orphan(c, o);
	return pager_serve_taken(c->p, *ret, problem);
}

/* ---- statistics -------------------------------------------------------------------------------
 */

json_t *takeover_stats(const struct orphan *o)
{
	static const char *const names[] = {"orphaned", "serving", "closed"};
	const char *state = o->failed ? "failed" : names[o->state];

	return stats_of(&o->e, state, o->state == SETTLED ? NULL : o->text, o->full);
}

void takeover_add_stats(struct control *c, json_t *stats)
{
	json_t *sessions = json_object_get(stats, "sessions");

	/* a member that is missing is better than failing */
	for (const struct orphan *o = c->orphans; o; o = o->next)
		(void)json_array_append_new(sessions, takeover_stats(o));
	(void)json_object_set_new(stats, "taken_back", json_integer(c->taken_back));
	(void)json_object_set_new(stats, "lost", json_integer(c->lost));
	(void)json_object_set_new(stats, "takeover_ns", json_integer((json_int_t)c->takeover_ns));
}
