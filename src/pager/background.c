/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a job has to load is kept as one bit for each frame, in up to two places: the resident
 * memory (all VMs of the image profit), and the VM itself (pages that are copied). Bits are cleared
 * as frames come; a frame that somebody else is bringing keeps its bit, and the cursor comes round
 * again. So nothing depends on the order in which reads end, and a demand fault and a job never do
 * the same work twice: whoever claims a frame first does it, and the other finds it done.
 *
 * A read takes as many frames as lie one behind the other in their layer and are wanted, up to
 * LOADER_READ_BYTES. They are LOADING from then on; a fault on any of them joins, and waits for
 * this one read and its decoding, where frames that somebody waits for come first.
 */
#include "pager/background.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <sys/eventfd.h>

#include "base/error.h"
#include "base/str.h"
#include "image/working-set.h"
#include "pager/bring.h"
#include "pager/evict.h"
#include "pager/graduate.h"
#include "pager/job.h"
#include "pager/recording.h"

/* ---- what a job wants -------------------------------------------------------------------------
 */

/* Changed under jobs_lock, read without it: job_stats(). */
static void add_pages(uint64_t *pages, uint64_t n)
{
	__atomic_store_n(pages, *pages + n, __ATOMIC_RELAXED);
}

static void want(struct side *side, uint64_t index)
{
	struct frame_page pages[IMAGE_FRAME_PAGES];
	uint32_t layer, frame;

	if (side->favour)
		resident_favour(side->favour, index);
	if (bitmap_test(side->wanted, index))
		return;
	frames_name(side->frames, index, &layer, &frame);
	add_pages(&side->pages_total, image_frame_pages(side->image, layer, frame, pages));
	bitmap_set(side->wanted, index);
	side->n_wanted++;
}

static int init_side(struct side *side, struct frames *f, struct image *image, bool direct)
{
	*side = (struct side){.frames = f, .image = image, .direct = direct};
	side->wanted = bitmap_new(MAX(f->n, (uint64_t)1));
	return side->wanted ? 0 : -ENOMEM;
}

/* Frames [@slot, @slot + @n_pages) of a layer. */
static void want_slots(struct side *side, uint32_t layer, uint64_t slot, uint64_t n_pages)
{
	for (uint64_t i = slot / IMAGE_FRAME_PAGES; i <= (slot + n_pages - 1) / IMAGE_FRAME_PAGES;
	     i++)
		want(side, frames_index(side->frames, layer, (uint32_t)i));
}

/* A page of the session's image: where does it have to go? */
static struct side *side_of(struct job *job, uint64_t gfn)
{
	if (!job->s || !session_owns(job->s, gfn))
		return &job->sides[SIDE_RESIDENT];
	return &job->sides[SIDE_DIRECT];
}

/* Bringing its frame will not do for a page that has its slot from another, or has none. */
static void want_loose(struct job *job, struct image *image, const struct page_run *run)
{
	for (uint64_t i = 0; i < run->n_pages; i++) {
		uint64_t gfn = run->gfn + i;

		if (run->layer == IMAGE_LAYER_ZERO ||
		    image_owner(image, run->layer, run->slot + i) != gfn)
			bitmap_set(job->loose, gfn);
	}
}

static void want_run(struct job *job, const struct page_run *run)
{
	bool split = job->s && job->s->own;

	for (uint64_t i = 0; i < run->n_pages;) {
		struct side *side = side_of(job, run->gfn + i);
		uint64_t n = split ? 1 : run->n_pages;

		if (split && side == &job->sides[SIDE_RESIDENT]) {
			struct page_run
				base; /* the same page has another place in the base's map */

			image_lookup(side->image, run->gfn + i, &base);
			want_slots(side, base.layer, base.slot + (run->gfn + i - base.gfn), 1);
		} else {
			want_slots(side, run->layer, run->slot + i, n);
		}
		i += n;
	}
}

static void want_set(struct job *job, const struct working_set *set)
{
	struct image *image = job->s ? job->s->image : job->r->image;
	struct working_set_walk walk = {.set = set, .image = image};
	struct page_run run;

	job->sides[SIDE_RESIDENT].favour = job->r;
	while (working_set_next(&walk, &run)) {
		if (run.layer != IMAGE_LAYER_ZERO)
			want_run(job, &run);
		else /* for VMs that attach; long ones are never in the memory itself */
			resident_remember_zeros(job->r, run.gfn, run.n_pages);
		if (job->loose)
			want_loose(job, image, &run);
	}
	job->sides[SIDE_RESIDENT].favour = NULL;
	job->step = STEP_LOOSE;
}

