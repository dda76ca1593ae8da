/* SPDX-License-Identifier: Apache-2.0 */
/* dorm ps, sleep, wake, fork, rm, inspect, memory */
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/describe.h"
#include "cli/http.h"
#include "cli/memory-options.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/process-list.h"
#include "cli/request.h"
#include "cli/sandbox-call.h"
#include "cli/table.h"
#include "cli/trace-file.h"

#define MAX_PAGES 10000

/* ---- ps
 * ------------------------------------------------------------------------------------------ */

#define LIVE_STATES "running,paused"
#define ALL_STATES  "running,paused,failed"

/* All pages of the list. Return: 0, with an array in *@ret; -1 after printing why */
static int list_sandboxes(struct cli *cli, const char *states, json_t **ret)
{
	_cleanup_(http_freep) struct http *http = NULL;
	struct problem problem = PROBLEM_INIT;
	json_t *all = json_array();
	char token[256] = "";
	int r = http_new(cli->socket, &problem, &http);

	for (unsigned page = 0; !r && (!page || *token); page++) {
		_cleanup_free_ char *first = str_printf("/v2/sandboxes?state=%s", states);
		_cleanup_free_ char *before = first ? str_printf("%s&nextToken=", first) : NULL;
		_cleanup_free_ char *next = before ? http_path(before, token, "") : NULL;
		_cleanup_reply_ struct http_reply reply = {0};

		r = next ? http_call(http, "GET", page ? next : first, NULL, &reply, &problem)
			 : -ENOMEM;
		if (!r && (json_array_extend(all, reply.body) || page >= MAX_PAGES)) {
			problem_set(&problem, 500, "dormd's list of sandboxes makes no sense");
			r = -EBADMSG;
		}
		str_copy(token, sizeof(token), reply.next_token);
	}
	if (!r) {
		*ret = all;
		return 0;
	}
	output_problem(&problem);
	json_decref(all);
	return -1;
}

static enum table_colour status_colour(const char *status)
{
	static const struct {
		const char *status;
		enum table_colour colour;
	} colours[] = {{"running", TABLE_GREEN}, {"asleep", TABLE_DIM}, {"failed", TABLE_RED}};

	for (size_t i = 0; i < ARRAY_SIZE(colours); i++)
		if (!strcmp(status, colours[i].status))
			return colours[i].colour;
	return TABLE_YELLOW; /* on its way from one state to another */
}

/* "in 5m"; "-" for what does not expire. @buf holds 32 bytes */
static const char *expires(const json_t *sandbox, const char *status, char buf[32])
{
	char span[32];
	int64_t end;

	if (!strcmp(status, "asleep") || !strcmp(status, "failed") ||
	    output_parse_time(output_field(sandbox, "endAt", ""), &end) < 0)
		return "-";
	(void)snprintf(
		buf, 32, "in %.28s",
		output_span(end - (int64_t)(clock_real_ns() / NSEC_PER_SEC), span)); /* fits */
	return buf;
}

/* Reasons are sentences: below the table there is room for them. */
static void print_failures(const json_t *sandboxes)
{
	const char *lead = "\n";
	json_t *v;
	size_t i;

	json_array_foreach (sandboxes, i, v) {
		const char *failure = output_field(v, "failure", NULL);
		_cleanup_free_ char *text =
			failure ? str_printf("%s failed: %s", output_field(v, "sandboxID", "-"),
					     failure)
				: NULL;

		if (!text)
			continue;
		(void)fputs(lead, stdout);
		output_wrapped(stdout, 2, text);
		lead = "";
	}
}

