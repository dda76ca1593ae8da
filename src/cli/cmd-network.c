/* SPDX-License-Identifier: Apache-2.0 */
/* dorm network */
#include <errno.h>

#include "base/mem.h"
#include "cli/describe.h"
#include "cli/http.h"
#include "cli/network-options.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/request.h"

/* Replace all of it. Consumes @body. Return: 0; -1 after printing why */
static int change(struct cli *cli, const char *id, json_t *body)
{
	_cleanup_(http_freep) struct http *http = NULL;
	_cleanup_free_ char *path = http_path("/sandboxes/", id, "/network");
	_cleanup_reply_ struct http_reply reply = {0};
	struct problem problem = PROBLEM_INIT;
	int r = path && body ? http_new(cli->socket, &problem, &http) : -ENOMEM;

	if (!r)
		r = http_call(http, "PUT", path, body, &reply, &problem);
	json_decref(body);
	if (!r)
		return 0;
	problem_errno(&problem, r < 0 ? r : -EIO, "sandbox %s", id);
	output_problem(&problem);
	return -1;
}

static int show(struct cli *cli, const char *id)
{
	_cleanup_reply_ struct http_reply reply = {0};

	if (request_named(cli, "GET", "/sandboxes/", id, "/network", &reply))
		return CLI_FAILED;
	if (!cli->json)
		return describe_object(cli, reply.body);
	output_json(reply.body);
	return CLI_OK;
}

static int run_network(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_(network_options_deinit) struct network_options o = NETWORK_OPTIONS_INIT;
	bool off = false;
	const struct option_spec specs[] = {
		NETWORK_OPTIONS(o),
		{0, "off", OPTION_FLAG, &off, NULL, "end its network"},
	};
	struct args args;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	if (off && network_options_given(&o))
		return options_usage(command, "--off and the other options exclude each other");
	if (off)
		r = change(cli, args.pos[0], json_pack("{s:b}", "allow_internet_access", 0));
	else if (network_options_given(&o))
		r = change(cli, args.pos[0], network_options_change(&o));
	return r ? CLI_FAILED : show(cli, args.pos[0]);
}

const struct command cmd_network = {
	.name = "network",
	.usage = "[OPTIONS] ID",
	.summary = "Show or change whom a sandbox may talk to",
	.details =
		"Without options only shows it. Options replace all of what was, for existing\n"
		"connections too. Private and link-local networks and this host's addresses need\n"
		"an --allow that names them; 0.0.0.0/0 means the internet and opens none of "
		"them.\n",
	.examples = "  dorm network i4k2...\n"
		    "  dorm network --network i4k2...\n"
		    "  dorm network --no-internet --allow 192.168.7.0/24:5432 i4k2...\n"
		    "  dorm network --off i4k2...\n",
	.missing = "a sandbox id (see `dorm ps`)",
	.min_args = 1,
	.max_args = 1,
	.run = run_network,
};