void job_want_all(struct job *job)
{
	struct image *image = job->s ? job->s->image : job->r->image;
	struct page_run run;

	for (uint64_t gfn = 0; gfn < image_n_pages(image); gfn = run.gfn + run.n_pages) {
		image_lookup(image, gfn, &run);
		if (run.layer != IMAGE_LAYER_ZERO)
			want_run(job, &run);
	}
}

/* ---- the next read ----------------------------------------------------------------------------
 */

static void got(struct side *side, uint64_t index)
{
	struct frame_page pages[IMAGE_FRAME_PAGES];
	uint32_t layer, frame;

	frames_name(side->frames, index, &layer, &frame);
	add_pages(&side->pages_done, image_frame_pages(side->image, layer, frame, pages));
	bitmap_clear(side->wanted, index);
	side->n_wanted--;
}

/* Has the VM all pages of the frame that are to be copied into it? */
static bool is_installed(const struct job *job, const struct side *side, uint32_t layer,
			 uint32_t frame)
{
	struct frame_page pages[IMAGE_FRAME_PAGES];
	uint32_t n = image_frame_pages(side->image, layer, frame, pages);

	for (uint32_t i = 0; i < n; i++)
		if (session_owns(job->s, pages[i].gfn) &&
		    !slate_is_installed(&job->s->slate, pages[i].gfn) &&
		    !session_is_removed(job->s, pages[i].gfn))
			return false;
	return true;
}

static bool is_there(const struct job *job, const struct side *side, uint64_t index)
{
	enum frame_state state = frames_state(side->frames, index);
	uint32_t layer, frame;

	if (state == FRAME_FAILED || state == FRAME_RESIDENT)
		return true;
	if (!side->direct)
		return false;
	frames_name(side->frames, index, &layer, &frame);
	return is_installed(job, side, layer, frame);
}

/* A frame at or after the cursor that is this job's to bring; it is LOADING then. */
static bool claim_next(struct job *job, struct side *side, uint64_t *ret)
{
	for (uint64_t i = side->cursor; side->n_wanted; i++) {
		i = bitmap_next(side->wanted, side->frames->n, i);
		if (i == side->frames->n)
			break;
		if (is_there(job, side, i)) {
			got(side, i);
		} else if (frames_try(side->frames, i)) {
			*ret = i;
			return true;
		}
	}
	side->cursor = 0; /* the next round; the engine's tick asks for it */
	return false;
}

/* Does the frame of @index follow the one that ends at @end? If so, and it is free, claim it. */
static bool claim_also(struct job *job, struct side *side, uint64_t index, uint32_t layer,
		       uint64_t end, struct frame_extent *x)
{
	if (index == side->frames->first[layer + 1] || !bitmap_test(side->wanted, index) ||
	    is_there(job, side, index))
		return false;
	image_frame_extent(side->image, layer, (uint32_t)(index - side->frames->first[layer]), x);
	/* a plain frame begins on a page, so there may be a little between it and the one before */
	return x->offset >= end && x->offset - end < DORM_PAGE_SIZE &&
	       frames_try(side->frames, index);
}

enum { ARG_JOB, ARG_FRAME, ARG_N, ARG_SIDE };

static void loaded(struct load *l, struct load_buffers *b, const uint8_t *data, int result);

static bool next_read(struct job *job, struct side *side, struct load *l)
{
	struct frame_extent first, x;
	uint32_t layer, frame, n = 1;
	uint64_t index, end;

	if (side->direct && session_state(job->s) == SESSION_LISTENING)
		return false; /* there is nothing yet to copy to */
	if (!claim_next(job, side, &index))
		return false;
	frames_name(side->frames, index, &layer, &frame);
	image_frame_extent(side->image, layer, frame, &first);
	end = first.offset + first.stored_bytes;
	while (end + IMAGE_FRAME_BYTES + DORM_PAGE_SIZE - first.offset <= LOADER_READ_BYTES &&
	       claim_also(job, side, index + n, layer, end, &x)) {
		end = x.offset + x.stored_bytes;
		n++;
	}
	side->cursor = index + n;
	l->fd = first.fd;
	l->direct_fd = first.direct_fd;
	l->offset = first.offset;
	l->len = (uint32_t)(end - first.offset);
	l->arg[ARG_FRAME] = (uint64_t)layer << 32 | frame;
	l->arg[ARG_N] = n;
	l->arg[ARG_SIDE] = side->direct;
	return true;
}

