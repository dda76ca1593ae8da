/* SPDX-License-Identifier: Apache-2.0 */
/* dorm key create, ls, rotate, revoke */
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/http.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/request.h"
#include "cli/table.h"

/* Consumes @body. Return: 0; -1 after printing why */
static int post(struct cli *cli, const char *path, json_t *body, struct http_reply *ret)
{
	_cleanup_(http_freep) struct http *http = NULL;
	struct problem problem = PROBLEM_INIT;
	int r = path && body ? http_new(cli->socket, &problem, &http) : -ENOMEM;

	if (!r)
		r = http_call(http, "POST", path, body, ret, &problem);
	json_decref(body);
	if (!r)
		return 0;
	problem_errno(&problem, r < 0 ? r : -EIO, "API key");
	output_problem(&problem);
	return -1;
}

/* The secret alone on standard output, so that it can be put where it belongs; what else there is
 * to say goes to standard error. */
static int print_secret(struct cli *cli, const struct http_reply *reply)
{
	const char *until = output_field(reply->body, "oldKeyValidUntil", NULL);

	if (cli->json) {
		output_json(reply->body);
		return CLI_OK;
	}
	output_text(stdout, output_field(reply->body, "key", ""));
	(void)putchar('\n');
	(void)fflush(stdout); /* keep the order; checked by output_finish() */
	(void)fputs("API key ", stderr);
	output_text(stderr, output_field(reply->body, "id", "?"));
	(void)fputs(", scope ", stderr);
	output_text(stderr, output_field(reply->body, "scope", "?"));
	(void)fputs(": this is the only time that it is shown\n", stderr);
	if (until) {
		(void)fputs("the old one remains valid until ", stderr);
		output_text(stderr, until);
		(void)fputc('\n', stderr);
	}
	return CLI_OK;
}

/* "20/s" or "20". Return: 0; -EINVAL */
static int parse_rate(const char *text, uint64_t *ret)
{
	size_t len = strlen(text);
	char number[24];

	if (str_has_suffix(text, "/s"))
		len -= 2;
	if (len >= sizeof(number))
		return -EINVAL;
	memcpy(number, text, len);
	number[len] = 0;
	return str_to_u64(number, ret) < 0 || !*ret ? -EINVAL : 0;
}

static int run_key_create(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_reply_ struct http_reply reply = {0};
	uint64_t expires = 0, max_sandboxes = 0, max_memory = 0, rate = 0;
	const char *scope = "use", *rate_text = NULL;
	const struct option_spec specs[] = {
		{'s', "scope", OPTION_TEXT, &scope, "read|use|admin",
		 "what it allows (default: use)"},
		{0, "max-sandboxes", OPTION_NUMBER, &max_sandboxes, "N",
		 "how many of its sandboxes may be awake at a time", 1, 1000000},
		{0, "max-memory", OPTION_MIB, &max_memory, "SIZE",
		 "how much memory those may have together"},
		{0, "rate", OPTION_TEXT, &rate_text, "N/s", "how many requests per second"},
		{0, "expires", OPTION_SECONDS, &expires, "TIME", "after which it is not valid"},
	};
	struct args args;
	json_t *body;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	if (rate_text && parse_rate(rate_text, &rate) < 0)
		return options_usage(command, "--rate: '%s' is not a number per second, as 20/s",
				     rate_text);
	body = json_pack("{s:s, s:s, s:I, s:I, s:I}", "name", args.pos[0], "scope", scope,
			 "maxSandboxes", (json_int_t)max_sandboxes, "maxMemoryMB",
			 (json_int_t)max_memory, "rate", (json_int_t)rate);
	if (body && expires)
		(void)json_object_set_new(body, "expires", json_integer((json_int_t)expires));
	return post(cli, "/keys", body, &reply) ? CLI_FAILED : print_secret(cli, &reply);
}

const struct command cmd_key_create = {
	.name = "key create",
	.usage = "[OPTIONS] NAME",
	.summary = "Make an API key for clients over TCP, and print it",
	.details =
		"read sees what there is, without tokens; use makes sandboxes and snapshots and\n"
		"sees its own only; admin may do everything, as the unix socket. The key is shown\n"
		"once: only a digest of it is kept.\n",
	.examples = "  dorm key create ci --max-sandboxes 20 --max-memory 16G --rate 50/s\n"
		    "  dorm key create prometheus --scope read >/etc/prometheus/dorm.key\n"
		    "  export E2B_API_KEY=$(dorm key create me --expires 30d)\n",
	.missing = "a name for it",
	.min_args = 1,
	.max_args = 1,
	.run = run_key_create,
};

