/* SPDX-License-Identifier: Apache-2.0 */
/* dorm logs */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/http.h"
#include "cli/options.h"
#include "cli/output.h"

#define EVERY_MS 1000

static void print_entry(const json_t *entry)
{
	const char *source = output_field(json_object_get(entry, "fields"), "source", "");

	if (strcmp(source, "console") != 0) {
		output_text(stdout, output_field(entry, "timestamp", "-"));
		(void)fputs(" -- ", stdout);
	}
	output_text(stdout, output_field(entry, "message", ""));
	(void)fputc('\n', stdout);
}

static bool is_console(const json_t *entry)
{
	return !strcmp(output_field(json_object_get(entry, "fields"), "source", ""), "console");
}

/* Entries of one kind, in order. */
static json_t *only(const json_t *entries, bool console)
{
	json_t *some = json_array(), *v;
	size_t i;

	json_array_foreach (entries, i, v)
		if (is_console(v) == console)
			(void)json_array_append(some, v); /* left out without memory */
	return some;
}

/* How many of @now were there before: the longest end of @before that @now begins with. */
static size_t overlap(const json_t *before, const json_t *now)
{
	size_t n = json_array_size(before), m = json_array_size(now);

	for (size_t skip = n > m ? n - m : 0; skip < n; skip++) {
		size_t i = 0;

		while (skip + i < n &&
		       json_equal(json_object_get(json_array_get(before, skip + i), "message"),
				  json_object_get(json_array_get(now, i), "message")))
			i++;
		if (skip + i == n)
			return i;
	}
	return 0;
}

static void print_new(const json_t *before, const json_t *now, bool console)
{
	json_auto_t *a = only(before, console), *b = only(now, console);

	for (size_t i = overlap(a, b); i < json_array_size(b); i++)
		print_entry(json_array_get(b, i));
}

static int run_logs(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_(http_freep) struct http *http = NULL;
	_cleanup_reply_ struct http_reply before = {0};
	_cleanup_free_ char *path = NULL;
	struct problem problem = PROBLEM_INIT;
	bool follow = false;
	const struct option_spec specs[] = {
		{'f', "follow", OPTION_FLAG, &follow, NULL, "go on with what comes"},
	};
	struct args args;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	if (follow && cli->json)
		return options_usage(command, "--json shows what there is, so not with --follow");
	path = http_path("/v2/sandboxes/", args.pos[0], "/logs?limit=10000");
	r = path ? http_new(cli->socket, &problem, &http) : -ENOMEM;
	while (!r) {
		struct http_reply now = {0};

		r = http_call(http, "GET", path, NULL, &now, &problem);
		if (!r && cli->json)
			output_json(json_object_get(now.body, "logs"));
		for (int console = 1; !r && !cli->json && console >= 0; console--)
			print_new(json_object_get(before.body, "logs"),
				  json_object_get(now.body, "logs"), console);
		http_reply_deinit(&before);
		before = now;
		if (!follow || fflush(stdout))
			break;
		clock_sleep_ms(EVERY_MS);
	}
	if (!r)
		return CLI_OK;
	if (!problem_is_set(&problem))
		problem_errno(&problem, r, "asking for the logs");
	output_problem(&problem);
	return CLI_FAILED;
}

const struct command cmd_logs = {
	.name = "logs",
	.usage = "[OPTIONS] ID",
	.summary = "Show a guest's console, and what happened to its sandbox",
	.details =
		"The last 64 KiB of the console are kept while a sandbox sleeps, and when its VM "
		"has\nended. Events follow, with their times.\n",
	.examples = "  dorm logs i4k2...\n  dorm logs --follow i4k2...\n",
	.missing = "a sandbox id (see `dorm ps`)",
	.min_args = 1,
	.max_args = 1,
	.run = run_logs,
};
