/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - the command line `dorm`: finds the command and runs it */
#include <curl/curl.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/complete.h"
#include "cli/options.h"
#include "cli/output.h"

#define DEFAULT_SOCKET "/run/dormouse/dormd.sock"

/* In the order of `dorm --help`; NULL leaves a line free. */
static const struct command *const commands[] = {
	&cmd_template_build,
	&cmd_template_ls,
	&cmd_template_warm,
	&cmd_template_rm,
	NULL,
	&cmd_run,
	&cmd_exec,
	&cmd_cp,
	&cmd_attach,
	&cmd_kill,
	&cmd_ps,
	&cmd_inspect,
	&cmd_memory,
	&cmd_network,
	&cmd_metrics,
	&cmd_logs,
	&cmd_rm,
	NULL,
	&cmd_ports,
	&cmd_port_forward,
	NULL,
	&cmd_sleep,
	&cmd_wake,
	&cmd_fork,
	NULL,
	&cmd_snapshot_create,
	&cmd_snapshot_ls,
	&cmd_snapshot_tree,
	&cmd_snapshot_inspect,
	&cmd_snapshot_verify,
	&cmd_snapshot_compact,
	&cmd_snapshot_rm,
	NULL,
	&cmd_snapshot_export,
	&cmd_snapshot_import,
	&cmd_snapshot_layers,
	NULL,
	&cmd_store_df,
	&cmd_store_check,
	&cmd_store_repair,
	&cmd_store_rewrap,
	NULL,
	&cmd_key_create,
	&cmd_key_ls,
	&cmd_key_rotate,
	&cmd_key_revoke,
	NULL,
	&cmd_info,
	&cmd_drain,
	&cmd_undrain,
	&cmd_top,
	&cmd_events,
	NULL,
	&cmd_pager,
	&cmd_pager_upgrade,
	&cmd_doctor,
	&cmd_version,
};

/* ---- help
 * ---------------------------------------------------------------------------------------- */

static void print_commands(FILE *f, const char *group)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		if (!commands[i] && !group)
			(void)fputc('\n', f);
		else if (commands[i] && (!group || str_has_prefix(commands[i]->name, group)))
			(void)fprintf(f, "  %-18s %s\n", commands[i]->name, commands[i]->summary);
	}
}

static void print_help(void)
{
	(void)fputs("Sandboxes that sleep, wake and fork in milliseconds.\n\n"
		    "Usage: dorm [--socket PATH|--host URL] [--json] COMMAND [ARGUMENT...]\n\n",
		    stdout);
	print_commands(stdout, NULL);
	(void)fputs(
		"\n`dorm COMMAND --help` explains a command, with examples. First steps:\n\n"
		"  dorm doctor                      can this host run sandboxes?\n"
		"  dorm template build              boot a guest once, keep it as the template "
		"'base'\n"
		"  id=$(dorm run base)              a sandbox of your own, awake in milliseconds\n"
		"  dorm exec $id -- uname -a        do something in it\n"
		"  dorm exec -t $id -- sh           a shell in it\n"
		"  dorm sleep $id                   free its memory; it is kept exactly as it is\n"
		"  dorm wake $id                    and goes on\n"
		"  dorm fork -n 20 $id              twenty more that go on from the same point\n\n"
		"dorm talks to dormd over a unix socket: --socket PATH, else $DORM_SOCKET, "
		"else\n" DEFAULT_SOCKET ". With --host URL or $DORM_HOST over TCP, http:// or\n"
		"https://, with the API key in $DORM_API_KEY; $DORM_CA names a file of "
		"certificates\n"
		"to trust instead of the system's.\n\n"
		"Exit codes: 0 done; 1 failed; 2 the command line is wrong. exec and run give the\n"
		"command's own, or 124 (its time limit passed), 125 (dorm or the sandbox failed),\n"
		"126 (cannot be executed), 127 (no such program), 128 + n (ended by signal n).\n",
		stdout);
}

/* ---- finding a command
 * --------------------------------------------------------------------------- */

/* Edit distance, bounded: how many letters to insert, delete or replace; large for long words. */
static size_t distance(const char *a, const char *b)
{
	size_t row[32], n = strlen(b);

	if (n >= ARRAY_SIZE(row))
		return SIZE_MAX;
	for (size_t j = 0; j <= n; j++)
		row[j] = j;
	for (size_t i = 1; *a; a++, i++) {
		size_t diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= n; j++) {
			size_t above = row[j], replace = diagonal + (*a != b[j - 1]);

			row[j] = MIN(above, row[j - 1]) + 1;
			row[j] = MIN(row[j], replace);
			diagonal = above;
		}
	}
	return row[n];
}

static const struct command *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (commands[i] && !strcmp(commands[i]->name, name))
			return commands[i];
	return NULL;
}

static bool is_group(const char *word)
{
	return !strcmp(word, "template") || !strcmp(word, "snapshot") || !strcmp(word, "store") ||
	       !strcmp(word, "pager") || !strcmp(word, "key");
}

