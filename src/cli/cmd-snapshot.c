/* SPDX-License-Identifier: Apache-2.0 */
/* dorm snapshot create, ls, rm, inspect */
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/describe.h"
#include "cli/http.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/request.h"
#include "cli/table.h"

#define MISSING_SNAPSHOT "a snapshot id (see `dorm snapshot ls`)"

/* ---- create
 * -------------------------------------------------------------------------------------- */

static int ask_snapshot(struct cli *cli, const char *id, const char *name, struct http_reply *ret)
{
	_cleanup_(http_freep) struct http *http = NULL;
	_cleanup_free_ char *path = http_path("/sandboxes/", id, "/snapshots");
	struct problem problem = PROBLEM_INIT;
	json_t *body = json_object();
	struct progress progress;
	int r = http_new(cli->socket, &problem, &http);

	progress_start(&progress, cli, "taking a snapshot of %s", id);
	if (!r && name && json_object_set_new(body, "name", json_string(name))) {
		problem_set(&problem, 400, "'%s' is not a name: not valid UTF-8", name);
		r = -EILSEQ;
	}
	if (!r) {
		http_set_progress(http, &progress);
		r = path ? http_call(http, "POST", path, body, ret, &problem) : -ENOMEM;
	}
	progress_end(&progress);
	json_decref(body);
	if (r)
		output_problem(&problem);
	return r;
}

static int run_snapshot_create(struct cli *cli, const struct command *command, int argc,
			       char **argv)
{
	const char *name = NULL;
	const struct option_spec specs[] = {
		{'n', "name", OPTION_TEXT, &name, "NAME", "a name to create sandboxes by"},
	};
	_cleanup_reply_ struct http_reply reply = {0};
	struct args args;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	if (ask_snapshot(cli, args.pos[0], name, &reply))
		return CLI_FAILED;
	if (cli->json)
		output_json(reply.body);
	else
		(void)printf("%s\n", output_field(reply.body, "snapshotID", "-"));
	return CLI_OK;
}

const struct command cmd_snapshot_create = {
	.name = "snapshot create",
	.usage = "[OPTIONS] ID",
	.summary = "Keep a sandbox as it is now; it goes on running",
	.details =
		"Prints the id of the snapshot, which `dorm run` takes like a template. Shorter:\n"
		"dorm snapshot ID.\n",
	.examples =
		"  dorm snapshot i4k2...\n  dorm snapshot create --name before-upgrade i4k2...\n"
		"  dorm run before-upgrade\n",
	.missing = "a sandbox id (see `dorm ps`)",
	.min_args = 1,
	.max_args = 1,
	.run = run_snapshot_create,
};

/* ---- ls, rm
 * -------------------------------------------------------------------------------------- */

/* Those that cannot be used, with the reason, below the table. */
static void print_damaged(const json_t *snapshots)
{
	bool first = true;
	json_t *v;
	size_t i;

	json_array_foreach (snapshots, i, v) {
		const char *why = output_field(v, "damaged", NULL);

		if (!why)
			continue;
		(void)printf("%s", first ? "\n" : "");
		output_text(stdout, output_field(v, "snapshotID", "-"));
		(void)fputs(" is damaged: ", stdout);
		output_text(stdout, why);
		(void)putchar('\n');
		first = false;
	}
}

static int print_snapshots(struct cli *cli, const json_t *snapshots)
{
	static const struct table_column columns[] = {{"ID", 0},
						      {"NAME", TABLE_CUT},
						      {"MEMORY", TABLE_RIGHT},
						      {"STORED", TABLE_RIGHT},
						      {"SHARED", TABLE_RIGHT},
						      {"AGE", TABLE_RIGHT},
						      {"PARENT", TABLE_CUT}};
	_cleanup_(table_freep) struct table *t = table_new(cli, columns, ARRAY_SIZE(columns));
	char text[32];
	json_t *v;
	size_t i;

	json_array_foreach (snapshots, i, v) {
		table_row(t);
		table_cell(t, "%s", output_field(v, "snapshotID", "-"));
		table_cell(t, "%s", output_field_first(v, "names", "-"));
		if (output_field_number(v, "memoryMB"))
			table_cell(t, "%" PRIu64 " MiB", output_field_number(v, "memoryMB"));
		else
			table_cell(t, "-"); /* its manifest cannot be read */
		table_cell(t, "%s", str_format_bytes(output_field_number(v, "storedBytes"), text));
		table_cell(t, "%s", str_format_bytes(output_field_number(v, "sharedBytes"), text));
		table_cell(t, "%s", output_age(v, "createdAt", text));
		table_cell(t, "%s", output_field(v, "parentID", "-"));
	}
	if (table_print(t))
		return CLI_FAILED;
	print_damaged(snapshots);
	return CLI_OK;
}

static int run_snapshot_ls(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_reply_ struct http_reply reply = {0};
	struct args args;
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);

	if (r)
		return options_exit(r);
	if (request_one(cli, "GET", "/snapshots", &reply))
		return CLI_FAILED;
	if (cli->json)
		output_json(reply.body);
	else if (!json_array_size(reply.body))
		(void)fputs("no snapshots: take one with `dorm snapshot ID`\n", stderr);
	else
		return print_snapshots(cli, reply.body);
	return CLI_OK;
}

const struct command cmd_snapshot_ls = {
	.name = "snapshot ls",
	.usage = "[OPTIONS]",
	.summary = "List snapshots",
	.details = "STORED is what a snapshot added to the disk, SHARED what it has in common with "
		   "others.\n",
	.examples = "  dorm snapshot ls\n",
	.run = run_snapshot_ls,
};

static const struct request_each remove_snapshot = {
	.method = "DELETE",
	.before = "/templates/",
	.after = "",
	.id_key = "snapshotID",
	.doing = "deleting",
	.done = request_print_id,
};

static int run_snapshot_rm(struct cli *cli, const struct command *command, int argc, char **argv)
{
	struct args args;
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);

	return r ? options_exit(r) : request_each(cli, &remove_snapshot, args.pos, args.n_pos);
}

const struct command cmd_snapshot_rm = {
	.name = "snapshot rm",
	.usage = "[OPTIONS] ID...",
	.summary = "Delete snapshots",
	.details = "Sandboxes and snapshots that came from one go on without it.\n",
	.examples = "  dorm snapshot rm s9f3...\n",
	.missing = MISSING_SNAPSHOT,
	.min_args = 1,
	.max_args = SIZE_MAX,
	.run = run_snapshot_rm,
};

/* ---- inspect
 * ------------------------------------------------------------------------------------- */

static int run_snapshot_inspect(struct cli *cli, const struct command *command, int argc,
				char **argv)
{
	_cleanup_reply_ struct http_reply reply = {0};
	struct args args;
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);

	if (r)
		return options_exit(r);
	if (request_named(cli, "GET", "/snapshots/", args.pos[0], "", &reply))
		return CLI_FAILED;
	if (!cli->json)
		return describe_object(cli, reply.body);
	output_json(reply.body);
	return CLI_OK;
}

const struct command cmd_snapshot_inspect = {
	.name = "snapshot inspect",
	.usage = "[OPTIONS] ID",
	.summary = "Show what a snapshot consists of",
	.details =
		"Its identity, machine, memory, layers, and how the guest was prepared for it.\n",
	.examples = "  dorm snapshot inspect s9f3...\n  dorm snapshot inspect --json s9f3... | jq "
		    ".layers\n",
	.missing = MISSING_SNAPSHOT,
	.min_args = 1,
	.max_args = 1,
	.run = run_snapshot_inspect,
};
