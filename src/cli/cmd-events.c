/* SPDX-License-Identifier: Apache-2.0 */
/* dorm events */
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/http.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/sandbox-call.h"

/* Members that have a place of their own in the line. */
static bool is_common(const char *key)
{
	static const char *const common[] = {"id", "time", "type", "sandboxID"};

	for (size_t i = 0; i < ARRAY_SIZE(common); i++)
		if (!strcmp(key, common[i]))
			return true;
	return false;
}

static void print_member(const char *key, json_t *v)
{
	_cleanup_free_ char *text = json_is_string(v) ? NULL : json_dumps(v, JSON_ENCODE_ANY);

	(void)printf("  %s=", key);
	output_text(stdout, text ? text : json_is_string(v) ? json_string_value(v) : "?");
}

/* "2026-01-02T03:04:05.678Z sandbox.state      i4k2...  state=running  previous=waking" */
static void print_event(json_t *event)
{
	const char *key;
	json_t *v;

	output_padded(stdout, output_field(event, "time", "-"), 24);
	(void)fputc(' ', stdout);
	output_padded(stdout, output_field(event, "type", "-"), 18);
	if (json_object_get(event, "sandboxID")) {
		(void)fputc(' ', stdout);
		output_text(stdout, output_field(event, "sandboxID", "-"));
	}
	json_object_foreach (event, key, v)
		if (!is_common(key))
			print_member(key, v);
	(void)fputc('\n', stdout);
}

static int visit(void *userdata, json_t *event)
{
	const struct cli *cli = userdata;

	if (!strcmp(output_field(event, "type", ""), "alive"))
		return 0;
	if (cli->json) {
		(void)json_dumpf(event, stdout, JSON_COMPACT); /* checked by output_finish() */
		(void)fputc('\n', stdout);
	} else {
		print_event(event);
	}
	return fflush(stdout) || ferror(stdout) ? -EPIPE : 0;
}

/* Fresh memory; NULL without it. */
static char *make_path(const char *sandbox, const char *type, bool follow)
{
	_cleanup_free_ char *kind = type ? http_path("&type=", type, "") : NULL;

	return type && !kind ? NULL
			     : str_printf("/events?format=lines&after=0&follow=%s%s%s%s",
					  follow ? "true" : "false", sandbox ? "&sandboxID=" : "",
					  sandbox ?: "", kind ?: "");
}

static int run_events(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_(http_freep) struct http *http = NULL;
	_cleanup_free_ char *path = NULL;
	const char *sandbox = NULL, *type = NULL;
	struct problem problem = PROBLEM_INIT;
	bool follow = false;
	const struct option_spec specs[] = {
		{'f', "follow", OPTION_FLAG, &follow, NULL, "go on with what happens from now on"},
		{0, "sandbox", OPTION_TEXT, &sandbox, "ID", "only what concerns this sandbox"},
		{0, "type", OPTION_TEXT, &type, "TYPE",
		 "only these: sandbox.state, or sandbox for all that begin so"},
	};
	struct args args;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	if (sandbox && !sandbox_id_is_valid(sandbox))
		return options_usage(command, "'%s' is not a sandbox id", sandbox);
	path = make_path(sandbox, type, follow);
	r = path ? http_new(cli->socket, &problem, &http) : -ENOMEM;
	if (!r)
		r = http_lines(http, "GET", path, NULL, visit, cli, &problem);
	if (!r && follow) {
		problem_set(&problem, 503, "dormd has stopped");
		r = -EPIPE;
	}
	if (r && !problem_is_set(&problem))
		problem_set(&problem, 500, "%s",
			    r < 0 ? strerrordesc_np(-r) : "the answer was cut");
	if (r)
		output_problem(&problem);
	return r ? CLI_FAILED : CLI_OK;
}

const struct command cmd_events = {
	.name = "events",
	.usage = "[OPTIONS]",
	.summary = "Show what happens on this host",
	.details = "Shows what dormd remembers, the last 4096 events since it started, and with\n"
		   "--follow what comes. With --json prints one object a line.\n",
	.examples = "  dorm events\n  dorm events --follow --sandbox i4k2...\n"
		    "  dorm events --json --type sandbox.state | jq -r .state\n",
	.run = run_events,
};