static int print_sandboxes(struct cli *cli, const json_t *sandboxes)
{
	static const struct table_column columns[] = {{"ID", 0},
						      {"TEMPLATE", TABLE_CUT},
						      {"STATUS", 0},
						      {"MEMORY", TABLE_RIGHT},
						      {"AGE", TABLE_RIGHT},
						      {"EXPIRES", TABLE_RIGHT}};
	_cleanup_(table_freep) struct table *t = table_new(cli, columns, ARRAY_SIZE(columns));
	char age[32], end[32];
	json_t *v, *op;
	size_t i;

	json_array_foreach (sandboxes, i, v) {
		const char *status = output_field(v, "status", output_field(v, "state", "-"));

		table_row(t);
		table_cell(t, "%s", output_field(v, "sandboxID", "-"));
		table_cell(t, "%s", output_field(v, "alias", output_field(v, "templateID", "-")));
		op = json_object_get(v, "operation");
		if (op)
			table_cell(t, "%s (%s: %s)", status, output_field(op, "name", "?"),
				   output_field(op, "step", "?"));
		else
			table_cell(t, "%s", status);
		table_colour(t, status_colour(status));
		table_cell(t, "%" PRIu64 " MiB", output_field_number(v, "memoryMB"));
		table_cell(t, "%s", output_age(v, "startedAt", age));
		table_cell(t, "%s", expires(v, status, end));
	}
	if (table_print(t))
		return CLI_FAILED;
	print_failures(sandboxes);
	return CLI_OK;
}

static int run_ps(struct cli *cli, const struct command *command, int argc, char **argv)
{
	bool all = false;
	const struct option_spec specs[] = {
		{'a', "all", OPTION_FLAG, &all, NULL, "also those that failed, with the reason"},
	};
	json_t *sandboxes = NULL;
	struct args args;
	int code = CLI_OK,
	    r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	if (args.n_pos && all)
		return options_usage(command, "-a is for the list of sandboxes");
	if (args.n_pos && !sandbox_id_is_valid(args.pos[0]))
		return options_usage(command, "'%s' is not a sandbox id", args.pos[0]);
	if (args.n_pos)
		return process_list_show(cli, args.pos[0]);
	if (list_sandboxes(cli, all ? ALL_STATES : LIVE_STATES, &sandboxes))
		return CLI_FAILED;
	if (cli->json)
		output_json(sandboxes);
	else if (!json_array_size(sandboxes))
		(void)fputs("no sandboxes: make one with `dorm run TEMPLATE`\n", stderr);
	else
		code = print_sandboxes(cli, sandboxes);
	json_decref(sandboxes);
	return code;
}

const struct command cmd_ps = {
	.name = "ps",
	.usage = "[OPTIONS] [ID]",
	.summary = "List sandboxes, or the programs that run in one",
	.details = "STATUS is creating, running, pausing, asleep, waking, deleting or failed;\n"
		   "then what it is busy with, and at which step.\n\n"
		   "With an ID lists what clients have started in that sandbox and still runs; "
		   "DIRECTORY is\n"
		   "the one that was asked for. See `dorm attach` and `dorm kill`.\n",
	.examples = "  dorm ps\n  dorm ps -a\n  dorm ps --json | jq -r '.[].sandboxID'\n"
		    "  dorm ps i4k2...\n",
	.max_args = 1,
	.run = run_ps,
};

/* ---- sleep
 * --------------------------------------------------------------------------------------- */

static void print_asleep(const char *id, const struct http_reply *reply, double ms)
{
	char text[32];

	(void)printf("%s is asleep after %s\n", id, output_duration(ms, text));
}

/* 409 also says that it is busy with something else; its state decides. */
static bool is_asleep(struct http *http, const char *id, const struct http_reply *refusal)
{
	_cleanup_free_ char *path = http_path("/sandboxes/", id, "");
	_cleanup_reply_ struct http_reply reply = {0};
	struct problem ignored = PROBLEM_INIT; /* the refusal itself is reported then */

	if (refusal->status != 409 || !path ||
	    http_call(http, "GET", path, NULL, &reply, &ignored) ||
	    strcmp(output_field(reply.body, "state", ""), "paused") != 0)
		return false;
	(void)fprintf(stderr, "%s was asleep already\n", id);
	return true;
}

