/* SPDX-License-Identifier: Apache-2.0 */
/* dorm drain, undrain, info */
#include <inttypes.h>
#include <stdio.h>

#include "base/mem.h"
#include "cli/http.h"
#include "cli/job.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/request.h"

/* ---- info
 * ---------------------------------------------------------------------------------------- */

static void print_host(const json_t *o)
{
	const json_t *n = json_object_get(o, "sandboxes");

	(void)printf("dormd %s, %s\n%" PRIu64 " running, %" PRIu64 " asleep, %" PRIu64
		     " changing, %" PRIu64 " failed; %" PRIu64 " operations under way\n",
		     output_field(o, "version", "?"),
		     json_is_true(json_object_get(o, "draining")) ? "draining: takes no new work"
								  : "takes work",
		     output_field_number(n, "running"), output_field_number(n, "asleep"),
		     output_field_number(n, "changing"), output_field_number(n, "failed"),
		     output_field_number(o, "operations"));
}

static int show_host(struct cli *cli, const struct command *command, const char *method,
		     const char *path, int argc, char **argv)
{
	_cleanup_reply_ struct http_reply reply = {0};
	struct args args;
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);

	if (r)
		return options_exit(r);
	if (request_one(cli, method, path, &reply))
		return CLI_FAILED;
	if (cli->json)
		output_json(reply.body);
	else
		print_host(reply.body);
	return CLI_OK;
}

static int run_info(struct cli *cli, const struct command *command, int argc, char **argv)
{
	return show_host(cli, command, "GET", "/host", argc, argv);
}

const struct command cmd_info = {
	.name = "info",
	.usage = "[OPTIONS]",
	.summary = "Show what this host is doing: how many sandboxes, does it take work",
	.examples = "  dorm info\n  dorm info --json | jq .draining\n",
	.run = run_info,
};

/* ---- drain
 * --------------------------------------------------------------------------------------- */

static void print_findings(const json_t *findings)
{
	json_t *v;
	size_t i;

	json_array_foreach (findings, i, v) {
		output_text(stderr, output_field(v, "sandboxID", "?"));
		(void)fputs(" is not asleep: ", stderr);
		output_text(stderr, output_field(v, "message", "?"));
		(void)fputc('\n', stderr);
	}
}

static void print_drained(const struct job *job, bool sleep)
{
	uint64_t failed = output_field_number(job->result, "failed");

	if (!sleep)
		(void)puts("drained: nothing is under way, sandboxes run on; `dorm undrain` takes "
			   "work again");
	else
		(void)printf("drained: %" PRIu64 " sandboxes put to sleep%s\n",
			     output_field_number(job->result, "slept"),
			     failed ? ", the others run on" : "; the host may go down");
}

static int run_drain(struct cli *cli, const struct command *command, int argc, char **argv)
{
	bool sleep = false;
	uint64_t timeout_s = 300;
	const struct option_spec specs[] = {
		{0, "sleep", OPTION_FLAG, &sleep, NULL, "then put every sandbox to sleep"},
		{'t', "timeout", OPTION_SECONDS, &timeout_s, "TIME", "how long to try (5m)", 1,
		 86400},
	};
	_cleanup_job_ struct job job = {
		.path = "/host/drain", .doing = "draining", .what = "the draining"};
	struct args args;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	job.body = json_pack("{s:s, s:I}", "mode", sleep ? "sleep" : "wait", "timeout",
			     (json_int_t)timeout_s);
	r = job_run(cli, &job);
	if (!cli->json)
		print_findings(job.findings);
	if (cli->json)
		job_json(&job, true);
	else if (!r)
		print_drained(&job, sleep);
	if (r)
		output_problem(&job.problem);
	return r || output_field_number(job.result, "failed") ? CLI_FAILED : CLI_OK;
}

const struct command cmd_drain = {
	.name = "drain",
	.usage = "[OPTIONS]",
	.summary = "Take no new work; with --sleep put all sandboxes to sleep",
	.details = "From now on creates, wakes, forks and template builds are refused with a 503, "
		   "and\n/readyz says so, for load balancers. Returns when what was under way has "
		   "ended.\nWith --sleep every sandbox is asleep then, and the host may be "
		   "restarted: all are\nthere afterwards. A dormd that starts takes work again.\n",
	.examples = "  dorm drain\n  dorm drain --sleep --timeout 15m && systemctl reboot\n",
	.run = run_drain,
};

static int run_undrain(struct cli *cli, const struct command *command, int argc, char **argv)
{
	return show_host(cli, command, "DELETE", "/host/drain", argc, argv);
}

const struct command cmd_undrain = {
	.name = "undrain",
	.usage = "[OPTIONS]",
	.summary = "Take work again after a drain",
	.details = "Sandboxes that were put to sleep stay asleep until somebody wakes them.\n",
	.examples = "  dorm undrain\n",
	.run = run_undrain,
};
