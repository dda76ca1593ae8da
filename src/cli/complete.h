/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * complete.h - what could stand next on a command line, for the shells' completion
 *
 * `dorm __complete WORD...` is given the words behind "dorm", the last of which is being typed and
 * may be empty, and prints what it could become: a word a line, behind a tab what that is.
 * Commands, their options, and what dormd has: sandboxes, templates, snapshots. Prints nothing
 * where only the shell knows more (file names), or when something fails.
 */
#include "cli/cli.h"

/**
 * complete() - @words: without "__complete"; NULL after the last
 * @commands: the table of all; may have NULLs in it
 * Return: exit code
 */
int complete(struct cli *cli, const struct command *const *commands, size_t n_commands, int n_words,
	     char **words);
