/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * bring.h - a frame that a thread of a VM waits for, from its layer to the VM
 *
 * Whoever claimed a frame (frames_claim() said ABSENT) brings it: at once, in the calling thread,
 * when the page cache has it; otherwise the loader reads it and one of its threads does the rest.
 * In every case the claim is settled and all who wait are woken. Any thread that holds the session.
 */
#include "base/clock.h"
#include "pager/pager.h"

struct bring {
	struct pager *p;
	struct session *s;  /* held by the caller; NULL: for nobody in particular, not direct */
	struct resident *r; /* the session's */
	bool direct;  /* into the VM itself, by s->direct and s->image; otherwise into @r, by its
			 frames and its image */
	uint64_t gfn; /* the page that is waited for; UINT64_MAX: none */
	uint32_t layer, frame;
	uint64_t read_ns; /* when its event was read */
	bool at_hand;	  /* the frame can be had again without a read from the disk */
};

/** bring() - see above. @b: the calling thread's */
void bring(struct bring *w, struct bounce *b);

/** bring_image(), bring_frames() - whose frame it is, and where its state is */
static inline struct image *bring_image(const struct bring *w)
{
	return w->direct ? w->s->image : w->r->image;
}

static inline struct frames *bring_frames(const struct bring *w)
{
	return w->direct ? &w->s->direct : &w->r->frames;
}

/**
 * bring_settle() - leave LOADING and wake those who waited for the frame
 * @pages: the owners' pages of it
 */
void bring_settle(const struct bring *w, enum frame_state state, const struct frame_page *pages,
		  uint32_t n_pages);

/** bring_frame_text() - "image ... layer ... frame ...: why" for a failure */
void bring_frame_text(const struct image *image, uint32_t layer, uint32_t frame, const char *why,
		      char out[512]);

/**
 * bring_failed() - the frame did not come, for reason @e: a result of reading or resident_insert()
 * Whom the whole memory concerns is told; what becomes of the one who asked is the caller's.
 * @text: what to say of it
 * Return: what to leave LOADING with
 */
enum frame_state bring_failed(const struct bring *w, int e, struct problem *problem,
			      char text[512]);

/** bring_put_result() - what comes of putting pages (@what) into a VM's own range */
void bring_put_result(struct bring *w, int r, const char *what);

/** bring_alias_part() - the run of pages around @gfn whose slots others own, within one frame */
struct page_run bring_alias_part(const struct image *image, uint64_t gfn,
				 const struct page_run *run);

/** bring_copy_aliases() - the frame of @part is there and stays: copy its aliases. Return: done? */
bool bring_copy_aliases(struct bring *w, struct bounce *b, const struct page_run *part,
			bool decoded);

/**
 * bring_copy() - copy a frame's pages into the VM of @w: the page that is waited for first, and
 * of what is at hand not more than that unless the VM has pages nearby
 * Pages that are not the VM's own (OVERLAY), and those that it has, are left out.
 * @src: the decoded frame; NULL: from the resident memory, where the caller has pinned it
 * Return: 0; as session_copy()
 */
int bring_copy(struct bring *w, const uint8_t *src);

/** bring_continue() - map the page that is waited for, and those around it without a gap (OVERLAY)
 */
int bring_continue(struct bring *w);

/** bring_continue_rest() - and then what lies in the same 2 MiB, on the other side of pages that
 * are the VM's own, zero, or not here: that saves an event for each of them */
void bring_continue_rest(struct bring *w);

/** bring_served() - the fault was answered: how long did it take? */
static inline void bring_served(const struct bring *w)
{
	histogram_add(&w->s->service_ns, clock_now_ns() - w->read_ns);
}

/** bring_count() - one of the session's counters */
#define bring_count(_field, _n) ((void)__atomic_fetch_add(&(_field), (_n), __ATOMIC_RELAXED))
