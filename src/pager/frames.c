/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bits 0-1 state, 2 WAITED, 3 ALIAS, 4-5 clock, 6-15 pins. Pins are held by threads of this process
 * for moments, so there are never more of them than threads; a thousand is far away.
 */
#include "pager/frames.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define STATE_MASK  0x3u
#define WAITED	    0x4u
#define ALIAS	    0x8u
#define CLOCK_SHIFT 4
#define CLOCK_MASK  0x30u
#define PIN	    0x40u

int frames_init(struct frames *f, const struct image *image)
{
	uint32_t n = image_n_layers(image);

	*f = (struct frames){.n_layers = n};
	f->first = calloc((size_t)n + 1, sizeof(*f->first));
	if (!f->first)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++)
		f->first[i + 1] = f->first[i] + image_layer_frames(image, i);
	f->n = f->first[n];
	f->words = calloc(f->n + 1, sizeof(*f->words));
	if (f->words)
		return 0;
	frames_deinit(f);
	return -ENOMEM;
}

void frames_deinit(struct frames *f)
{
	free(f->words);
	free(f->first);
	*f = (struct frames){0};
}

void frames_name(const struct frames *f, uint64_t index, uint32_t *ret_layer, uint32_t *ret_frame)
{
	uint32_t low = 0, high = f->n_layers;

	assert(index < f->n);
	while (high - low > 1) {
		uint32_t mid = low + (high - low) / 2;

		if (f->first[mid] <= index)
			low = mid;
		else
			high = mid;
	}
	*ret_layer = low;
	*ret_frame = (uint32_t)(index - f->first[low]);
}

/* The word that a claim makes of @w. */
static uint16_t claimed(uint16_t w, bool alias)
{
	switch (w & STATE_MASK) {
	case FRAME_ABSENT:
		return FRAME_LOADING;
	case FRAME_LOADING:
		return w | (alias ? ALIAS : WAITED);
	case FRAME_RESIDENT:
		return (uint16_t)((w | CLOCK_MASK) + PIN);
	default:
		return w;
	}
}

/* Exchange @seen for what @next makes of it, until nobody comes between. */
#define UPDATE(_word, _seen, _next)                                                                \
	while (!__atomic_compare_exchange_n((_word), &(_seen), (uint16_t)(_next), false,           \
					    __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {                 \
	}

enum frame_state frames_claim(struct frames *f, uint64_t index, bool alias)
{
	uint16_t *word = &f->words[index], seen = __atomic_load_n(word, __ATOMIC_ACQUIRE);

	UPDATE(word, seen, claimed(seen, alias));
	return (enum frame_state)(seen & STATE_MASK);
}

/* One exchange for those who go away if it is not what they hoped for. */
static bool change(struct frames *f, uint64_t index, uint16_t care, uint16_t hoped, int add)
{
	uint16_t *word = &f->words[index], seen = __atomic_load_n(word, __ATOMIC_ACQUIRE);

	while ((seen & care) == hoped)
		if (__atomic_compare_exchange_n(word, &seen, (uint16_t)(seen + add), false,
						__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			return true;
	return false;
}

bool frames_try(struct frames *f, uint64_t index)
{
	return change(f, index, STATE_MASK, FRAME_ABSENT, FRAME_LOADING);
}

bool frames_pin(struct frames *f, uint64_t index)
{
	return change(f, index, STATE_MASK, FRAME_RESIDENT, PIN);
}

void frames_unpin(struct frames *f, uint64_t index)
{
	(void)__atomic_fetch_sub(&f->words[index], PIN, __ATOMIC_RELEASE);
}

void frames_use(struct frames *f, uint64_t index)
{
	(void)__atomic_fetch_or(&f->words[index], CLOCK_MASK, __ATOMIC_RELAXED);
}

bool frames_take(struct frames *f, uint64_t index)
{
	const uint16_t care = (uint16_t) ~(CLOCK_MASK | WAITED | ALIAS);

	return change(f, index, care, FRAME_RESIDENT, FRAME_LOADING - FRAME_RESIDENT);
}

enum frame_wake frames_settle(struct frames *f, uint64_t index, enum frame_state state,
			      unsigned clock)
{
	uint16_t next = (uint16_t)(state | clock << CLOCK_SHIFT);
	uint16_t was = __atomic_exchange_n(&f->words[index], next, __ATOMIC_ACQ_REL);

	assert((was & STATE_MASK) == FRAME_LOADING && clock <= FRAMES_CLOCK_MAX);
	return was & ALIAS ? WAKE_ALL : was & WAITED ? WAKE_FRAME : WAKE_NOBODY;
}

unsigned frames_tick(struct frames *f, uint64_t index)
{
	uint16_t *word = &f->words[index], seen = __atomic_load_n(word, __ATOMIC_ACQUIRE);

	while (seen & CLOCK_MASK)
		if (__atomic_compare_exchange_n(word, &seen, (uint16_t)(seen - (1u << CLOCK_SHIFT)),
						false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			break;
	return (seen & CLOCK_MASK) >> CLOCK_SHIFT;
}