/* Frames that are in the resident memory already need no read on their way to the VM. */
static bool next_copy(struct job *job, struct load *l)
{
	struct side *side = &job->sides[SIDE_DIRECT];

	if (!job->s || job->s->mode != SESSION_COPY || job->copied ||
	    session_state(job->s) != SESSION_SERVING ||
	    !__atomic_load_n(&job->r->present_pages, __ATOMIC_RELAXED))
		return false;
	job->copied = true; /* one pass over all of it, in one piece of work */
	l->len = 0;
	l->arg[ARG_N] = 0;
	l->arg[ARG_SIDE] = side->direct;
	return true;
}

static bool next_of(struct job *job, struct load *l)
{
	*l = (struct load){.direct_fd = -1, .fd = -1};
	if (job->text[0] || job->cancelled)
		return false; /* it only waits for what is under way */
	if (!next_copy(job, l) && !next_read(job, &job->sides[SIDE_RESIDENT], l) &&
	    !next_read(job, &job->sides[SIDE_DIRECT], l)) {
		if (!graduate_is_due(job))
			return false;
		l->arg[ARG_N] = UINT64_MAX;
	}
	l->priority = job->priority;
	l->done = loaded;
	l->owner = job->p;
	l->arg[ARG_JOB] = (uintptr_t)job;
	if (!job->pending++)
		job->moved_ns = clock_now_ns();
	return true;
}

/* Under jobs_lock: is there nothing left, or no hope? Then it leaves the list. */
static void settle_job(struct job *job)
{
	struct pager *p = job->p;

	if (job->pending || job->state != JOB_LOADING)
		return;
	if (job->holding && (job->text[0] || job->cancelled))
		job_let_go(job);
	if (!job->text[0] && !job->cancelled &&
	    (job->sides[SIDE_RESIDENT].n_wanted || job->sides[SIDE_DIRECT].n_wanted ||
	     graduate_has_more(job)))
		return;
	for (struct job **x = &p->jobs; *x; x = &(*x)->next) {
		if (*x != job)
			continue;
		*x = job->next;
		break;
	}
	job->next = NULL;
	__atomic_store_n(&job->state, job->text[0] || job->cancelled ? JOB_FAILED : JOB_DONE,
			 __ATOMIC_RELEASE);
	(void)eventfd_write(p->attention_fd, 1); /* somebody may wait for it */
}

bool background_next(void *ctx, struct load *l)
{
	struct pager *p = ctx;
	LOCK_SCOPE(&p->jobs_lock);

	for (int priority = LOAD_WORKING_SET; priority < LOAD_N_PRIORITIES; priority++) {
		for (struct job **x = &p->jobs; *x; x = &(*x)->next) {
			struct job *job = *x;

			if ((int)job->priority != priority || !next_of(job, l))
				continue;
			/* to the end: the others are next */
			*x = job->next;
			job->next = NULL;
			while (*x)
				x = &(*x)->next;
			*x = job;
			return true;
		}
	}
	/* what was wanted may have come by itself */
	for (struct job *job = p->jobs, *next; job; job = next) {
		next = job->next;
		settle_job(job);
	}
	return false;
}

/* ---- what was read ----------------------------------------------------------------------------
 */

void job_fail(struct job *job, const char *text)
{
	LOCK_SCOPE(&job->p->jobs_lock);

	if (!job->text[0])
		str_copy(job->text, sizeof(job->text), text);
}

void job_let_go(struct job *job)
{
	if (job->holding)
		resident_keep(job->r, false);
	job->holding = false;
}

/* One frame, decoded into @b->out or not. */
static void deliver(struct job *job, struct bring *w, struct bounce *b, int e, uint32_t n_decoded,
		    struct problem *problem)
{
	struct frame_page pages[IMAGE_FRAME_PAGES];
	enum frame_state state = w->direct ? FRAME_ABSENT : FRAME_RESIDENT;
	uint32_t n = image_frame_pages(bring_image(w), w->layer, w->frame, pages);
	uint64_t inserted = 0;
	char text[512];

