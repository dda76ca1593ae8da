/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/graduate.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "pager/bring.h"
#include "pager/evict.h"
#include "pager/recording.h"

#define MAX_TRIES    200
#define WARM_TRIES   3 /* nobody keeps what is only warmed: it may be evicted again and again */
#define TRY_PAUSE_MS 10
#define ZERO_TRIES   50
#define ZERO_CHUNK   RESIDENT_WINDOW_PAGES

bool graduate_has_more(const struct job *job)
{
	return job->step == STEP_LOOSE || (job->what == JOB_FULL && job->step != STEP_END);
}

/* The last step is with the VM's memory, as are pages that are put into the VM itself: it has to be
 * here first. */
static bool needs_vm(const struct job *job)
{
	if (!job->s || job->s->mode == SESSION_EAGER)
		return false;
	return job->step == STEP_COMPLETE ||
	       (job->step == STEP_LOOSE && job->s->mode != SESSION_SHARED);
}

bool graduate_is_due(const struct job *job)
{
	if (needs_vm(job) && session_state(job->s) == SESSION_LISTENING)
		return false;
	return graduate_has_more(job) && !job->pending && !job->text[0] && !job->cancelled &&
	       !job->sides[SIDE_RESIDENT].n_wanted && !job->sides[SIDE_DIRECT].n_wanted;
}

void graduate_copy_resident(struct job *job)
{
	struct side *side = &job->sides[SIDE_DIRECT];
	struct bring w = {.p = job->p, .s = job->s, .r = job->r, .direct = true, .gfn = UINT64_MAX};

	for (uint64_t i = 0; i < side->frames->n; i++) {
		bool wanted;

		pthread_mutex_lock(&job->p->jobs_lock);
		wanted = bitmap_test(side->wanted, i);
		pthread_mutex_unlock(&job->p->jobs_lock);
		if (!wanted || !frames_pin(&job->r->frames, i))
			continue;
		frames_name(side->frames, i, &w.layer, &w.frame);
		(void)bring_copy(&w, NULL); /* what did not work is still wanted */
		frames_unpin(&job->r->frames, i);
	}
}

/* ---- pages that share slots -------------------------------------------------------------------
 */

static struct image *image_of(const struct job *job)
{
	return job->s ? job->s->image : job->r->image;
}

/* Into the memory that all share. Return: 0; -EAGAIN its frame is not there (any more) */
static int shared_aliases(struct job *job, struct bounce *b, uint64_t gfn)
{
	struct resident *r = job->r;
	struct page_run run, part;
	uint64_t index, inserted = 0;
	int e;

	image_lookup(r->image, gfn, &run);
	part = bring_alias_part(r->image, gfn, &run);
	index = resident_frame(r, run.layer,
			       (uint32_t)((run.slot + (gfn - run.gfn)) / IMAGE_FRAME_PAGES));
	if (!frames_pin(&r->frames, index))
		return -EAGAIN;
	e = part.n_pages ? resident_copy_aliases(r, b, &part, false, &inserted) : -EAGAIN;
	frames_unpin(&r->frames, index);
	job_count(job, 0, inserted);
	return e > 0 ? -EIO : e;
}

/* Into the VM itself: the frame is read once more, for all of its aliases that lie together. */
static int direct_aliases(struct job *job, struct bounce *b, uint64_t gfn,
			  const struct page_run *run)
{
	struct page_run part = bring_alias_part(job->s->image, gfn, run);
	uint32_t frame = (uint32_t)((run->slot + (gfn - run->gfn)) / IMAGE_FRAME_PAGES), n;
	struct problem problem = PROBLEM_INIT;
	uint64_t copied = 0;
	int e;

	if (!part.n_pages)
		return -EAGAIN; /* an owner's page: removed, or its frame failed */
	e = image_read_frame(job->s->image, run->layer, frame, b->scratch, b->out, &n, &problem);
	if (e == 0)
		e = session_copy(job->s, gfn, 1,
				 (uint8_t *)b->out + (run->slot + (gfn - run->gfn)) %
							     IMAGE_FRAME_PAGES * DORM_PAGE_SIZE,
				 &copied);
	return e > 0 ? -EIO : e;
}

