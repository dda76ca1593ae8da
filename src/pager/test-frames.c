/* SPDX-License-Identifier: Apache-2.0 */
/* Who brings a frame, who is told, and that a thousand quarrels about it end well. */
#include "base/test.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

#include "pager/frames.h"

#define N_FRAMES  8u
#define N_THREADS 4
#define N_ROUNDS  20000

struct state {
	struct frames f;
	uint64_t first[2];
	uint16_t words[N_FRAMES];
};

static struct frames make(struct state *s)
{
	*s = (struct state){.first = {0, N_FRAMES}};
	return (struct frames){.words = s->words, .first = s->first, .n_layers = 1, .n = N_FRAMES};
}

static void test_states(void **state)
{
	struct state s;
	struct frames f = make(&s);

	assert_int_equal(frames_claim(&f, 3, false), FRAME_ABSENT);
	assert_int_equal(frames_claim(&f, 2, false), FRAME_ABSENT);
	assert_int_equal(frames_settle(&f, 2, FRAME_RESIDENT, 1), WAKE_NOBODY);
	assert_int_equal(frames_claim(&f, 2, false), FRAME_RESIDENT);
	assert_false(frames_is_waited(&f, 3));
	assert_int_equal(frames_claim(&f, 3, false), FRAME_LOADING);
	assert_true(frames_is_waited(&f, 3));
	assert_int_equal(frames_claim(&f, 3, false), FRAME_LOADING);
	assert_int_equal(frames_settle(&f, 3, FRAME_ABSENT, 0), WAKE_FRAME);
	assert_int_equal(frames_claim(&f, 3, false), FRAME_ABSENT);
	assert_int_equal(frames_settle(&f, 3, FRAME_FAILED, 0), WAKE_NOBODY);
	assert_int_equal(frames_claim(&f, 3, false), FRAME_FAILED);
	/* an alias could be anywhere: that mark is stronger, in any order */
	assert_int_equal(frames_claim(&f, 4, true), FRAME_ABSENT);
	assert_int_equal(frames_claim(&f, 4, false), FRAME_LOADING);
	assert_int_equal(frames_claim(&f, 4, true), FRAME_LOADING);
	assert_int_equal(frames_claim(&f, 4, false), FRAME_LOADING);
	assert_int_equal(frames_settle(&f, 4, FRAME_RESIDENT, 0), WAKE_ALL);
	assert_int_equal(frames_claim(&f, 6, true), FRAME_ABSENT);
	assert_int_equal(frames_settle(&f, 6, FRAME_RESIDENT, 0), WAKE_NOBODY);
}

static void test_pins(void **state)
{
	struct state s;
	struct frames f = make(&s);

	assert_false(frames_pin(&f, 0));
	assert_true(frames_try(&f, 0));
	assert_false(frames_try(&f, 0));
	assert_false(frames_pin(&f, 0));
	assert_false(frames_take(&f, 0));
	assert_int_equal(frames_settle(&f, 0, FRAME_RESIDENT, 2), WAKE_NOBODY);
	assert_true(frames_pin(&f, 0));
	assert_int_equal(frames_claim(&f, 0, true), FRAME_RESIDENT); /* a second pin */
	assert_false(frames_take(&f, 0));
	frames_unpin(&f, 0);
	assert_false(frames_take(&f, 0));
	frames_unpin(&f, 0);
	assert_true(frames_take(&f, 0)); /* whatever the clock says */
	assert_int_equal(frames_claim(&f, 0, false), FRAME_LOADING);
	assert_int_equal(frames_settle(&f, 0, FRAME_ABSENT, 0), WAKE_FRAME);
}

static void test_clock(void **state)
{
	struct state s;
	struct frames f = make(&s);

	assert_true(frames_try(&f, 1));
	(void)frames_settle(&f, 1, FRAME_RESIDENT, 1);
	assert_int_equal(frames_tick(&f, 1), 1);
	assert_int_equal(frames_tick(&f, 1), 0);
	assert_int_equal(frames_claim(&f, 1, false), FRAME_RESIDENT); /* somebody wanted it */
	frames_unpin(&f, 1);
	for (unsigned left = FRAMES_CLOCK_MAX; left > 0; left--)
		assert_int_equal(frames_tick(&f, 1), left);
	assert_int_equal(frames_tick(&f, 1), 0);
	assert_int_equal(frames_state(&f, 1), FRAME_RESIDENT);
}

static void test_names(void **state)
{
	uint64_t first[] = {0, 3, 3, 10, 11};
	uint16_t words[11];
	struct frames f = {.words = words, .first = first, .n_layers = 4, .n = 11};
	uint32_t layer, frame;

	for (uint32_t l = 0; l < f.n_layers; l++) {
		for (uint32_t i = 0; i < first[l + 1] - first[l]; i++) {
			frames_name(&f, frames_index(&f, l, i), &layer, &frame);
			assert_int_equal(layer, l);
			assert_int_equal(frame, i);
		}
	}
}

/* Threads that claim, bring, pin and take away: nobody ever has a frame that another one owns. */
static struct frames quarrel;
static int owner[N_FRAMES]; /* atomic: threads that have it LOADING */
static int users[N_FRAMES]; /* atomic: threads that have it pinned */

static void own(uint64_t i, enum frame_state next)
{
	assert(__atomic_add_fetch(&owner[i], 1, __ATOMIC_SEQ_CST) == 1);
	assert(__atomic_load_n(&users[i], __ATOMIC_SEQ_CST) == 0);
	assert(__atomic_sub_fetch(&owner[i], 1, __ATOMIC_SEQ_CST) == 0);
	(void)frames_settle(&quarrel, i, next, 1);
}

static void *quarreller(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (int round = 0; round < N_ROUNDS; round++) {
		uint64_t i = (unsigned)rand_r(&seed) % N_FRAMES;

		if (rand_r(&seed) % 3 == 0) {
			if (frames_take(&quarrel, i))
				own(i, FRAME_ABSENT);
			continue;
		}
		switch (frames_claim(&quarrel, i, rand_r(&seed) % 2)) {
		case FRAME_ABSENT:
			own(i, FRAME_RESIDENT);
			break;
		case FRAME_RESIDENT:
			__atomic_add_fetch(&users[i], 1, __ATOMIC_SEQ_CST);
			assert(__atomic_load_n(&owner[i], __ATOMIC_SEQ_CST) == 0);
			__atomic_sub_fetch(&users[i], 1, __ATOMIC_SEQ_CST);
			frames_unpin(&quarrel, i);
			break;
		default:
			break;
		}
	}
	return NULL;
}

static void test_quarrel(void **state)
{
	pthread_t threads[N_THREADS];
	struct state s;

	quarrel = make(&s);
	for (uintptr_t i = 0; i < N_THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, quarreller, (void *)(i + 1)), 0);
	for (int i = 0; i < N_THREADS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	for (uint64_t i = 0; i < N_FRAMES; i++) {
		assert_int_not_equal(frames_state(&quarrel, i), FRAME_LOADING);
		if (frames_state(&quarrel, i) == FRAME_RESIDENT)
			assert_true(frames_take(&quarrel, i)); /* no pin was forgotten */
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_states),	cmocka_unit_test(test_pins),
		cmocka_unit_test(test_clock),	cmocka_unit_test(test_names),
		cmocka_unit_test(test_quarrel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
