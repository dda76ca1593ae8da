/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/bring.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

#include "pager/evict.h"
#include "pager/loader.h"
#include "pager/recording.h"
#include "pager/watch.h"

#define CONTINUE_RUNS 32u /* mapped at most besides the one that is waited for */

static void fail(struct bring *w, const char *text)
{
	pager_fail(w->p, w->s, text);
}

void bring_frame_text(const struct image *image, uint32_t layer, uint32_t frame, const char *why,
		      char out[512])
{
	(void)snprintf(out, 512, "image %s layer %s frame %u: %.300s", image_id(image),
		       image_layer_id(image, layer), frame, why);
}

void bring_put_result(struct bring *w, int r, const char *what)
{
	char text[256];

	switch (r) {
	case 0:
		bring_served(w);
		break;
	case -EAGAIN: /* the VM's threads ask again (fault.c, rule 4); the page that this one
		       * waits for may lie in a region that was not come to */
		session_wake(w->s, w->gfn, 1);
		break;
	case -ESRCH: /* the process is ending; its pidfd will tell the control thread */
		(void)epoll_ctl(w->p->epoll_fd, EPOLL_CTL_DEL, w->s->uffd, NULL);
		break;
	case -ENOENT:
		if (__atomic_load_n(&w->s->full, __ATOMIC_ACQUIRE))
			break; /* it needs us no more, and was woken */
		__attribute__((fallthrough));
	default:
		(void)snprintf(text, sizeof(text),
			       "%s at gfn %llu could not be installed in the VM: %s", what,
			       (unsigned long long)w->gfn,
			       r == -ENOENT ? "it unmapped or unregistered part of its memory"
					    : strerrordesc_np(-r));
		fail(w, text);
	}
}

/* ---- into the VM ------------------------------------------------------------------------------
 */

static const uint8_t *source_of(const struct bring *w, const uint8_t *src, uint64_t gfn,
				uint64_t slot)
{
	if (src)
		return src + slot % IMAGE_FRAME_PAGES * DORM_PAGE_SIZE;
	return resident_source(w->r, gfn);
}

/* The page that somebody waits for; it may be an alias. */
static int copy_focus(struct bring *w, const uint8_t *src)
{
	struct image *image = w->s->image;
	struct page_run run;
	uint64_t slot, owner, copied = 0;

	image_lookup(image, w->gfn, &run);
	slot = run.slot + (w->gfn - run.gfn);
	owner = image_owner(image, run.layer, slot);
	return session_copy(w->s, w->gfn, 1, source_of(w, src, owner, slot), &copied);
}

static bool wanted(const struct bring *w, uint64_t gfn)
{
	return session_owns(w->s, gfn) && !slate_is_installed(&w->s->slate, gfn);
}

static int copy_rest(struct bring *w, const uint8_t *src)
{
	struct frame_page pages[IMAGE_FRAME_PAGES];
	uint32_t n = image_frame_pages(w->s->image, w->layer, w->frame, pages);
	int r = 0;

	for (uint32_t i = 0; i < n && r == 0;) {
		uint32_t end = i + resident_run(pages, n, i), len = 0;
		uint64_t copied = 0;

		while (i < end && !wanted(w, pages[i].gfn))
			i++;
		while (i + len < end && wanted(w, pages[i + len].gfn))
			len++;
		if (len)
			r = session_copy(w->s, pages[i].gfn, len,
					 source_of(w, src, pages[i].gfn, pages[i].index), &copied);
		i += len;
	}
	return r;
}

/*
 * A page that is at hand costs a copy and memory of the VM's own, and a fault on it a few times as
 * much time. So the rest of a frame is worth being copied when accesses lie together, which is when
 * the VM has a page nearby already. What had to be waited for is not asked for twice.
 */
static bool wants_rest(const struct bring *w)
{
	return w->gfn == UINT64_MAX || !w->at_hand || slate_is_near(&w->s->slate, w->gfn);
}

int bring_copy(struct bring *w, const uint8_t *src)
{
	bool rest = wants_rest(w);
	int r = w->gfn == UINT64_MAX ? 0 : copy_focus(w, src);

	if (w->gfn != UINT64_MAX)
		bring_put_result(w, r, "a page");
	return r || !rest ? r : copy_rest(w, src);
}