/* Every page that is stored: is it where it has to be? If it is an alias, see to it. */
static int complete_pages(struct job *job, struct bounce *b)
{
	struct image *image = image_of(job);
	struct page_run run;

	for (uint64_t gfn = 0; gfn < image_n_pages(image); gfn = run.gfn + run.n_pages) {
		image_lookup(image, gfn, &run);
		if (run.layer == IMAGE_LAYER_ZERO)
			continue;
		for (uint64_t i = run.gfn; i < run.gfn + run.n_pages; i++) {
			bool direct = job->s && session_owns(job->s, i);
			int e = 0;

			if (direct && !slate_is_installed(&job->s->slate, i) &&
			    !session_is_removed(job->s, i))
				e = direct_aliases(job, b, i, &run);
			else if (!direct && !resident_has(job->r, i))
				e = shared_aliases(job, b, i);
			if (e)
				return e;
		}
	}
	return 0;
}

/* ---- loose pages of a working set -------------------------------------------------------------
 */

static void loose_zeros(struct job *job, uint64_t gfn, uint64_t n_pages)
{
	uint64_t inserted = 0;

	if (job->s && (job->s->mode == SESSION_COPY || job->s->mode == SESSION_OVERLAY))
		(void)session_zero(job->s, gfn, n_pages, UINT64_MAX, &inserted);
	else if (n_pages < RESIDENT_BLOCK_PAGES) /* long ones: resident_remember_zeros() */
		(void)resident_insert_zeros(job->r, gfn, n_pages, &inserted);
	job_count(job, 0, inserted);
}

/* What does not work is left to the VM's first touch. */
static void bring_loose(struct job *job, struct bounce *b)
{
	const uint64_t n_pages = job->r->n_pages;
	_cleanup_free_ bitmap_word *loose = NULL;
	struct image *image = image_of(job);
	struct page_run run;
	uint64_t n;

	pthread_mutex_lock(&job->p->jobs_lock);
	loose = take_ptr(job->loose); /* more may be asked for meanwhile */
	pthread_mutex_unlock(&job->p->jobs_lock);
	if (!loose)
		return;
	for (uint64_t gfn = bitmap_next(loose, n_pages, 0); gfn < n_pages;
	     gfn = bitmap_next(loose, n_pages, gfn + n)) {
		n = 1;
		image_lookup(image, gfn, &run);
		if (run.layer == IMAGE_LAYER_ZERO) {
			while (gfn + n < run.gfn + run.n_pages && bitmap_test(loose, gfn + n))
				n++;
			loose_zeros(job, gfn, n);
		} else if (job->s && session_owns(job->s, gfn)) {
			(void)direct_aliases(job, b, gfn, &run);
		} else if (!resident_has(job->r, gfn)) {
			(void)shared_aliases(job, b, gfn);
		}
		if (job->s)
			recording_prefetched(job->s->recording, gfn, n);
	}
}

/* ---- zeros ------------------------------------------------------------------------------------
 */

static int put_zeros(struct session *s, uint64_t gfn, uint64_t n_pages)
{
	uint64_t installed = 0;
	int e = 0;

	for (uint64_t i = 0; i < n_pages && e == 0; i += ZERO_CHUNK) {
		for (int tries = 0; tries < ZERO_TRIES; tries++) {
			e = session_zero(s, gfn + i, MIN(n_pages - i, (uint64_t)ZERO_CHUNK),
					 UINT64_MAX, &installed);
			if (e != -EAGAIN)
				break;
			clock_sleep_ms(1); /* its mappings are being changed */
		}
	}
	return e;
}

/* Without a userfaultfd a hole of the memfd would get a page, for all VMs, at the first touch. And
 * what the VM gave back must not come back. */
static int complete_zeros(struct session *s)
{
	const uint64_t n_pages = image_n_pages(s->image);
	struct page_run run;
	int e = 0;

	for (uint64_t gfn = 0; gfn < n_pages && e == 0; gfn = run.gfn + run.n_pages) {
		image_lookup(s->image, gfn, &run);
		if (run.layer == IMAGE_LAYER_ZERO)
			e = put_zeros(s, run.gfn, run.n_pages);
	}
	for (uint64_t gfn = 0; slate_has_removed(&s->slate) && gfn < n_pages && e == 0; gfn++)
		if (session_is_removed(s, gfn))
			e = put_zeros(s, gfn, 1);
	return e;
}

/* ---- the last step ----------------------------------------------------------------------------
 */

/* Half left alone it would find zeros where pages are evicted, and nobody would be asked. */
static int leave(struct pager *p, struct session *s)
{
	uint32_t n;
	int e;

	/* before anybody finds it unregistered, also a pager that comes after us */
	slate_set_full(&s->slate, true);
	__atomic_store_n(&s->full, 1, __ATOMIC_RELEASE);
	e = session_unregister(s, &n);
	if (e == 0)
		return 0;
	if (n && e != -ESRCH)
		pager_fail(p, s, "only a part of its memory could be left alone");
	__atomic_store_n(&s->full, 0, __ATOMIC_RELEASE);
	slate_set_full(&s->slate, false);
	return e;
}

