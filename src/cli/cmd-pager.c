/* SPDX-License-Identifier: Apache-2.0 */
/* dorm pager, pager upgrade, template warm */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/http.h"
#include "cli/job.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/request.h"
#include "cli/table.h"

#define PAGE_BYTES 4096u

static char *pages(const json_t *o, const char *key, char buf[16])
{
	return str_format_bytes(output_field_number(o, key) * PAGE_BYTES, buf);
}

/* ---- pager
 * --------------------------------------------------------------------------------------- */

/* "working-set 300 of 1200 pages"; "-" when nothing is loaded in the background */
static void cell_load(struct table *t, const json_t *session)
{
	const json_t *load = json_object_get(session, "load");
	const char *state = output_field(load, "state", "none");

	if (json_is_true(json_object_get(session, "full")))
		table_cell(t, "complete");
	else if (!strcmp(state, "none"))
		table_cell(t, "-");
	else
		table_cell(t, "%s %s %" PRIu64 "/%" PRIu64, output_field(load, "what", ""), state,
			   output_field_number(load, "pages_done"),
			   output_field_number(load, "pages_total"));
}

static int print_sessions(struct cli *cli, const json_t *sessions)
{
	static const struct table_column columns[] = {
		{"SESSION", 0},	       {"STATE", 0}, {"MODE", 0},	  {"FAULTS", TABLE_RIGHT},
		{"READ", TABLE_RIGHT}, {"LOAD", 0},  {"P99", TABLE_RIGHT}};
	_cleanup_(table_freep) struct table *t = table_new(cli, columns, ARRAY_SIZE(columns));
	char text[16];
	json_t *v;
	size_t i;

	json_array_foreach (sessions, i, v) {
		const char *state = output_field(v, "state", "-");

		table_row(t);
		table_cell(t, "%s", output_field(v, "session", "-"));
		table_cell(t, "%s", state);
		table_colour(t, !strcmp(state, "failed") ? TABLE_RED : TABLE_GREEN);
		table_cell(t, "%s", output_field(v, "mode", "shared"));
		table_cell(t, "%" PRIu64, output_field_number(v, "faults"));
		table_cell(t, "%s", str_format_bytes(output_field_number(v, "bytes_read"), text));
		cell_load(t, v);
		table_cell(t, "%.2f ms", (double)output_field_number(v, "service_ns_p99") / 1e6);
	}
	return table_print(t);
}

static int print_images(struct cli *cli, const json_t *images)
{
	static const struct table_column columns[] = {{"IMAGE", 0},
						      {"SIZE", TABLE_RIGHT},
						      {"RESIDENT", TABLE_RIGHT},
						      {"SESSIONS", TABLE_RIGHT},
						      {"READ", TABLE_RIGHT}};
	_cleanup_(table_freep) struct table *t = table_new(cli, columns, ARRAY_SIZE(columns));
	char text[16];
	json_t *v;
	size_t i;

	json_array_foreach (images, i, v) {
		table_row(t);
		table_cell(t, "%s", output_field(v, "image_id", "-"));
		table_cell(t, "%s", pages(v, "n_pages", text));
		table_cell(t, "%s", pages(v, "resident_pages", text));
		table_cell(t, "%" PRIu64, output_field_number(v, "sessions"));
		table_cell(t, "%s", str_format_bytes(output_field_number(v, "bytes_read"), text));
	}
	return table_print(t);
}

static const char *on_off(const json_t *config, const char *key)
{
	const json_t *v = json_object_get(config, key);

	return v ? json_is_true(v) ? "on" : "off" : "-";
}

static void print_limit(const json_t *config, const char *key, const char *name)
{
	uint64_t bytes = output_field_number(config, key);
	char text[16];

	if (json_object_get(config, key))
		(void)printf(", %s %s", name, bytes ? str_format_bytes(bytes, text) : "none");
}

static int print_pager(struct cli *cli, const json_t *o)
{
	const json_t *stats = json_object_get(o, "stats"), *config = json_object_get(o, "config"),
		     *sessions = json_object_get(stats, "sessions"),
		     *images = json_object_get(stats, "images");
	uint64_t resident = 0;
	char text[16];
	json_t *v;
	size_t i;

	json_array_foreach (images, i, v)
		resident += output_field_number(v, "resident_pages");
	(void)printf("pid %" PRIu64 ", mode %s, %s; %zu sessions, %zu images, %s resident\n",
		     output_field_number(o, "pid"), output_field(o, "mode", "auto"),
		     json_is_true(json_object_get(o, "takesBack"))
			     ? "a new one takes over if it dies"
			     : "its sandboxes are lost if it dies",
		     json_array_size(sessions), json_array_size(images),
		     str_format_bytes(resident * PAGE_BYTES, text));
	if (json_is_object(config)) {
		(void)printf("userfaultfd %s, prefetch %s", on_off(config, "userfaultfd"),
			     on_off(config, "prefetch"));
		print_limit(config, "memory_limit", "memory limit");
		print_limit(config, "image_limit", "per image");
		(void)putchar('\n');
	}
	if (json_array_size(sessions)) {
		(void)putchar('\n');
		if (print_sessions(cli, sessions))
			return CLI_FAILED;
	}
	if (!json_array_size(images))
		return CLI_OK;
	(void)putchar('\n');
	return print_images(cli, images);
}

