/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The answer to a fault
 *
 * An event is a host address; it becomes a guest page, and the map says where that page's bytes
 * are:
 *
 *   given back by the VM         zeros into the VM's own range, whatever the map says
 *   a page of a frame            frames_claim() decides:
 *       nobody has it            bring it (bring.c): read, verify, insert the whole frame, wake
 *       being brought            leave a mark; whoever brings it wakes everybody. Go on at once
 *       there                    it came between the touch and now: wake
 *                                but a page that shares its slot with a lower one, the owner, is
 *                                copied from the owner first; bringing a frame inserts only owners
 *       known to be corrupt      the session fails
 *   zero, in a short run         zero pages into the memfd: the next VM has no event for them
 *   zero, in a run of 64 KiB or  zero pages into the VM's own range, all of the run that lies in
 * the more                     same 2 MiB: costs no memory. Remembered for VMs that attach later
 *
 * This is how SHARED mode does it. In the other modes:
 *
 *   OVERLAY  A page that is the same in the base is brought into the base's memory if it is not
 *            there, and then mapped (UFFDIO_CONTINUE), and after it all unchanged, present pages of
 *            the same 2 MiB. Its own pages are copied from its own layers into the VM. Zeros
 *            go into the VM's own range always.
 *   COPY     If the resident memory has the frame, it is copied from there, pinned. Otherwise a
 *            frame that is stored as it is goes from the layer to the VM and is not kept: the page
 *            cache is the better cache for it. One that has to be decoded first goes by way of the
 *            resident memory, so that the next VM finds it.
 *            The page that is waited for is copied first; the rest of its frame after it, if the
 *            frame took a read from the disk or the VM has pages nearby.
 */
#include "pager/serve.h"

#include <stdio.h>
#include <string.h>

#include "pager/bring.h"
#include "pager/evict.h"
#include "pager/recording.h"
#include "sys/uffd.h"

#define SHORT_RUN RESIDENT_BLOCK_PAGES /* zero runs below this go into the memfd */

static void fail(struct bring *w, const char *text)
{
	pager_fail(w->p, w->s, text);
}

/* The page is in the memory of the image: let the VM look again. */
static void serve_present(struct bring *w, uint64_t first, uint64_t n_pages)
{
	if (session_repeats(w->s, w->gfn)) {
		fail(w, "the VM's memory is not a mapping of the image's memory");
		return;
	}
	session_wake(w->s, first, n_pages);
	bring_served(w);
}

/* ---- zeros ------------------------------------------------------------------------------------
 */

static void serve_removed(struct bring *w)
{
	uint64_t first = w->gfn, end = w->gfn + 1, installed = 0;
	uint64_t block = w->gfn - w->gfn % RESIDENT_BLOCK_PAGES;
	uint64_t block_end = MIN(block + RESIDENT_BLOCK_PAGES, w->r->n_pages);

	while (first > block && session_is_removed(w->s, first - 1))
		first--;
	while (end < block_end && session_is_removed(w->s, end))
		end++;
	bring_count(w->s->n.faults_zero, 1);
	bring_put_result(w, session_zero(w->s, first, end - first, w->gfn, &installed),
			 "zero pages");
}

static void serve_short_zeros(struct bring *w, uint64_t first, uint64_t n_pages)
{
	uint64_t inserted = 0;
	char text[256];
	int r = resident_insert_zeros(w->r, first, n_pages, &inserted);

	bring_count(w->s->n.pages_inserted, inserted);
	if (r == 0) {
		serve_present(w, first, n_pages);
		return;
	}
	(void)snprintf(text, sizeof(text),
		       "image %s gfn %llu: zero pages could not be inserted: %s",
		       image_id(w->r->image), (unsigned long long)w->gfn, strerrordesc_np(-r));
	fail(w, text);
}

static void serve_zero(struct bring *w, const struct page_run *run)
{
	uint64_t window = w->gfn - w->gfn % RESIDENT_WINDOW_PAGES, installed = 0;
	uint64_t first = MAX(run->gfn, window);
	uint64_t end = MIN(run->gfn + run->n_pages, window + RESIDENT_WINDOW_PAGES);
	bool shared = w->s->mode == SESSION_SHARED;
	int r;

	bring_count(w->s->n.faults_zero, 1);
	recording_need(w->s->recording, w->gfn, 1);
	if (shared && end - first < SHORT_RUN) {
		serve_short_zeros(w, first, end - first);
		return;
	}
	r = session_zero(w->s, first, end - first, w->gfn, &installed);
	if (r == 0 && shared)
		resident_remember_zeros(w->r, first, end - first);
	bring_put_result(w, r, "zero pages");
}

/* ---- pages of frames --------------------------------------------------------------------------
 */

static void serve_failed(struct bring *w)
{
	char text[512];

	if (w->direct)
		bring_frame_text(w->s->image, w->layer, w->frame, "it is corrupt", text);
	else
		resident_failure(w->r, w->layer, w->frame, text);
	fail(w, text);
}