static int run_sleep(struct cli *cli, const struct command *command, int argc, char **argv)
{
	struct request_each each = {.method = "POST",
				    .before = "/sandboxes/",
				    .after = "/pause",
				    .id_key = "sandboxID",
				    .doing = "putting",
				    .doing_after = " to sleep",
				    .done = print_asleep,
				    .forgive = is_asleep};
	bool no_memory = false;
	const struct option_spec specs[] = {
		{0, "no-memory", OPTION_FLAG, &no_memory, NULL,
		 "keep only what is on its disk: it is booted when it is woken", 0, 0},
	};
	struct args args;
	int code, r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	each.body = no_memory ? json_pack("{s:b}", "memory", 0) : json_object();
	code = request_each(cli, &each, args.pos, args.n_pos);
	json_decref(each.body);
	return code;
}

const struct command cmd_sleep = {
	.name = "sleep",
	.usage = "[OPTIONS] ID...",
	.summary = "Put sandboxes to sleep and free their memory",
	.details = "Only memory that changed is written. One that is asleep already is left as it "
		   "is.\nWithout its memory only a sandbox with a disk can sleep.\n",
	.examples = "  dorm sleep i4k2...\n  dorm ps --json | jq -r '.[].sandboxID' | xargs dorm "
		    "sleep\n",
	.missing = "a sandbox id (see `dorm ps`)",
	.min_args = 1,
	.max_args = SIZE_MAX,
	.run = run_sleep,
};

/* ---- wake
 * ---------------------------------------------------------------------------------------- */

static void print_awake(const char *id, const struct http_reply *reply, double ms)
{
	_cleanup_free_ char *wake = output_wake(reply->body);

	if (reply->status == 200)
		(void)printf("%s was awake already\n", id);
	else
		(void)printf("%s is awake%s%s\n", id, wake && *wake ? " after " : "",
			     wake ? wake : "");
}

static int run_wake(struct cli *cli, const struct command *command, int argc, char **argv)
{
	struct request_each each = {.method = "POST",
				    .before = "/v2/sandboxes/",
				    .after = "/connect",
				    .id_key = "sandboxID",
				    .doing = "waking",
				    .done = print_awake};
	struct memory_options memory = {0};
	uint64_t timeout_s = 0;
	bool reboot = false;
	const struct option_spec specs[] = {
		{'t', "timeout", OPTION_SECONDS, &timeout_s, "TIME",
		 "how long it lives from now on, at least (default: dormd's)", 1, 0},
		{0, "reboot", OPTION_FLAG, &reboot, NULL,
		 "boot it from its disk, and drop the memory that it slept with", 0, 0},
		{0, "trace", OPTION_TEXT, &each.trace_file, "FILE",
		 "write where the time went, for ui.perfetto.dev", 0, 0},
		MEMORY_OPTIONS(memory),
	};
	struct args args;
	int code, r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	if (each.trace_file && args.n_pos > 1)
		return options_usage(command, "--trace is for one sandbox");
	if (each.trace_file)
		each.after = "/connect?trace=1";
	each.body =
		timeout_s ? json_pack("{s:I}", "timeout", (json_int_t)timeout_s) : json_object();
	if (memory_options_add(&memory, each.body)) {
		json_decref(each.body);
		return options_usage(command, "--wait, --mode: not valid UTF-8");
	}
	if (reboot && json_object_set_new(each.body, "memory", json_false()) < 0)
		code = 1; /* no memory, and not what was asked for without it */
	else
		code = request_each(cli, &each, args.pos, args.n_pos);
	json_decref(each.body);
	return code;
}

const struct command cmd_wake = {
	.name = "wake",
	.usage = "[OPTIONS] ID...",
	.summary = "Wake sandboxes",
	.details = "Prints how long it took, to the first answer from inside. With --trace that "
		   "time is\n"
		   "written span by span, in Chrome's trace format.\n",
	.examples = "  dorm wake i4k2...\n  dorm wake --timeout 2h i4k2... i7ab...\n"
		    "  dorm wake --trace wake.json i4k2...\n",
	.missing = "a sandbox id (see `dorm ps`)",
	.min_args = 1,
	.max_args = SIZE_MAX,
	.run = run_wake,
};