/*
 * Can this page be mapped from the base's memory, and is that worth a call? One that was mapped
 * before is mapped still, unless it was evicted, which takes it away silently: so near the page
 * that is waited for, look again.
 */
static bool can_continue(const struct bring *w, uint64_t gfn)
{
	if (bitmap_test(w->s->own, gfn) || !resident_has(w->r, gfn))
		return false;
	return gfn / RESIDENT_BLOCK_PAGES == w->gfn / RESIDENT_BLOCK_PAGES ||
	       !slate_is_installed(&w->s->slate, gfn);
}

static int continue_run(struct bring *w, uint64_t first, uint64_t n, uint64_t *continued)
{
	int r = session_continue(w->s, first, n, continued);

	if (r == 0)
		slate_install(&w->s->slate, first, n);
	return r;
}

int bring_continue(struct bring *w)
{
	uint64_t window = w->gfn - w->gfn % RESIDENT_WINDOW_PAGES, continued = 0;
	uint64_t end = MIN(window + RESIDENT_WINDOW_PAGES, w->r->n_pages);
	uint64_t first = w->gfn, last = w->gfn + 1;
	int r;

	while (first > window && can_continue(w, first - 1))
		first--;
	while (last < end && can_continue(w, last))
		last++;
	r = continue_run(w, first, last - first, &continued);
	if (r == 0 && !continued && session_repeats(w->s, w->gfn)) {
		fail(w, "the VM's memory is not a mapping of its base's memory");
		return -EFAULT;
	}
	if (r == 0 && !continued) /* it was there, or is not any more: look again */
		session_wake(w->s, w->gfn, 1);
	bring_put_result(w, r, "a page of the base");
	return r;
}

/* Nobody waits for these, so a failure is not insisted on. */
void bring_continue_rest(struct bring *w)
{
	uint64_t i = w->gfn - w->gfn % RESIDENT_WINDOW_PAGES, continued = 0;
	uint64_t end = MIN(i + RESIDENT_WINDOW_PAGES, w->r->n_pages);

	for (unsigned n_runs = 0; i < end && n_runs < CONTINUE_RUNS; n_runs++) {
		uint64_t first;

		while (i < end && (slate_is_installed(&w->s->slate, i) || !can_continue(w, i)))
			i++;
		for (first = i; i < end && can_continue(w, i);)
			i++;
		if (i > first && continue_run(w, first, i - first, &continued) < 0)
			break;
	}
}

/* ---- aliases ----------------------------------------------------------------------------------
 */

struct page_run bring_alias_part(const struct image *image, uint64_t gfn,
				 const struct page_run *run)
{
	uint64_t slot = run->slot + (gfn - run->gfn), first = slot - slot % IMAGE_FRAME_PAGES;
	uint64_t begin = MAX(run->slot, first);
	uint64_t end = MIN(run->slot + run->n_pages, first + IMAGE_FRAME_PAGES);
	struct page_run part = {.layer = run->layer};

	if (image_owner(image, run->layer, slot) == gfn)
		return part;
	part.gfn = run->gfn + (begin - run->slot);
	part.n_pages = end - begin;
	part.slot = begin;
	return part;
}

bool bring_copy_aliases(struct bring *w, struct bounce *b, const struct page_run *part,
			bool decoded)
{
	struct resident *r = w->r;
	uint64_t inserted = 0;
	char text[512];
	int e = resident_copy_aliases(r, b, part, decoded, &inserted);

	bring_count(w->s->n.pages_inserted, inserted);
	if (e == 0)
		return true;
	if (e == RESIDENT_E_POISONED) {
		resident_poison_text(r, text);
		pager_fail_all(w->p, r, text);
		return false;
	}
	(void)snprintf(text, sizeof(text),
		       "image %s gfn %llu: a page with the content of another one could not be "
		       "copied: %s",
		       image_id(r->image), (unsigned long long)w->gfn, strerrordesc_np(-e));
	fail(w, text);
	return false;
}

/* ---- what becomes of the claim ----------------------------------------------------------------
 */

static void wake_direct(const struct bring *w, enum frame_wake wake, const struct frame_page *pages,
			uint32_t n)
{
	if (wake == WAKE_ALL)
		session_wake(w->s, 0, image_n_pages(w->s->image));
	else
		pager_wake(w->s, pages, n);
}

