/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dorm snapshot tree
 *
 * The answer nests as deep as snapshots descend from each other, so it is walked with a stack of
 * our own. jansson reads no deeper than JSON_PARSER_MAX_DEPTH, which bounds everything behind it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/http.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/request.h"
#include "cli/table.h"

/* Nodes side by side, and how far we are among them. */
struct level {
	const json_t *nodes; /* borrowed */
	size_t next;
	void *above; /* row that they are below */
};

static void add_names(struct table *t, const json_t *node)
{
	_cleanup_buf_ struct buf text = {0};
	json_t *name;
	size_t i;

	json_array_foreach (json_object_get(node, "names"), i, name)
		(void)buf_printf(&text, "%s%s", i ? ", " : "",
				 json_is_string(name) ? json_string_value(name) : "?");
	table_cell(t, "%s", text.len ? text.data : "-");
}

static void add_bytes(struct table *t, const json_t *node, const char *key)
{
	char text[16];

	if (json_is_number(json_object_get(node, key)))
		table_cell(t, "%s", str_format_bytes(output_field_number(node, key), text));
	else
		table_cell(t, "-");
}

static void add_cells(struct table *t, const json_t *node)
{
	const char *sandbox = output_field(node, "sandboxID", NULL);
	bool deleted = json_is_true(json_object_get(node, "deleted"));
	char age[32];

	if (sandbox) {
		table_cell(t, "%s", sandbox);
		table_cell(t, "sandbox, %s", output_field(node, "state", "-"));
	} else {
		table_cell(t, "%s%s", deleted ? "(deleted) " : "",
			   output_field(node, "snapshotID", "-"));
		table_colour(t, deleted ? TABLE_DIM : TABLE_PLAIN);
		add_names(t, node);
	}
	add_bytes(t, deleted ? NULL : node, "ownBytes");
	add_bytes(t, deleted ? NULL : node, "sharedBytes");
	table_cell(t, "%s", output_age(node, "createdAt", age));
}

/* Depth first. Return: 0; -ENOMEM */
static int add_nodes(struct table *t, const json_t *roots)
{
	_cleanup_buf_ struct buf stack = {0};
	struct level level = {.nodes = roots};
	size_t depth = 0;

	for (;;) {
		const json_t *node = json_array_get(level.nodes, level.next++);
		void *row;

		if (!node && !depth)
			return 0;
		if (!node) {
			memcpy(&level, stack.data + --depth * sizeof(level), sizeof(level));
			stack.len = depth * sizeof(level);
			continue;
		}
		row = table_branch(t, level.above);
		add_cells(t, node);
		if (!json_array_size(json_object_get(node, "children")))
			continue;
		if (buf_append(&stack, &level, sizeof(level)))
			return -ENOMEM;
		depth++;
		level = (struct level){json_object_get(node, "children"), 0, row};
	}
}

static int print_tree(struct cli *cli, const json_t *roots)
{
	static const struct table_column columns[] = {{"SNAPSHOT", TABLE_TREE},
						      {"NAMES", TABLE_CUT},
						      {"OWN", TABLE_RIGHT},
						      {"SHARED", TABLE_RIGHT},
						      {"CREATED", TABLE_RIGHT}};
	_cleanup_(table_freep) struct table *t = table_new(cli, columns, ARRAY_SIZE(columns));

	if (add_nodes(t, roots) < 0)
		t = table_free(t); /* printing it says that there was no memory */
	return table_print(t);
}

static int ask_tree(struct cli *cli, const char *id, struct http_reply *ret)
{
	_cleanup_(http_freep) struct http *http = NULL;
	_cleanup_free_ char *path =
		id ? http_path("/snapshots/", id, "/tree") : strdup("/snapshots/tree");
	struct problem problem = PROBLEM_INIT;
	int r = path ? http_new(cli->socket, &problem, &http) : -ENOMEM;

	if (!r)
		r = http_call(http, "GET", path, NULL, ret, &problem);
	if (!r)
		return 0;
	problem_set(&problem, 500, "out of memory");
	if (r == -EBADMSG)
		problem_hint(&problem, "a tree of more than about a thousand generations cannot be "
				       "shown; `dorm snapshot ls` names the parent of each");
	output_problem(&problem);
	return -1;
}

static int run_snapshot_tree(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_reply_ struct http_reply reply = {0};
	struct args args;
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);
	const json_t *roots;

	if (r)
		return options_exit(r);
	if (ask_tree(cli, args.n_pos ? args.pos[0] : NULL, &reply))
		return CLI_FAILED;
	roots = json_object_get(reply.body, "roots");
	if (cli->json)
		output_json(reply.body);
	else if (!json_array_size(roots))
		(void)fputs("no snapshots: take one with `dorm snapshot ID`\n", stderr);
	else
		return print_tree(cli, roots);
	return CLI_OK;
}

const struct command cmd_snapshot_tree = {
	.name = "snapshot tree",
	.usage = "[OPTIONS] [ID]",
	.summary = "Show who descends from whom, sandboxes too",
	.details =
		"OWN is what deleting one would free, SHARED what it has in common with others.\n"
		"An ancestor that is gone is marked (deleted): what descends from it has kept\n"
		"the layers that it needs. With ID only the tree that it is in.\n",
	.examples = "  dorm snapshot tree\n  dorm snapshot tree s9f3...\n",
	.max_args = 1,
	.run = run_snapshot_tree,
};
