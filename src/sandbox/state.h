/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* clang-format off */
/*
 * state.h - the states of a sandbox
 *
 *     state      what holds in it                              left by
 *     creating   directory and record exist, nobody was told   create, fork: to running, or gone
 *     running    VM runs, agent repaired it, channel open      sleep, delete, death of VM or pager
 *     pausing    VM paused or about to be, memory being saved  sleep: to asleep, or back to running
 *     asleep     a complete memory directory, no process       wake, delete
 *     waking     VM being restored, memory directory is whole  wake: to running, or back to asleep
 *     deleting   will be gone; also after a crash              delete
 *     failed     no process; the reason is in the record       delete
 *
 * Every transition is made by one function (sandbox.c), has deadlines, and falls back as the last
 * column says; recover.c does the same for a transition that a crash cut short. Deleting is allowed
 * from every state. docs/lifecycle.md has every state, operation and failure.
 */
/* clang-format on */
#include <stdbool.h>

enum sandbox_state {
	SANDBOX_CREATING,
	SANDBOX_RUNNING,
	SANDBOX_PAUSING,
	SANDBOX_ASLEEP,
	SANDBOX_WAKING,
	SANDBOX_DELETING,
	SANDBOX_FAILED,
	SANDBOX_N_STATES,
};

/** sandbox_state_name() - "running"; the same words in records, API and logs */
const char *sandbox_state_name(enum sandbox_state state);

/** sandbox_state_parse() - the reverse. Return: 0; -EINVAL */
int sandbox_state_parse(const char *name, enum sandbox_state *ret);

/** sandbox_state_may() - is a change from one state to another in the table? */
bool sandbox_state_may(enum sandbox_state from, enum sandbox_state to);
