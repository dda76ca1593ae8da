/* SPDX-License-Identifier: Apache-2.0 */
/* dorm store df, check, repair, rewrap */
#include <inttypes.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/http.h"
#include "cli/job.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/request.h"
#include "cli/table.h"

/* ---- df
 * ------------------------------------------------------------------------------------------ */

static int print_entries(struct cli *cli, const json_t *entries)
{
	static const struct table_column columns[] = {{"KIND", 0},
						      {"ID", 0},
						      {"NAME", TABLE_CUT},
						      {"OWN", TABLE_RIGHT},
						      {"SHARED", TABLE_RIGHT},
						      {"LAYERS", TABLE_RIGHT}};
	_cleanup_(table_freep) struct table *t = table_new(cli, columns, ARRAY_SIZE(columns));
	char text[16];
	json_t *v;
	size_t i;

	json_array_foreach (entries, i, v) {
		table_row(t);
		table_cell(t, "%s", output_field(v, "kind", "-"));
		table_cell(t, "%s", output_field(v, "id", "-"));
		table_cell(t, "%s", output_field_first(v, "names", "-"));
		table_cell(t, "%s", str_format_bytes(output_field_number(v, "own"), text));
		table_cell(t, "%s", str_format_bytes(output_field_number(v, "shared"), text));
		table_cell(t, "%" PRIu64, output_field_number(v, "layers"));
	}
	return table_print(t);
}

static void print_total(const json_t *total)
{
	static const char *const parts[] = {"snapshots", "sandboxes", "temporary", "other"};
	char text[16];

	(void)printf("total %s:", str_format_bytes(output_field_number(total, "total"), text));
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		(void)printf("%s %s %s", i ? "," : "", parts[i],
			     str_format_bytes(output_field_number(total, parts[i]), text));
	(void)printf("; %s without sharing",
		     str_format_bytes(output_field_number(total, "apparent"), text));
	(void)printf("; %s free\n", str_format_bytes(output_field_number(total, "free"), text));
}

static int run_store_df(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_reply_ struct http_reply reply = {0};
	struct args args;
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);
	const json_t *entries;

	if (r)
		return options_exit(r);
	if (request_one(cli, "GET", "/store/usage", &reply))
		return CLI_FAILED;
	if (cli->json) {
		output_json(reply.body);
		return CLI_OK;
	}
	entries = json_object_get(reply.body, "entries");
	if (json_array_size(entries)) {
		if (print_entries(cli, entries))
			return CLI_FAILED;
		(void)putchar('\n');
	}
	print_total(json_object_get(reply.body, "total"));
	return CLI_OK;
}

const struct command cmd_store_df = {
	.name = "store df",
	.usage = "[OPTIONS]",
	.summary = "Show what takes how much of the disk",
	.details =
		"OWN is what deleting a snapshot or sandbox would free, SHARED what it has in\n"
		"common with others, which is freed with the last of them. The total is what du\n"
		"counts.\n",
	.examples = "  dorm store df\n"
		    "  dorm store df --json | jq '.entries | sort_by(-.own) | .[:5]'\n",
	.run = run_store_df,
};

/* ---- check, repair
 * ------------------------------------------------------------------------------- */

static int print_findings(struct cli *cli, const json_t *findings, bool repaired)
{
	static const struct table_column columns[] = {
		{"KIND", 0}, {"WHERE", 0}, {"WHAT", TABLE_CUT}, {"DONE", 0}};
	_cleanup_(table_freep) struct table *t = table_new(cli, columns, repaired ? 4 : 3);
	json_t *v;
	size_t i;

	json_array_foreach (findings, i, v) {
		bool lost = json_is_true(json_object_get(v, "lost"));

		table_row(t);
		table_cell(t, "%s", output_field(v, "kind", "-"));
		table_colour(t, lost ? TABLE_RED : TABLE_YELLOW);
		table_cell(t, "%s", output_field(v, "path", "-"));
		table_cell(t, "%s%s", output_field(v, "why", "-"),
			   lost && !repaired ? " (lost)" : "");
		if (repaired)
			table_cell(t, "%s%s", output_field(v, "done", "nothing"),
				   lost ? " (lost)" : "");
	}
	return table_print(t);
}

static void print_looked_at(FILE *f, const json_t *result, bool data)
{
	char text[16];

	(void)fprintf(f,
		      "%" PRIu64 " memories of snapshots, %" PRIu64 " of sandboxes, %" PRIu64
		      " layers; %s read%s\n",
		      output_field_number(result, "snapshots"),
		      output_field_number(result, "memories"),
		      output_field_number(result, "layers"),
		      str_format_bytes(output_field_number(result, "bytesRead"), text),
		      data ? "" : ", their data not (--data)");
}

