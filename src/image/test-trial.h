/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * test-trial.h - one operation tried again and again on the same store, with something going wrong
 *
 *     trial_begin()  the store before the operation, and what it looks like before and after
 *     trial_reset()  a fresh copy of the store before, at @root
 *     trial_judge()  what the store looks like now
 *     trial_end()
 */
#include <stdbool.h>

#include "image/test-operations.h"

struct trial {
	const struct operation *op;
	char base[64]; /* everything is below it */
	char master[80], root[80];
	char *before, *after; /* image/test-state.h */
};

/** trial_begin() - fails the test when the operation does not do what it should */
void trial_begin(struct trial *t, const struct operation *op);
void trial_reset(struct trial *t);

enum trial_state { TRIAL_OTHER, TRIAL_OLD, TRIAL_NEW };

/** trial_judge() - the state of the store at @root; @ret_text: its description, free() */
enum trial_state trial_judge(const struct trial *t, const char *root, char **ret_text);
void trial_end(struct trial *t);

/** trial_main() - a main() with @test for each operation, which it gets as *state, then @last */
int trial_main(void (*test)(void **state), void (*last)(void **state), const char *last_name);