/* The frame is in the resident memory, and pinned. */
static void serve_resident(struct bring *w, struct bounce *b, const struct page_run *aliases)
{
	bring_count(w->s->n.faults_resident, 1);
	recording_need(w->s->recording, w->gfn, 1);
	if (aliases->n_pages && !bring_copy_aliases(w, b, aliases, false))
		return;
	if (w->s->mode == SESSION_OVERLAY) {
		bring_count(w->s->n.faults_continued, 1);
		if (bring_continue(w) == 0)
			bring_continue_rest(w);
	} else if (aliases->n_pages) {
		serve_present(w, aliases->gfn, aliases->n_pages);
	} else {
		serve_present(w, w->gfn, 1);
	}
}

/* By way of the memory that all VMs of the image share. */
static void serve_shared(struct bring *w, struct bounce *b, const struct page_run *run)
{
	struct resident *r = w->r;
	struct page_run aliases = bring_alias_part(r->image, w->gfn, run);
	uint64_t index = resident_frame(r, w->layer, w->frame);

	switch (frames_claim(&r->frames, index, aliases.n_pages)) {
	case FRAME_ABSENT:
		bring(w, b);
		break;
	case FRAME_LOADING:
		bring_count(w->s->n.faults_joined, 1);
		recording_need(w->s->recording, w->gfn, 1);
		break;
	case FRAME_RESIDENT:
		serve_resident(w, b, &aliases);
		frames_unpin(&r->frames, index);
		break;
	case FRAME_FAILED:
		serve_failed(w);
		break;
	}
}

/* From the layer into this VM. */
static void serve_direct(struct bring *w, struct bounce *b, const struct page_run *run)
{
	struct page_run aliases = bring_alias_part(w->s->image, w->gfn, run);
	uint64_t index = frames_index(&w->s->direct, w->layer, w->frame);

	w->direct = true;
	switch (frames_claim(&w->s->direct, index, aliases.n_pages)) {
	case FRAME_ABSENT:
		bring(w, b);
		break;
	case FRAME_FAILED:
		serve_failed(w);
		break;
	default: /* LOADING: these are never RESIDENT */
		bring_count(w->s->n.faults_joined, 1);
		recording_need(w->s->recording, w->gfn, 1);
	}
}

static void serve_copy(struct bring *w, struct bounce *b, const struct page_run *run)
{
	struct resident *r = w->r;
	uint64_t index = resident_frame(r, w->layer, w->frame);
	struct frame_extent x;

	if (frames_pin(&r->frames, index)) {
		bring_count(w->s->n.faults_resident, 1);
		bring_count(w->s->n.faults_copied, 1);
		frames_use(&r->frames, index);
		w->at_hand = true;
		recording_need(w->s->recording, w->gfn, 1); /* nothing else tells, in this mode */
		(void)bring_copy(w, NULL);
		frames_unpin(&r->frames, index);
		return;
	}
	image_frame_extent(w->s->image, w->layer, w->frame, &x);
	/* or it is on its way to this VM anyway */
	if (x.plain || frames_state(&w->s->direct, index) == FRAME_LOADING)
		serve_direct(w, b, run);
	else
		serve_shared(w, b, run);
}

static void serve_stored(struct bring *w, struct bounce *b, const struct page_run *run)
{
	w->layer = run->layer;
	w->frame = (uint32_t)((run->slot + (w->gfn - run->gfn)) / IMAGE_FRAME_PAGES);
	if (w->s->mode == SESSION_COPY)
		serve_copy(w, b, run);
	else if (w->s->mode == SESSION_OVERLAY && session_owns(w->s, w->gfn))
		serve_direct(w, b, run);
	else
		serve_shared(w, b, run);
}

/* OVERLAY: what zero is, is for the VM's own map to say; where the rest comes from depends. */
static void look_up(const struct session *s, uint64_t gfn, struct page_run *run)
{
	image_lookup(s->image, gfn, run);
	if (s->mode == SESSION_OVERLAY && run->layer != IMAGE_LAYER_ZERO && !session_owns(s, gfn))
		image_lookup(s->resident->image, gfn, run);
}

void serve_fault(struct pager *p, struct session *s, struct bounce *b, const struct uffd_msg *m,
		 uint64_t read_ns)
{
	const uint64_t minor = s->mode == SESSION_OVERLAY ? 0 : UFFD_PAGEFAULT_FLAG_MINOR;
	struct bring w = {.p = p, .s = s, .r = s->resident, .read_ns = read_ns};
	struct page_run run;

	if (m->arg.pagefault.flags & (UFFD_PAGEFAULT_FLAG_WP | minor)) {
		fail(&w, "the VM's memory is registered for events other than missing pages");
		return;
	}
	if (!session_gfn(s, m->arg.pagefault.address, &w.gfn)) {
		fail(&w, "a page fault outside of the regions of the handshake");
		return;
	}
	if (session_is_removed(s, w.gfn)) {
		serve_removed(&w);
		return;
	}
	look_up(s, w.gfn, &run);
	if (run.layer == IMAGE_LAYER_ZERO)
		serve_zero(&w, &run);
	else
		serve_stored(&w, b, &run);
	evict_help(p, w.r);
}