static int run_pager(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_reply_ struct http_reply reply = {0};
	struct args args;
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);

	if (r)
		return options_exit(r);
	if (request_one(cli, "GET", "/pager", &reply))
		return CLI_FAILED;
	if (!cli->json)
		return print_pager(cli, reply.body);
	output_json(reply.body);
	return CLI_OK;
}

const struct command cmd_pager = {
	.name = "pager",
	.usage = "[OPTIONS]",
	.summary = "Show the pager: its sessions, images and memory",
	.details =
		"A session is a running sandbox. LOAD is what comes in the background; complete "
		"means\n"
		"that the sandbox needs the pager no more. P99 is how long a missing page took.\n",
	.examples = "  dorm pager\n"
		    "  dorm pager --json | jq '.stats.images'\n",
	.run = run_pager,
};

/* ---- pager upgrade
 * ------------------------------------------------------------------------------- */

static int run_pager_upgrade(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_reply_ struct http_reply reply = {0};
	struct args args;
	char text[32];
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);

	if (r)
		return options_exit(r);
	if (request_one(cli, "POST", "/pager/upgrade", &reply))
		return CLI_FAILED;
	if (cli->json)
		output_json(reply.body);
	else
		(void)printf(
			"pager %" PRIu64 " took over from %" PRIu64 " in %s\n",
			output_field_number(reply.body, "pid"),
			output_field_number(reply.body, "previousPid"),
			output_duration(json_number_value(json_object_get(reply.body, "totalMs")),
					text));
	return CLI_OK;
}

const struct command cmd_pager_upgrade = {
	.name = "pager upgrade",
	.usage = "[OPTIONS]",
	.summary = "Replace the pager by the one that is installed now",
	.details = "Sandboxes run on: the new process takes over the memory of each. Threads that\n"
		   "touch a missing page meanwhile wait for some milliseconds.\n",
	.examples = "  dorm pager upgrade\n",
	.run = run_pager_upgrade,
};

/* ---- template warm
 * ------------------------------------------------------------------------------- */

static void print_kept(const char *id, const struct http_reply *reply, double ms)
{
	(void)printf("%s: %" PRIu64 " VMs are kept ready\n", id,
		     output_field_number(reply->body, "vms"));
}

/* VMs of it, ready to be taken; 0 as many as seem right. */
static int keep_vms(struct cli *cli, char *const *id, uint64_t n)
{
	json_t *body = json_pack("{s:I}", "vms", (json_int_t)n);
	const struct request_each keep = {.method = "POST",
					  .before = "/templates/",
					  .after = "/warm",
					  .id_key = "templateID",
					  .doing = "keeping VMs of",
					  .done = print_kept,
					  .body = body};
	int r = request_each(cli, &keep, id, 1);

	json_decref(body);
	return r;
}

static int run_template_warm(struct cli *cli, const struct command *command, int argc, char **argv)
{
	bool full = false;
	uint64_t vms = UINT64_MAX;
	const struct option_spec specs[] = {
		{0, "full", OPTION_FLAG, &full, NULL, "all of its memory, not the working set"},
		{0, "vms", OPTION_NUMBER, &vms, "N",
		 "instead keep N VMs of it ready; 0: as many as are used"},
	};
	_cleanup_free_ char *path = NULL, *doing = NULL;
	_cleanup_job_ struct job job = {.what = "the loading"};
	struct args args;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	if (full && vms != UINT64_MAX)
		return options_usage(command, "--full and --vms exclude each other");
	if (vms != UINT64_MAX)
		return keep_vms(cli, args.pos, vms);
	job.path = path = http_path("/templates/", args.pos[0], "/warm");
	doing = str_printf("warming %s", args.pos[0]);
	job.doing = doing ? doing : "warming";
	job.body = json_pack("{s:b}", "full", (int)full);
	r = job_run(cli, &job);
	if (cli->json)
		job_json(&job, false);
	else if (!r)
		(void)printf("%s is warm\n", args.pos[0]);
	if (!r)
		return CLI_OK;
	output_problem(&job.problem);
	return CLI_FAILED;
}

const struct command cmd_template_warm = {
	.name = "template warm",
	.usage = "[OPTIONS] NAME|ID",
	.summary = "Load a template into memory before its sandboxes need it",
	.details =
		"Loads its working set: what a sandbox touches until it has come to rest. The\n"
		"pager keeps it for a while, or until memory gets short. With --vms dormd keeps\n"
		"that many VMs started and loaded, for creates by just that name, until it ends.\n",
	.examples = "  dorm template warm base\n  dorm template warm --full base\n"
		    "  dorm template warm --vms 4 base\n",
	.missing = "a template (see `dorm template ls`)",
	.min_args = 1,
	.max_args = 1,
	.run = run_template_warm,
};