static int unknown_command(const char *name, const char *second)
{
	const struct command *best = NULL;
	size_t least = 3; /* more differences than two are no typing error */

	(void)fprintf(stderr, "dorm: there is no command '%s%s%s'\n", name, second ? " " : "",
		      second ? second : "");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		_cleanup_free_ char *whole =
			str_printf("%s%s%s", name, second ? " " : "", second ? second : "");
		size_t d = commands[i] && whole ? distance(whole, commands[i]->name) : SIZE_MAX;

		if (d < least) {
			least = d;
			best = commands[i];
		}
	}
	if (best)
		(void)fprintf(stderr, "hint: did you mean `dorm %s`?\n", best->name);
	else
		(void)fputs("hint: `dorm --help` lists the commands\n", stderr);
	return CLI_USAGE;
}

static int run_group(struct cli *cli, int argc, char **argv)
{
	_cleanup_free_ char *prefix = str_printf("%s ", argv[0]);
	const char *second = argc > 1 ? argv[1] : NULL;
	_cleanup_free_ char *name = str_printf("%s%s", prefix, second ? second : "");
	const struct command *command = name ? find(name) : NULL, *alone = find(argv[0]);
	bool help = second && (!strcmp(second, "--help") || !strcmp(second, "-h"));

	if (command)
		return command->run(cli, command, argc - 1, argv + 1);
	if (alone && (!second || *second == '-')) /* "pager" is a command, too */
		return alone->run(cli, alone, argc, argv);
	if (second && *second != '-' && !strcmp(argv[0], "snapshot"))
		return cmd_snapshot_create.run(cli, &cmd_snapshot_create, argc, argv);
	if (second && *second != '-')
		return unknown_command(argv[0], second);
	if (!help)
		(void)fprintf(stderr, "dorm %s: %s\n", argv[0],
			      second ? "options go behind the whole command" : "do what? One of:");
	print_commands(help ? stdout : stderr, prefix);
	return help ? CLI_OK : CLI_USAGE;
}

static int dispatch(struct cli *cli, int argc, char **argv);

/* `dorm help fork` is `dorm fork --help` */
static int run_help(struct cli *cli, int argc, char **argv)
{
	char help[] = "--help";
	char *words[4] = {0};
	int n = 0;

	if (argc < 2) {
		print_help();
		return CLI_OK;
	}
	words[n++] = argv[1];
	if (is_group(argv[1]) && argc > 2)
		words[n++] = argv[2];
	words[n++] = help;
	return dispatch(cli, n, words);
}

static int dispatch(struct cli *cli, int argc, char **argv)
{
	const struct command *command = find(argv[0]);

	if (!strcmp(argv[0], "__complete"))
		return complete(cli, commands, ARRAY_SIZE(commands), argc - 1, argv + 1);
	if (!strcmp(argv[0], "help"))
		return run_help(cli, argc, argv);
	if (is_group(argv[0]))
		return run_group(cli, argc, argv);
	if (!command)
		return unknown_command(argv[0], NULL);
	return command->run(cli, command, argc, argv);
}

/* ---- the program
 * --------------------------------------------------------------------------------- */

/* Options before the command. Return: how many arguments they are; -1: done, with *@ret_code */
static int global_options(struct cli *cli, int argc, char **argv, int *ret_code)
{
	int i;

	for (i = 1; i < argc && *argv[i] == '-'; i++) {
		const char *value = str_has_prefix(argv[i], "--socket=");

		*ret_code = CLI_OK;
		if (!strcmp(argv[i], "--json")) {
			cli->json = true;
		} else if (value) {
			cli->socket = value;
		} else if ((value = str_has_prefix(argv[i], "--host="))) {
			cli->socket = value;
		} else if ((!strcmp(argv[i], "--socket") || !strcmp(argv[i], "--host")) &&
			   i + 1 < argc) {
			cli->socket = argv[++i];
		} else if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			print_help();
			return -1;
		} else if (!strcmp(argv[i], "--version") || !strcmp(argv[i], "-V")) {
			(void)puts("dorm " DORM_VERSION);
			return -1;
		} else {
			(void)fprintf(stderr,
				      "dorm: %s '%s' %s\nhint: `dorm --help` lists the commands\n",
				      "option", argv[i],
				      !strcmp(argv[i], "--socket") ? "needs a path"
				      : !strcmp(argv[i], "--host") ? "needs a URL"
								   : "is unknown here");
			*ret_code = CLI_USAGE;
			return -1;
		}
	}
	return i;
}

int main(int argc, char **argv)
{
	const char *socket = getenv("DORM_SOCKET"), *host = getenv("DORM_HOST");
	struct cli cli = {.argv0 = argc ? argv[0] : "dorm",
			  .socket = host && *host	? host
				    : socket && *socket ? socket
							: DEFAULT_SOCKET};
	int code = CLI_USAGE, n;

	(void)setlocale(LC_CTYPE, ""); /* widths of characters in tables; numbers stay as in C */
	output_init(&cli);
	n = global_options(&cli, argc, argv, &code);
	if (n < 0)
		return output_finish(code);
	if (n >= argc) {
		(void)fputs("dorm: what shall be done?\nhint: `dorm --help` lists the commands and "
			    "the first "
			    "steps\n",
			    stderr);
		return CLI_USAGE;
	}
	if (curl_global_init(CURL_GLOBAL_DEFAULT)) {
		(void)fputs("dorm: libcurl does not work here\n", stderr);
		return CLI_FAILED;
	}
	code = dispatch(&cli, argc - n, argv + n);
	curl_global_cleanup();
	return output_finish(code);
}