/* "20" or "-" */
static void cell_limit(struct table *t, const json_t *v, const char *name, const char *unit)
{
	uint64_t n = output_field_number(v, name);

	if (n)
		table_cell(t, "%" PRIu64 "%s", n, unit);
	else
		table_cell(t, "-");
}

static int run_key_ls(struct cli *cli, const struct command *command, int argc, char **argv)
{
	static const struct table_column columns[] = {{"ID", 0},
						      {"NAME", TABLE_CUT},
						      {"SCOPE", 0},
						      {"SANDBOXES", TABLE_RIGHT},
						      {"MEMORY", TABLE_RIGHT},
						      {"RATE", TABLE_RIGHT},
						      {"AGE", TABLE_RIGHT},
						      {"USED", TABLE_RIGHT},
						      {"EXPIRES", 0}};
	_cleanup_reply_ struct http_reply reply = {0};
	_cleanup_(table_freep) struct table *t = NULL;
	struct args args;
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);
	char text[32];
	json_t *v;
	size_t i;

	if (r)
		return options_exit(r);
	if (request_one(cli, "GET", "/keys", &reply))
		return CLI_FAILED;
	if (cli->json) {
		output_json(reply.body);
		return CLI_OK;
	}
	t = table_new(cli, columns, ARRAY_SIZE(columns));
	json_array_foreach (reply.body, i, v) {
		table_row(t);
		table_cell(t, "%s", output_field(v, "id", "-"));
		table_cell(t, "%s", output_field(v, "name", "-"));
		table_cell(t, "%s", output_field(v, "scope", "-"));
		cell_limit(t, v, "maxSandboxes", "");
		cell_limit(t, v, "maxMemoryMB", "M");
		cell_limit(t, v, "rate", "/s");
		table_cell(t, "%s", output_age(v, "createdAt", text));
		table_cell(t, "%s", output_age(v, "lastUsedAt", text));
		table_cell(t, "%s", output_field(v, "expiresAt", "-"));
	}
	return table_print(t);
}

const struct command cmd_key_ls = {
	.name = "key ls",
	.usage = "[OPTIONS]",
	.summary = "List the API keys, without their secrets",
	.details = "USED is how long ago a key was last shown to this dormd.\n",
	.examples = "  dorm key ls\n",
	.run = run_key_ls,
};

static int run_key_rotate(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_reply_ struct http_reply reply = {0};
	_cleanup_free_ char *path = NULL;
	uint64_t grace = 3600;
	const struct option_spec specs[] = {
		{0, "grace", OPTION_SECONDS, &grace, "TIME",
		 "how long the old one remains valid (default: 1h; 0: not at all)"},
	};
	struct args args;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	path = http_path("/keys/", args.pos[0], "/rotate");
	r = post(cli, path, json_pack("{s:I}", "grace", (json_int_t)grace), &reply);
	return r ? CLI_FAILED : print_secret(cli, &reply);
}

const struct command cmd_key_rotate = {
	.name = "key rotate",
	.usage = "[OPTIONS] ID",
	.summary = "Give an API key a new secret, and print it",
	.details =
		"It keeps its scope, its limits and its sandboxes. The old secret remains valid\n"
		"for the grace period; one that was replaced earlier ends at once.\n",
	.examples = "  dorm key rotate k4f...\n  dorm key rotate --grace 0 k4f...\n",
	.missing = "a key's id (see `dorm key ls`)",
	.min_args = 1,
	.max_args = 1,
	.run = run_key_rotate,
};

static int run_key_revoke(struct cli *cli, const struct command *command, int argc, char **argv)
{
	const struct request_each each = {.method = "DELETE",
					  .before = "/keys/",
					  .after = "",
					  .id_key = "id",
					  .doing = "revoking",
					  .done = request_print_id};
	struct args args;
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);

	return r ? options_exit(r) : request_each(cli, &each, args.pos, args.n_pos);
}

const struct command cmd_key_revoke = {
	.name = "key revoke",
	.usage = "[OPTIONS] ID...",
	.summary = "End API keys, at once",
	.details = "Requests under way come to their end. Sandboxes and snapshots that were made "
		   "with\n"
		   "a key stay, for administrators.\n",
	.examples = "  dorm key revoke k4f...\n",
	.missing = "a key's id (see `dorm key ls`)",
	.min_args = 1,
	.max_args = SIZE_MAX,
	.run = run_key_revoke,
};
