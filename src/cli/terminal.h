/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * terminal.h - our own terminal while a program of a sandbox has it
 *
 * Raw: every key goes to the program, Ctrl-C included. What it was before is restored by
 * terminal_restore(), and also when the process exits or dies of a signal that it could not block.
 * One terminal at a time; one thread.
 */
#include <stdbool.h>
#include <stdint.h>

struct terminal_size {
	uint16_t cols, rows;
};

/** terminal_size() - of the one behind @fd. Return: 0; -ENOTTY, with 80 x 24 in @ret */
int terminal_size(int fd, struct terminal_size *ret);

/** terminal_make_raw() - Return: 0; negative errno, with nothing changed */
int terminal_make_raw(int fd);

/** terminal_restore() - as before terminal_make_raw(); without that nothing happens */
void terminal_restore(void);
