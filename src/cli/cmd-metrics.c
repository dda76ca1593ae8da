/* SPDX-License-Identifier: Apache-2.0 */
/* dorm metrics */
#include <inttypes.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/http.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/request.h"
#include "cli/table.h"

/* "12.3 MiB of 64.0 MiB" */
static void cell_of(struct table *t, const json_t *v, const char *used, const char *total)
{
	char a[16], b[16];

	table_cell(t, "%s of %s", str_format_bytes(output_field_number(v, used), a),
		   str_format_bytes(output_field_number(v, total), b));
}

static int print_samples(struct cli *cli, const json_t *samples)
{
	static const struct table_column columns[] = {{"TIME", 0},
						      {"CPU", TABLE_RIGHT},
						      {"CPUS", TABLE_RIGHT},
						      {"MEMORY", TABLE_RIGHT},
						      {"CACHE", TABLE_RIGHT},
						      {"DISK", TABLE_RIGHT}};
	_cleanup_(table_freep) struct table *t = table_new(cli, columns, ARRAY_SIZE(columns));
	char text[16];
	json_t *v;
	size_t i;

	json_array_foreach (samples, i, v) {
		table_row(t);
		table_cell(t, "%s", output_field(v, "timestamp", "-"));
		table_cell(t, "%.1f %%", json_number_value(json_object_get(v, "cpuUsedPct")));
		table_cell(t, "%" PRIu64, output_field_number(v, "cpuCount"));
		cell_of(t, v, "memUsed", "memTotal");
		table_cell(t, "%s", str_format_bytes(output_field_number(v, "memCache"), text));
		cell_of(t, v, "diskUsed", "diskTotal");
	}
	return table_print(t);
}

static int run_metrics(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_reply_ struct http_reply reply = {0};
	struct args args;
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);

	if (r)
		return options_exit(r);
	if (request_named(cli, "GET", "/sandboxes/", args.pos[0], "/metrics", &reply))
		return CLI_FAILED;
	if (!cli->json)
		return print_samples(cli, reply.body);
	output_json(reply.body);
	return CLI_OK;
}

const struct command cmd_metrics = {
	.name = "metrics",
	.usage = "[OPTIONS] ID",
	.summary = "Show what a sandbox uses of its processors, memory and disk",
	.details = "Asks the guest now, unless it sleeps, and shows the answer below those to\n"
		   "earlier questions: the last 600, at most one a second. Nothing is measured\n"
		   "when nobody asks.\n",
	.examples = "  dorm metrics i4k2...\n  dorm metrics --json i4k2... | jq .[-1].memUsed\n",
	.missing = "a sandbox id (see `dorm ps`)",
	.min_args = 1,
	.max_args = 1,
	.run = run_metrics,
};