/* Without us, pages of its own that it gives back would come again as the base's. Whether it can is
 * known when its VM is there; until then it is thought to leave. */
static bool must_stay(const struct session *s)
{
	return s->mode == SESSION_OVERLAY && session_state(s) != SESSION_LISTENING && s->can_remove;
}

/* Will it need the resident memory, all of it, for as long as it lives? */
static bool is_mapped(const struct job *job)
{
	/* EAGER: it is kept since it was opened, and has no other way */
	return job->s && job->s->mode != SESSION_EAGER && job->s->mode != SESSION_COPY &&
	       !must_stay(job->s);
}

static bool has_room(const struct job *job, enum job_what what)
{
	return what != JOB_FULL || !is_mapped(job) || job->holding ||
	       evict_has_room(job->p, job->r);
}

static void fail_for_room(struct job *job)
{
	char text[512];

	(void)snprintf(text, sizeof(text),
		       "image %s does not fit into the limits of resident memory, so its memory "
		       "cannot be made complete",
		       image_id(job->r->image));
	job_fail(job, text);
}

static int complete(struct job *job, struct bounce *b)
{
	bool stays = job->s && must_stay(job->s); /* loaded, but never without us */
	bool mapped = is_mapped(job), eager = job->s && job->s->mode == SESSION_EAGER;
	int e;

	if (mapped && !job->holding) {
		resident_keep(job->r, true);
		job->holding = true;
	}
	e = complete_pages(job, b);
	if (e == 0 && mapped)
		e = complete_zeros(job->s);
	if (e == 0 && job->s && !eager && !stays)
		e = session_state(job->s) == SESSION_SERVING ? leave(job->p, job->s) : -ESRCH;
	if (e == 0)
		job->holding = false; /* the session keeps it now: it is full */
	return e;
}

/* What came was taken away again. A second round keeps what it loads. */
static int may_try_again(struct job *job, char text[512])
{
	if (!job->s && job->tries > WARM_TRIES) {
		(void)snprintf(text, 512,
			       "image %s was evicted as fast as it was loaded: the limits of "
			       "resident memory are too low for all of it",
			       image_id(job->r->image));
		return -ENOSPC;
	}
	return job->tries > MAX_TRIES ? -EBUSY : -EAGAIN;
}

static void complete_step(struct job *job, struct bounce *b)
{
	enum job_step next = STEP_END;
	char text[512] = "";
	int e = complete(job, b);

	if (e == -EAGAIN) { /* evicted behind the cursor, or the VM changes its mappings */
		next = STEP_WANT_ALL;
		clock_sleep_ms(TRY_PAUSE_MS);
		job->tries++;
		e = may_try_again(job, text);
	}
	if (e < 0 && e != -EAGAIN) {
		if (!text[0])
			(void)snprintf(text, sizeof(text),
				       "the memory of session %s could not be made complete: %s",
				       job->s ? job->s->name : "(none)", strerrordesc_np(-e));
		job_fail(job, text);
	}
	pthread_mutex_lock(&job->p->jobs_lock);
	if (job->step ==
	    STEP_COMPLETE) /* else more was asked for meanwhile, and is still to come */
		job->step = next;
	pthread_mutex_unlock(&job->p->jobs_lock);
}

static void loose_step(struct job *job, struct bounce *b)
{
	bring_loose(job, b);
	LOCK_SCOPE(&job->p->jobs_lock);
	if (!job->loose)
		job->step = STEP_WANT_ALL;
}

static void want_all_step(struct job *job)
{
	LOCK_SCOPE(&job->p->jobs_lock);

	job_want_all(job);
	job->priority = LOAD_GRADUATION;
	job->copied = false;
	job->step = STEP_COMPLETE;
}

/* More may be asked for at any time. */
static void look(struct job *job, enum job_what *ret_what, enum job_step *ret_step)
{
	LOCK_SCOPE(&job->p->jobs_lock);

	*ret_what = job->what;
	*ret_step = job->step;
}

void graduate_step(struct job *job, struct bounce *b)
{
	enum job_what what;
	enum job_step step;

	if (!b)
		return; /* the loader is ending */
	look(job, &what, &step);
	if (!has_room(job, what))
		fail_for_room(job);
	else if (step == STEP_COMPLETE)
		complete_step(job, b);
	else if (step == STEP_LOOSE)
		loose_step(job, b);
	else
		want_all_step(job);
}