/* How often the hand of the clock will pass it: what was evicted and is needed again, most often;
 * what was asked for, once; what was only thought to be useful, never. */
static unsigned first_clock(const struct bring *w, enum frame_state state,
			    const struct frame_page *pages, uint32_t n)
{
	if (state != FRAME_RESIDENT || w->gfn == UINT64_MAX)
		return 0;
	return n && bitmap_test_atomic(w->r->evicted, pages[0].gfn) ? FRAMES_CLOCK_MAX : 1;
}

void bring_settle(const struct bring *w, enum frame_state state, const struct frame_page *pages,
		  uint32_t n)
{
	struct frames *f = bring_frames(w);
	enum frame_wake wake = frames_settle(f, frames_index(f, w->layer, w->frame), state,
					     first_clock(w, state, pages, n));

	if (w->direct)
		wake_direct(w, wake, pages, n);
	else if (wake == WAKE_ALL)
		pager_wake_memory(w->p, w->r);
	else if (wake == WAKE_FRAME)
		pager_wake_all(w->p, w->r, pages, n);
	else if (w->s)
		pager_wake(w->s, pages, n);
	if (w->gfn != UINT64_MAX)
		session_wake(w->s, w->gfn, 1);
}

enum frame_state bring_failed(const struct bring *w, int e, struct problem *problem, char text[512])
{
	if (e == RESIDENT_E_POISONED) {
		resident_poison_text(w->r, text);
		pager_fail_all(w->p, w->r, text);
	} else {
		if (e < 0)
			problem_errno(problem, e, "it could not be loaded");
		bring_frame_text(bring_image(w), w->layer, w->frame, problem->message, text);
	}
	if (e > 0 && !w->direct)
		resident_note_failure(w->r, w->layer, w->frame, text);
	return e > 0 ? FRAME_FAILED : FRAME_ABSENT;
}

/* Decoded into @b->out: into the memory that all share. */
static int finish_resident(struct bring *w, struct bounce *b, uint32_t n_decoded,
			   struct frame_page *pages, uint32_t *n, struct problem *problem)
{
	struct resident *r = w->r;
	struct page_run run, part;
	uint64_t inserted = 0;
	int e = resident_insert(r, b, w->layer, w->frame, n_decoded, pages, n, &inserted, problem);

	bring_count(w->s->n.pages_inserted, inserted);
	if (e || w->s->mode == SESSION_COPY)
		return e;
	image_lookup(r->image, w->gfn, &run);
	part = bring_alias_part(r->image, w->gfn, &run);
	if (part.n_pages)
		(void)bring_copy_aliases(w, b, &part, true); /* failed the session if it failed */
	return 0;
}

static void record(const struct bring *w, const struct frame_page *pages, uint32_t n)
{
	for (uint32_t i = 0; i < n;) {
		uint32_t len = resident_run(pages, n, i);

		recording_need(w->s->recording, pages[i].gfn, len);
		i += len;
	}
	recording_need(w->s->recording, w->gfn, 1);
}

static void finish(struct bring *w, struct bounce *b, int e, uint32_t n_decoded,
		   struct problem *problem)
{
	struct frame_page pages[IMAGE_FRAME_PAGES];
	enum frame_state state = w->direct ? FRAME_ABSENT : FRAME_RESIDENT;
	char text[512];
	uint32_t n = 0;

	if (e == 0) {
		bring_count(w->s->n.frames_loaded, 1);
		bring_count(w->s->n.bytes_read, n_decoded * DORM_PAGE_SIZE);
	}
	if (e == 0 && !w->direct)
		e = finish_resident(w, b, n_decoded, pages, &n, problem);
	else
		n = image_frame_pages(bring_image(w), w->layer, w->frame, pages);
	if (e == 0)
		record(w, pages, n);
	if (e) {
		state = bring_failed(w, e, problem, text);
		fail(w, text);
	} else if (w->direct || w->s->mode == SESSION_COPY) {
		(void)bring_copy(w, b->out);
	} else if (w->s->mode == SESSION_OVERLAY) {
		(void)bring_continue(w);
	}
	bring_settle(w, state, pages, n);
	if (e == 0 && w->s->mode == SESSION_SHARED)
		bring_served(w);
	if (e == 0 && w->s->mode == SESSION_OVERLAY && !w->direct)
		bring_continue_rest(w);
}