/* ---- fork
 * ---------------------------------------------------------------------------------------- */

static int print_forks(struct cli *cli, const json_t *forks, uint64_t n_asked)
{
	size_t i, n_made = 0;
	json_t *v;

	json_array_foreach (forks, i, v) {
		const json_t *sandbox = json_object_get(v, "sandbox"),
			     *error = json_object_get(v, "error");
		struct problem problem = PROBLEM_INIT;

		if (sandbox) {
			n_made++;
			if (!cli->json)
				(void)puts(output_field(sandbox, "sandboxID", "-"));
			continue;
		}
		problem_set(&problem, 500, "fork %zu of %" PRIu64 ": %s", i + 1, n_asked,
			    output_field(error, "message", "failed without a reason"));
		problem_hint(&problem, "%s", output_field(error, "hint", ""));
		output_problem(&problem);
	}
	if (cli->json)
		output_json(forks);
	if (n_made == n_asked)
		return CLI_OK;
	(void)fprintf(stderr, "dorm: %zu of %" PRIu64 " forks were made\n", n_made, n_asked);
	return CLI_FAILED;
}

static int ask_forks(struct cli *cli, const char *id, uint64_t count, uint64_t timeout_s,
		     bool trace, const struct memory_options *memory, struct http_reply *ret)
{
	_cleanup_(http_freep) struct http *http = NULL;
	_cleanup_free_ char *path = http_path("/sandboxes/", id, trace ? "/fork?trace=1" : "/fork");
	json_t *body = json_pack("{s:I}", "count", (json_int_t)count);
	struct problem problem = PROBLEM_INIT;
	struct progress progress;
	int r = http_new(cli->socket, &problem, &http);

	if (timeout_s)
		(void)json_object_set_new(body, "timeout", json_integer((json_int_t)timeout_s));
	if (!r && memory_options_add(memory, body)) {
		problem_set(&problem, 400, "--wait, --mode: not valid UTF-8");
		r = -EILSEQ;
	}
	progress_start(&progress, cli, "forking %s", id);
	if (!r) {
		http_set_progress(http, &progress);
		r = path ? http_call(http, "POST", path, body, ret, &problem) : -ENOMEM;
	}
	progress_end(&progress);
	json_decref(body);
	if (r)
		output_problem(&problem);
	else if (cli->tty_err)
		(void)fprintf(stderr, "forked in %.1f ms\n", progress_elapsed_ms(&progress));
	return r;
}

static int run_fork(struct cli *cli, const struct command *command, int argc, char **argv)
{
	struct memory_options memory = {0};
	uint64_t count = 1, timeout_s = 0;
	const char *trace = NULL;
	const struct option_spec specs[] = {
		{'n', "count", OPTION_NUMBER, &count, "N", "how many (default: 1)", 1, 1000},
		{'t', "timeout", OPTION_SECONDS, &timeout_s, "TIME",
		 "how long each of them lives (default: dormd's)", 1, 0},
		{0, "trace", OPTION_TEXT, &trace, "FILE",
		 "write where the time went, for ui.perfetto.dev"},
		MEMORY_OPTIONS(memory),
	};
	_cleanup_reply_ struct http_reply reply = {0};
	struct args args;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	if (ask_forks(cli, args.pos[0], count, timeout_s, trace, &memory, &reply))
		return CLI_FAILED;
	r = print_forks(cli, reply.body, count);
	return trace && trace_file_write(trace, json_array_get(reply.body, 0)) ? CLI_FAILED : r;
}

const struct command cmd_fork = {
	.name = "fork",
	.usage = "[OPTIONS] ID",
	.summary = "Make new sandboxes that go on from where one is now",
	.details = "The sandbox may be running, and then goes on running, or asleep. Prints the id "
		   "of each\n"
		   "fork. Forks are independent of each other and of their source, which may be "
		   "deleted.\n"
		   "Exit code 1 when any of them could not be made; the others are there all the "
		   "same.\n",
	.examples = "  dorm fork i4k2...\n  dorm fork -n 20 --timeout 30m i4k2...\n",
	.missing = "a sandbox id (see `dorm ps`)",
	.min_args = 1,
	.max_args = 1,
	.run = run_fork,
};