	if (e == 0 && w->direct)
		e = bring_copy(w, b->out);
	else if (e == 0)
		e = resident_insert(w->r, b, w->layer, w->frame, n_decoded, pages, &n, &inserted,
				    problem);
	if (e == -EAGAIN) { /* the VM changes its mappings: its turn comes again */
		state = FRAME_ABSENT;
	} else if (e) {
		state = bring_failed(w, e, problem, text);
		job_fail(job, text);
	}
	for (uint32_t i = 0; e == 0 && job->s && i < n; i++)
		recording_prefetched(job->s->recording, pages[i].gfn, 1);
	bring_settle(w, state, pages, n);
	if (e == 0)
		job_count(job, n_decoded, inserted);
}

static void decode_one(struct job *job, struct load *l, struct bounce *b, const uint8_t *data,
		       uint32_t i, int result)
{
	struct problem problem = PROBLEM_INIT;
	struct bring w = {.p = job->p,
			  .s = job->s,
			  .r = job->r,
			  .direct = l->arg[ARG_SIDE],
			  .gfn = UINT64_MAX,
			  .layer = (uint32_t)(l->arg[ARG_FRAME] >> 32),
			  .frame = (uint32_t)l->arg[ARG_FRAME] + i};
	struct bounce own = *b;
	struct frame_extent x;
	uint32_t n = 0;

	image_frame_extent(bring_image(&w), w.layer, w.frame, &x);
	if (result == 0) {
		const uint8_t *stored = data + (x.offset - l->offset);

		/* a plain frame is verified where it is, and needs no copy */
		own.out = x.plain ? (uint8_t *)stored : b->out;
		result = image_decode_frame(bring_image(&w), w.layer, w.frame, stored, own.out, &n,
					    &problem);
	}
	deliver(job, &w, &own, result, n, &problem);
}

/* Those that somebody waits for first. */
static void decode_all(struct job *job, struct load *l, struct bounce *b, const uint8_t *data,
		       int result)
{
	const struct side *side = &job->sides[l->arg[ARG_SIDE] ? SIDE_DIRECT : SIDE_RESIDENT];
	uint64_t first = frames_index(side->frames, (uint32_t)(l->arg[ARG_FRAME] >> 32),
				      (uint32_t)l->arg[ARG_FRAME]);
	uint32_t n = (uint32_t)l->arg[ARG_N];
	uint64_t done[LOADER_READ_BYTES / DORM_PAGE_SIZE / 64 + 1] = {0};

	for (int waited = 1; waited >= 0; waited--) {
		for (uint32_t i = 0; i < n; i++) {
			if (bitmap_test(done, i) ||
			    (waited && !frames_is_waited(side->frames, first + i)))
				continue;
			bitmap_set(done, i);
			decode_one(job, l, b, data, i, result);
		}
	}
}

static void loaded(struct load *l, struct load_buffers *lb, const uint8_t *data, int result)
{
	struct job *job = (struct job *)(uintptr_t)l->arg[ARG_JOB];
	struct pager *p = job->p;
	struct bounce b = {0};

	if (lb)
		b = (struct bounce){.out = lb->out, .check = lb->check, .scratch = lb->read};
	if (l->arg[ARG_N] == UINT64_MAX)
		graduate_step(job, lb ? &b : NULL);
	else if (l->arg[ARG_N] == 0)
		graduate_copy_resident(job);
	else
		decode_all(job, l, &b, data, result);
	evict_help(p, job->r);
	pthread_mutex_lock(&p->jobs_lock);
	job->pending--;
	job->moved_ns = clock_now_ns();
	settle_job(job);
	pthread_mutex_unlock(&p->jobs_lock);
	loader_kick(p->loader);
}

/* ---- jobs -------------------------------------------------------------------------------------
 */

int background_init(struct pager *p)
{
	return -pthread_mutex_init(&p->jobs_lock, NULL);
}

void background_deinit(struct pager *p)
{
	pthread_mutex_destroy(&p->jobs_lock);
}

static int job_new(struct pager *p, struct session *s, struct resident *r, struct job **ret)
{
	_cleanup_(job_freep) struct job *job = calloc(1, sizeof(*job));
	int e;

	if (!job)
		return -ENOMEM;
	job->p = p;
	job->s = s;
	job->r = r;
	job->step = STEP_WANT_ALL;
	e = init_side(&job->sides[SIDE_RESIDENT], &r->frames, r->image, false);
	if (e == 0 && s && s->direct.words)
		e = init_side(&job->sides[SIDE_DIRECT], &s->direct, s->image, true);
	if (e < 0)
		return e;
	*ret = take_ptr(job);
	return 0;
}

