/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * test-state.h - all of a store as text that two stores can be compared by
 *
 * Every file is read and verified, every page of every memory compared. The text has no random part
 * (no ids of layers), so the same operation gives the same text each time. What does not belong
 * where it is appears as a line with "stray", what cannot be used as one with "damaged".
 */
#include <stdbool.h>

/** state_describe() - open the store at @root, which cleans it, and describe it. free() */
char *state_describe(const char *root);

/** state_has_line() - does a line begin with @start? With '-' in front of it: does none? */
bool state_has_line(const char *state, const char *start);

/** state_tmp_is_empty() - has an operation cleaned up behind itself? */
bool state_tmp_is_empty(const char *root);

/** state_copy() - copy a store, hard links staying hard links; @to is removed first */
void state_copy(const char *from, const char *to);

/** state_make_directory() - a fresh directory, in memory where the machine has such; 64 bytes */
void state_make_directory(char ret[64]);

/** state_n_fds() - open descriptors of this process */
int state_n_fds(void);