/* ---- reading ----------------------------------------------------------------------------------
 */

/* ARG_FRAME: layer in the upper half, then one bit: direct, then the frame. Layers are few and a
 * layer has at most 2^26 frames (IMAGE_MAX_PAGES / IMAGE_FRAME_PAGES). */
enum { ARG_FRAME, ARG_GFN, ARG_READ_NS, ARG_PAGER };
#define DIRECT_BIT WATCH_MARK

static void loaded(struct load *l, struct load_buffers *lb, const uint8_t *data, int result)
{
	struct problem problem = PROBLEM_INIT;
	struct session *s = l->owner;
	struct bring w = {.p = (struct pager *)(uintptr_t)l->arg[ARG_PAGER],
			  .s = s,
			  .r = s->resident,
			  .direct = l->arg[ARG_FRAME] & DIRECT_BIT,
			  .gfn = l->arg[ARG_GFN],
			  .layer = (uint32_t)(l->arg[ARG_FRAME] >> 32),
			  .frame = (uint32_t)(l->arg[ARG_FRAME] & (DIRECT_BIT - 1)),
			  .read_ns = l->arg[ARG_READ_NS]};
	struct bounce b = {0};
	uint32_t n = 0;

	watch_end(s, w.read_ns, l->arg[ARG_FRAME]);
	if (result == -ECANCELED) { /* we are ending: a successor wakes whoever waits */
		loader_put(w.p->loader, l);
		bring_settle(&w, FRAME_ABSENT, NULL, 0);
		pager_release(s);
		return;
	}
	b.out = lb->out;
	b.check = lb->check;
	histogram_add(&s->queue_ns, l->started_ns - l->queued_ns);
	loader_put(w.p->loader, l);
	if (result == 0)
		result = image_decode_frame(bring_image(&w), w.layer, w.frame, data, b.out, &n,
					    &problem);
	finish(&w, &b, result, n, &problem);
	evict_help(w.p, w.r);
	pager_release(s);
}

static bool hand_over(struct bring *w)
{
	struct load *l = loader_get(w->p->loader);
	struct frame_extent x;

	if (!l)
		return false;
	image_frame_extent(bring_image(w), w->layer, w->frame, &x);
	l->fd = x.fd;
	/* what goes straight into one VM is worth keeping in the page cache for the next */
	l->direct_fd = w->direct && w->s->mode == SESSION_COPY ? -1 : x.direct_fd;
	l->offset = x.offset;
	l->len = x.stored_bytes;
	l->done = loaded;
	l->owner = w->s;
	l->arg[ARG_FRAME] = (uint64_t)w->layer << 32 | (w->direct ? DIRECT_BIT : 0) | w->frame;
	l->arg[ARG_GFN] = w->gfn;
	l->arg[ARG_READ_NS] = w->read_ns;
	l->arg[ARG_PAGER] = (uintptr_t)w->p;
	watch_begin(w->s, w->read_ns, l->arg[ARG_FRAME]);
	__atomic_fetch_add(&w->s->refs, 1, __ATOMIC_RELAXED); /* pager_release() in loaded() */
	loader_submit(w->p->loader, l);
	return true;
}

void bring(struct bring *w, struct bounce *b)
{
	struct frame_page pages[IMAGE_FRAME_PAGES];
	struct problem problem = PROBLEM_INIT;
	uint32_t n = 0;
	int e = image_read_frame_nowait(bring_image(w), w->layer, w->frame, b->scratch, b->out, &n,
					&problem);

	bring_count(w->s->n.faults_stored, 1);
	w->at_hand = e != -EAGAIN;
	if (e == -EAGAIN) {
		if (hand_over(w))
			return;
		/* Everything is busy, perhaps for ever. This thread has others to serve: the VM
		 * is to ask again in a moment (fault.c, rule 4). */
		clock_sleep_ms(1);
		n = image_frame_pages(bring_image(w), w->layer, w->frame, pages);
		bring_settle(w, FRAME_ABSENT, pages, n);
		return;
	}
	finish(w, b, e, n, &problem);
}
