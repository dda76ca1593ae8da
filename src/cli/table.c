/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/table.h"

#include <libsmartcols.h>
#include <stdarg.h>
#include <stdio.h>

struct table {
	struct libscols_table *t;
	struct libscols_line *line;
	size_t next; /* column of the next cell */
	bool colour;
	bool failed; /* out of memory somewhere */
};

struct table *table_free(struct table *t)
{
	if (t)
		scols_unref_table(t->t);
	free(t);
	return NULL;
}

struct table *table_new(const struct cli *cli, const struct table_column *columns, size_t n)
{
	_cleanup_(table_freep) struct table *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->t = scols_new_table();
	if (!t->t)
		return NULL;
	t->colour = cli->colour;
	(void)scols_table_enable_colors(t->t, cli->colour); /* fails for NULL only */
	for (size_t i = 0; i < n; i++) {
		int flags = (columns[i].flags & TABLE_RIGHT ? SCOLS_FL_RIGHT : 0) |
			    (columns[i].flags & TABLE_CUT ? SCOLS_FL_TRUNC : 0) |
			    (columns[i].flags & TABLE_TREE ? SCOLS_FL_TREE : 0);

		if (!scols_table_new_column(t->t, columns[i].title, 0, flags))
			return NULL;
	}
	return take_ptr(t);
}

void *table_branch(struct table *t, void *above)
{
	if (!t || t->failed)
		return NULL;
	t->line = scols_table_new_line(t->t, above);
	t->failed = !t->line;
	t->next = 0;
	return t->line;
}

void table_row(struct table *t)
{
	(void)table_branch(t, NULL);
}

void table_cell(struct table *t, const char *fmt, ...)
{
	char *text;
	va_list ap;
	int n;

	if (!t || t->failed)
		return;
	va_start(ap, fmt);
	n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0 || scols_line_refer_data(t->line, t->next, text))
		t->failed = true; /* refer_data fails only before it owns the text */
	t->next++;
}

void table_colour(struct table *t, enum table_colour colour)
{
	static const char *const names[] = {[TABLE_GREEN] = "green",
					    [TABLE_YELLOW] = "brown",
					    [TABLE_RED] = "red",
					    [TABLE_DIM] = "gray"};

	if (!t || t->failed || !t->colour || colour == TABLE_PLAIN || !t->next)
		return;
	if (scols_cell_set_color(scols_line_get_cell(t->line, t->next - 1), names[colour]))
		t->failed = true;
}

int table_print(struct table *t)
{
	if (t && !t->failed && !scols_print_table(t->t))
		return CLI_OK;
	(void)fputs("dorm: cannot print the table: out of memory\n", stderr);
	return CLI_FAILED;
}
