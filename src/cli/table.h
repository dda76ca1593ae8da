/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * table.h - a table on standard output that fits the terminal (libsmartcols)
 *
 * Columns marked TABLE_CUT give way when the terminal is narrow; nothing is cut when standard
 * output is not a terminal. A column marked TABLE_TREE shows which row is below which, with lines
 * in a UTF-8 locale and with ASCII elsewhere. Out of memory is remembered and reported once, by
 * table_print().
 */
#include "base/mem.h"
#include "cli/cli.h"

enum { TABLE_RIGHT = 1, TABLE_CUT = 2, TABLE_TREE = 4 };

struct table_column {
	const char *title;
	unsigned flags;
};

enum table_colour { TABLE_PLAIN, TABLE_GREEN, TABLE_YELLOW, TABLE_RED, TABLE_DIM };

struct table;

/** table_new() - Return: NULL when out of memory, which every other function accepts */
struct table *table_new(const struct cli *cli, const struct table_column *columns, size_t n);
struct table *table_free(struct table *t);
DEFINE_CLEANUP(struct table *, table_free)

/** table_row() - begin the next row */
void table_row(struct table *t);

/**
 * table_branch() - begin the next row, below another in the tree
 * @above: what table_branch() returned for that one; NULL: below none
 * Return: the row, for the rows below it; valid as long as the table
 */
void *table_branch(struct table *t, void *above);

/** table_cell() - the next cell of the row; control characters are shown escaped */
void table_cell(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** table_colour() - colour the cell added last, where colours are wanted */
void table_colour(struct table *t, enum table_colour colour);

/** table_print() - Return: CLI_OK; CLI_FAILED, with a message printed */
int table_print(struct table *t);