/* ---- rm
 * ------------------------------------------------------------------------------------------ */

static const struct request_each remove_sandbox = {
	.method = "DELETE",
	.before = "/sandboxes/",
	.after = "",
	.id_key = "sandboxID",
	.doing = "deleting",
	.done = request_print_id,
};

static int remove_all(struct cli *cli)
{
	_cleanup_free_ char **ids = NULL;
	json_t *sandboxes = NULL, *v;
	int code = CLI_FAILED;
	size_t i, n = 0;

	if (list_sandboxes(cli, ALL_STATES, &sandboxes))
		return CLI_FAILED;
	ids = calloc(json_array_size(sandboxes) + 1, sizeof(*ids));
	if (ids) {
		json_array_foreach (sandboxes, i, v) {
			const char *id = output_field(v, "sandboxID", NULL);

			if (id)
				ids[n++] = (char *)id; /* only read */
		}
		code = request_each(cli, &remove_sandbox, ids, n);
	}
	json_decref(sandboxes);
	return code;
}

static int run_rm(struct cli *cli, const struct command *command, int argc, char **argv)
{
	bool all = false;
	const struct option_spec specs[] = {
		{'a', "all", OPTION_FLAG, &all, NULL, "delete every sandbox"},
	};
	struct args args;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	if (all && args.n_pos)
		return options_usage(command, "--all and ids exclude each other");
	if (!all && !args.n_pos)
		return options_usage(command, "missing a sandbox id (see `dorm ps`) or --all");
	return all ? remove_all(cli) : request_each(cli, &remove_sandbox, args.pos, args.n_pos);
}

const struct command cmd_rm = {
	.name = "rm",
	.usage = "[OPTIONS] ID... | --all",
	.summary = "Delete sandboxes, running or asleep",
	.details =
		"Snapshots and forks of a deleted sandbox stay. Prints each id that was deleted.\n",
	.examples = "  dorm rm i4k2... i7ab...\n  dorm rm --all\n",
	.max_args = SIZE_MAX,
	.run = run_rm,
};

/* ---- inspect, memory
 * ----------------------------------------------------------------------------- */

static int show(struct cli *cli, const struct command *command, int argc, char **argv,
		const char *after)
{
	_cleanup_reply_ struct http_reply reply = {0};
	struct args args;
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);

	if (r)
		return options_exit(r);
	if (request_named(cli, "GET", "/sandboxes/", args.pos[0], after, &reply))
		return CLI_FAILED;
	if (!cli->json)
		return describe_object(cli, reply.body);
	output_json(reply.body);
	return CLI_OK;
}

static int run_inspect(struct cli *cli, const struct command *command, int argc, char **argv)
{
	return show(cli, command, argc, argv, "?repair=1");
}

const struct command cmd_inspect = {
	.name = "inspect",
	.usage = "[OPTIONS] ID",
	.summary = "Show all that is known about a sandbox",
	.examples = "  dorm inspect i4k2...\n  dorm inspect --json i4k2... | jq .metadata\n",
	.missing = "a sandbox id (see `dorm ps`)",
	.min_args = 1,
	.max_args = 1,
	.run = run_inspect,
};

static int run_memory(struct cli *cli, const struct command *command, int argc, char **argv)
{
	return show(cli, command, argc, argv, "/memory");
}

const struct command cmd_memory = {
	.name = "memory",
	.usage = "[OPTIONS] ID",
	.summary = "Show where each part of a sandbox's memory is",
	.examples = "  dorm memory i4k2...\n",
	.missing = "a sandbox id (see `dorm ps`)",
	.min_args = 1,
	.max_args = 1,
	.run = run_memory,
};