struct job *job_free(struct job *job)
{
	if (!job)
		return NULL;
	job_let_go(job);
	free(job->sides[SIDE_RESIDENT].wanted);
	free(job->sides[SIDE_DIRECT].wanted);
	free(job->loose);
	free(job);
	return NULL;
}

/* Under jobs_lock. What was asked for before is kept, and a set that comes first still does. */
static void ask(struct job *job, const struct working_set *set, enum job_what what)
{
	struct pager *p = job->p;

	if (set && !job->loose)
		job->loose = bitmap_new(job->r->n_pages); /* without: at the first touch */
	if (set)
		want_set(job, set);
	else if (what == JOB_WORKING_SET) /* not known what it needs: all of it, one by one */
		job_want_all(job);
	job->what = MAX(job->what, what);
	if (set)
		job->priority = LOAD_WORKING_SET;
	if (job->state == JOB_LOADING)
		return;
	if (!set)
		job->priority = LOAD_GRADUATION;
	if (!job->s && job->step == STEP_END)
		job->step = STEP_WANT_ALL; /* nobody keeps it: it may have been evicted since */
	job->tries = 0;
	job->text[0] = 0;
	job->next = p->jobs;
	p->jobs = job;
	__atomic_store_n(&job->state, JOB_LOADING, __ATOMIC_RELEASE);
	settle_job(job);
}

int background_start(struct pager *p, struct session *s, struct resident *r,
		     const struct working_set *set, enum job_what what)
{
	struct job **job = s ? &s->job : &r->job;

	if (!*job) {
		int e = job_new(p, s, s ? s->resident : r, job);

		if (e < 0)
			return e;
	}
	pthread_mutex_lock(&p->jobs_lock);
	ask(*job, set, what);
	pthread_mutex_unlock(&p->jobs_lock);
	loader_kick(p->loader);
	return 0;
}

void background_cancel(struct pager *p, struct job *job)
{
	LOCK_SCOPE(&p->jobs_lock);

	job->cancelled = true;
	for (int i = 0; i < N_SIDES; i++)
		job->sides[i].n_wanted = 0;
	settle_job(job);
}

bool job_is_busy(struct pager *p, struct job *job)
{
	LOCK_SCOPE(&p->jobs_lock);

	return job->pending > 0;
}

uint64_t job_stalled_ns(struct pager *p, struct job *job)
{
	LOCK_SCOPE(&p->jobs_lock);

	return job->pending ? clock_now_ns() - job->moved_ns : 0;
}

enum job_state job_state(const struct job *job)
{
	return job ? (enum job_state)__atomic_load_n(&job->state, __ATOMIC_ACQUIRE) : JOB_NONE;
}

enum job_what job_what(const struct job *job)
{
	return job ? job->what : JOB_NOTHING;
}

void job_count(struct job *job, uint64_t decoded, uint64_t inserted)
{
	if (!job->s)
		return;
	bring_count(job->s->n.frames_loaded, decoded ? 1 : 0);
	bring_count(job->s->n.bytes_read, decoded * DORM_PAGE_SIZE);
	bring_count(job->s->n.pages_inserted, inserted);
}

const char *job_failure(const struct job *job)
{
	return job ? job->text : "";
}

json_t *job_stats(const struct job *job)
{
	static const char *const whats[] = {"nothing", "working-set", "full"};
	static const char *const states[] = {"none", "loading", "done", "failed"};
	uint64_t done = 0, total = 0;

	for (int i = 0; job && i < N_SIDES; i++) {
		done += __atomic_load_n(&job->sides[i].pages_done, __ATOMIC_RELAXED);
		total += __atomic_load_n(&job->sides[i].pages_total, __ATOMIC_RELAXED);
	}
	return json_pack("{s:s, s:s, s:I, s:I, s:s?}", "what", whats[job ? job->what : 0], "state",
			 states[job_state(job)], "pages_done", (json_int_t)done, "pages_total",
			 (json_int_t)total, "failure",
			 job_state(job) == JOB_FAILED ? job->text : NULL);
}
