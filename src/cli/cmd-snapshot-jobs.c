/* SPDX-License-Identifier: Apache-2.0 */
/* dorm snapshot verify, compact: what dormd works on for a while */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/http.h"
#include "cli/job.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/request.h"

#define MISSING_SNAPSHOT "a snapshot id (see `dorm snapshot ls`)"

/* ---- verify
 * -------------------------------------------------------------------------------------- */

static int run_snapshot_verify(struct cli *cli, const struct command *command, int argc,
			       char **argv)
{
	_cleanup_free_ char *path = NULL, *doing = NULL;
	_cleanup_job_ struct job job = {.what = "the verification"};
	struct args args;
	char bytes[16];
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);

	if (r)
		return options_exit(r);
	job.path = path = http_path("/snapshots/", args.pos[0], "/verify");
	doing = str_printf("verifying %s", args.pos[0]);
	job.doing = doing ? doing : "verifying";
	r = job_run(cli, &job);
	if (cli->json)
		job_json(&job, false);
	else if (!r)
		(void)printf("%s is sound: %" PRIu64 " frames, %s\n", args.pos[0],
			     output_field_number(job.result, "frames"),
			     str_format_bytes(output_field_number(job.result, "bytes"), bytes));
	if (!r)
		return CLI_OK;
	output_problem(&job.problem);
	return CLI_FAILED;
}

const struct command cmd_snapshot_verify = {
	.name = "snapshot verify",
	.usage = "[OPTIONS] ID",
	.summary = "Read every byte of a snapshot and check it against its seals",
	.details = "Exit code 1 when it is damaged; the message names the file, the place and the "
		   "reason.\n",
	.examples = "  dorm snapshot verify s9f3...\n",
	.missing = MISSING_SNAPSHOT,
	.min_args = 1,
	.max_args = 1,
	.run = run_snapshot_verify,
};

/* ---- compact
 * ------------------------------------------------------------------------------------- */

static void print_compacted(const char *id, const json_t *result)
{
	char written[16], dropped[16];
	const json_t *disk;

	if (!json_is_true(json_object_get(result, "compacted"))) {
		(void)printf("%s: nothing to merge; layers that others share are left alone\n", id);
		return;
	}
	(void)printf("%s: %" PRIu64 " layers became %" PRIu64 "; %s written, %s dropped\n", id,
		     output_field_number(result, "layersBefore"),
		     output_field_number(result, "layersAfter"),
		     str_format_bytes(output_field_number(result, "bytesWritten"), written),
		     str_format_bytes(output_field_number(result, "bytesDropped"), dropped));
	disk = json_object_get(result, "disk");
	if (output_field_number(disk, "layersAfter") < output_field_number(disk, "layersBefore"))
		(void)printf("%s: its disk: %" PRIu64 " layers became %" PRIu64
			     "; %s written, %s dropped\n",
			     id, output_field_number(disk, "layersBefore"),
			     output_field_number(disk, "layersAfter"),
			     str_format_bytes(output_field_number(disk, "bytesWritten"), written),
			     str_format_bytes(output_field_number(disk, "bytesDropped"), dropped));
}

/* Return: 0; -1 after printing why. Adds the last line to @results, which is NULL without --json */
static int compact_one(struct cli *cli, const char *id, bool force, json_t *results)
{
	_cleanup_free_ char *path = http_path("/snapshots/", id, "/compact");
	_cleanup_free_ char *doing = str_printf("compacting %s", id);
	_cleanup_job_ struct job job = {.path = path,
					.doing = doing ? doing : "compacting",
					.what = "the compaction",
					.body = json_pack("{s:b}", "force", force)};
	int r = job_run(cli, &job);

	if (r)
		output_problem(&job.problem);
	if (results)
		(void)json_array_append_new(results,
					    r ? request_error("snapshotID", id, &job.problem)
					      : json_incref(job.result));
	else if (!r)
		print_compacted(id, job.result);
	return r;
}

static int run_snapshot_compact(struct cli *cli, const struct command *command, int argc,
				char **argv)
{
	bool if_due = false;
	const struct option_spec specs[] = {
		{0, "if-due", OPTION_FLAG, &if_due, NULL, "only those that dormd would compact"},
	};
	json_t *results = NULL;
	struct args args;
	int code = CLI_OK,
	    r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	if (cli->json)
		results = json_array();
	for (size_t i = 0; i < args.n_pos; i++)
		if (compact_one(cli, args.pos[i], !if_due, results))
			code = CLI_FAILED;
	if (results)
		output_json(results);
	json_decref(results);
	return code;
}

const struct command cmd_snapshot_compact = {
	.name = "snapshot compact",
	.usage = "[OPTIONS] ID...",
	.summary = "Merge the layers of snapshots, dropping what no page needs",
	.details = "A snapshot that grew by many sleeps has layers with pages that later ones\n"
		   "replaced. Its id stays, sandboxes and other snapshots that have layers in\n"
		   "common with it are not touched. dormd does it by itself after a sleep, unless\n"
		   "it was started with --compact off.\n",
	.examples = "  dorm snapshot compact s9f3...\n"
		    "  dorm snapshot ls --json | jq -r '.[].snapshotID' |\n"
		    "    xargs -r dorm snapshot compact --if-due\n",
	.missing = MISSING_SNAPSHOT,
	.min_args = 1,
	.max_args = SIZE_MAX,
	.run = run_snapshot_compact,
};