/* Return: the exit code */
static int report(struct cli *cli, const struct job *job, bool repair, bool data)
{
	uint64_t n = output_field_number(job->result, "findings"),
		 lost = output_field_number(job->result, "lost");

	if (cli->json) {
		job_json(job, true);
	} else if (!n) {
		(void)fputs("sound: ", stdout);
		print_looked_at(stdout, job->result, data);
	} else {
		if (print_findings(cli, job->findings, repair))
			return CLI_FAILED;
		(void)printf("\n%" PRIu64 " finding%s", n, n == 1 ? "" : "s");
		if (repair)
			(void)printf(", %" PRIu64 " of them beyond repair", lost);
		(void)fputs("; looked at ", stdout);
		print_looked_at(stdout, job->result, data);
		(void)fflush(stdout); /* keep the order; checked by output_finish() */
		if (!repair)
			(void)fputs("hint: `dorm store repair` puts right what can be\n", stderr);
	}
	return (repair ? lost : n) ? CLI_FAILED : CLI_OK;
}

static int run_store_job(struct cli *cli, const struct command *command, int argc, char **argv)
{
	bool data = false, repair = command == &cmd_store_repair;
	const struct option_spec specs[] = {
		{0, "data", OPTION_FLAG, &data, NULL, "read and verify every byte, too"},
	};
	_cleanup_job_ struct job job = {.path = repair ? "/store/repair" : "/store/check",
					.doing = repair ? "repairing" : "checking",
					.what = repair ? "the repair" : "the check"};
	struct args args;
	int code, r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	job.in_bytes = data;
	job.body = json_pack("{s:b}", "data", data);
	if (!job_run(cli, &job))
		return report(cli, &job, repair, data);
	code = CLI_FAILED;
	/* what it had found before it failed is worth knowing */
	if (cli->json)
		job_json(&job, true);
	else if (json_array_size(job.findings))
		(void)print_findings(cli, job.findings, repair);
	output_problem(&job.problem);
	return code;
}

const struct command cmd_store_check = {
	.name = "store check",
	.usage = "[OPTIONS]",
	.summary = "Look for damage in the snapshot store; changes nothing",
	.details =
		"Checks in seconds that everything is there and fits together; with --data reads\n"
		"every byte and checks it against its seals. Sandboxes may run meanwhile. Exit\n"
		"code 1 when something was found.\n",
	.examples = "  dorm store check\n  dorm store check --data\n"
		    "  dorm store check --json | jq '.found[]'\n",
	.run = run_store_job,
};

const struct command cmd_store_repair = {
	.name = "store repair",
	.usage = "[OPTIONS]",
	.summary = "Put the snapshot store right, and say what is lost",
	.details = "Rebuilds the index, removes what an interrupted write left behind, and sets\n"
		   "aside what is torn. Exit code 1 when data was lost; the table says which.\n",
	.examples = "  dorm store repair\n  dorm store repair --data\n",
	.run = run_store_job,
};

/* ---- rewrap
 * -------------------------------------------------------------------------------------- */

static void print_rewrap(const struct job *job)
{
	struct problem p;
	json_t *v;
	size_t i;

	if (job->result)
		(void)printf("%" PRIu64 " rewrapped, %" PRIu64
			     " had the first key already, %" PRIu64 " failed\n",
			     output_field_number(job->result, "rewrapped"),
			     output_field_number(job->result, "current"),
			     output_field_number(job->result, "failed"));
	json_array_foreach (job->findings, i, v) {
		p = PROBLEM_INIT;
		problem_set(&p, 500, "%s: %s", output_field(v, "path", "-"),
			    output_field(v, "why", "failed"));
		output_problem(&p);
	}
}

static int run_store_rewrap(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_job_ struct job job = {
		.path = "/store/rewrap", .doing = "rewrapping keys", .what = "the rotation"};
	struct args args;
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);

	if (r)
		return options_exit(r);
	r = job_run(cli, &job);
	if (cli->json)
		job_json(&job, true);
	else if (!r || json_array_size(job.findings))
		print_rewrap(&job);
	if (r)
		output_problem(&job.problem);
	return r || output_field_number(job.result, "failed") ? CLI_FAILED : CLI_OK;
}

const struct command cmd_store_rewrap = {
	.name = "store rewrap",
	.usage = "[OPTIONS]",
	.summary = "Rotate keys: seal every snapshot under dormd's first key",
	.details =
		"Start dormd with the new key first and the old ones behind it, then run this.\n"
		"Only the wrapped keys are written anew, no layer is. When nothing has failed the\n"
		"old keys may go.\n",
	.examples = "  dormd --root DIR --seal-key file:new.key --seal-key file:old.key\n"
		    "  dorm store rewrap\n",
	.run = run_store_rewrap,
};
