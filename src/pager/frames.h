/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * frames.h - who is bringing which frame: one word of state for every frame of an image
 *
 * There is a table for each place where frames are brought to: the resident memory of an image, and
 * the memory of a VM that gets pages copied directly. A word is changed by compare-and-swap only:
 *
 *   state      holds                                       left by
 *   ABSENT     none, or some, of its pages are there       claim -> LOADING
 *   LOADING    one owner brings it (or takes it away);     settle -> ABSENT, RESIDENT, FAILED
 *              others may leave marks: somebody waits
 *              for a page of an owner (WAITED), or for an
 *              alias, which could be anywhere (ALIAS)
 *   RESIDENT   every owner's page of it is there; aliases  frames_take() -> LOADING, when nobody
 *              may not be. It has pins: as long as there   has pinned it
 *              are any, it stays
 *   FAILED     its seal did not hold                       (final)
 *
 * A mark left on LOADING is seen by settle, or the one who leaves it sees the state that settle
 * made: nobody is forgotten. Any thread; nothing allocates or waits but frames_init().
 */
#include <stdbool.h>
#include <stdint.h>

#include "image/image.h"

enum frame_state {
	FRAME_ABSENT,
	FRAME_LOADING,
	FRAME_RESIDENT,
	FRAME_FAILED,
};

/* Who must be woken when a frame was brought. */
enum frame_wake {
	WAKE_NOBODY,
	WAKE_FRAME, /* whoever waits for the owners' pages of the frame */
	WAKE_ALL,   /* whoever waits for any page: an alias may be, and it is not known which */
};

#define FRAMES_CLOCK_MAX 3u /* how often the clock hand spares a frame, at most */

struct frames {
	uint16_t *words; /* atomic; of all frames of all layers */
	uint64_t *first; /* per layer: index of its frame 0 in @words; one more than layers */
	uint32_t n_layers;
	uint64_t n;
};

/** frames_init() - all ABSENT. Return: 0; -ENOMEM */
int frames_init(struct frames *f, const struct image *image);
void frames_deinit(struct frames *f);

/** frames_index() - where the word of a frame is */
static inline uint64_t frames_index(const struct frames *f, uint32_t layer, uint32_t frame)
{
	return f->first[layer] + frame;
}

/** frames_name() - layer and frame of an index */
void frames_name(const struct frames *f, uint64_t index, uint32_t *ret_layer, uint32_t *ret_frame);

/**
 * frames_claim() - somebody needs this frame
 * @alias: the page that is waited for does not own its slot
 * Return: the state found.
 *   FRAME_ABSENT    it is LOADING now: the caller must bring and settle it
 *   FRAME_LOADING   a mark was left: whoever brings it will wake
 *   FRAME_RESIDENT  it is pinned: frames_unpin() when done. Its clock is wound up
 *   FRAME_FAILED
 */
enum frame_state frames_claim(struct frames *f, uint64_t index, bool alias);

/** frames_try() - ABSENT -> LOADING, for those who need not have it. Return: was it? */
bool frames_try(struct frames *f, uint64_t index);

/** frames_pin() - keep it RESIDENT until frames_unpin(). Return: was it? No mark is left if not */
bool frames_pin(struct frames *f, uint64_t index);
void frames_unpin(struct frames *f, uint64_t index);

/** frames_use() - wind its clock up, as a claim that finds it RESIDENT does; it is pinned */
void frames_use(struct frames *f, uint64_t index);

/** frames_take() - RESIDENT and not pinned -> LOADING, to take it away. Return: was it? */
bool frames_take(struct frames *f, uint64_t index);

/**
 * frames_settle() - leave LOADING
 * @state: FRAME_RESIDENT, FRAME_ABSENT (could not be done now, or was taken away) or FRAME_FAILED
 * @clock: how often the hand will spare it, at most FRAMES_CLOCK_MAX
 * Return: who must be woken, because of the marks that others left
 */
enum frame_wake frames_settle(struct frames *f, uint64_t index, enum frame_state state,
			      unsigned clock);

/** frames_tick() - the clock hand passes. Return: the clock before, which is now one less; 0: it
 *  was run down */
unsigned frames_tick(struct frames *f, uint64_t index);

/** frames_is_waited() - did somebody leave a mark on it? */
static inline bool frames_is_waited(const struct frames *f, uint64_t index)
{
	return __atomic_load_n(&f->words[index], __ATOMIC_RELAXED) & 0xc;
}

/** frames_state() - what it is just now; without a pin it may be something else at once */
static inline enum frame_state frames_state(const struct frames *f, uint64_t index)
{
	return (enum frame_state)(__atomic_load_n(&f->words[index], __ATOMIC_ACQUIRE) & 3);
}
