/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * options.h - options of a command as a table, which is parsed and printed by --help
 *
 *     const struct option_spec specs[] = {
 *             {'t', "timeout", OPTION_SECONDS, &timeout, "TIME", "how long the sandbox may live"},
 *     };
 *     r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);
 *     if (r)
 *             return options_exit(r);
 *
 * --help, --socket and --json belong to every command and need no entry. Options may stand anywhere
 * before `--`, except where a command line of somebody else follows (takes_command without `--`).
 * Not reentrant (getopt_long(3) keeps its position in globals).
 */
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/cli.h"

enum option_kind {
	OPTION_FLAG,	/* bool */
	OPTION_TEXT,	/* const char *; borrowed from argv */
	OPTION_NUMBER,	/* uint64_t */
	OPTION_SECONDS, /* uint64_t; "90", "90s", "10m", "1h30m" */
	OPTION_MIB,	/* uint64_t, in MiB; "512M", "2G" */
	OPTION_PAIRS,	/* json_t *, an object that each KEY=VALUE is added to */
	OPTION_LIST,	/* json_t *, an array that each value is added to */
};

struct option_spec {
	char letter; /* 0 without one */
	const char *name;
	enum option_kind kind;
	void *dest;	 /* of the type above; untouched when the option is absent */
	const char *arg; /* what the value is called in --help; NULL for a flag */
	const char *help;
	uint64_t min, max; /* of a number; max 0: no limit */
};

/* What is left after the options. Borrowed from argv. */
struct args {
	char **pos;
	size_t n_pos;
	char **cmd; /* command and arguments, for takes_command */
	size_t n_cmd;
};

/* outcomes of options_parse() */
enum {
	OPTIONS_E_HELP = 1,  /* help was asked for and printed */
	OPTIONS_E_USAGE = 2, /* the error was printed */
};

/**
 * options_parse() - parse @argv (argv[0] is the command's name) and check the number of arguments
 * @argv: may be reordered
 * Return: 0; OPTIONS_E_HELP; OPTIONS_E_USAGE
 */
int options_parse(struct cli *cli, const struct command *command, const struct option_spec *specs,
		  size_t n_specs, int argc, char **argv, struct args *ret);

/** options_exit() - the exit code for an outcome of options_parse() */
int options_exit(int outcome);

/**
 * options_usage() - complain about a command line
 * Prints "dorm NAME: ...", the usage line and where to read more. Return: CLI_USAGE
 */
int options_usage(const struct command *command, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/**
 * options_seconds() - a duration: numbers with d, h, m or s behind them, or seconds alone
 * Return: 0; -EINVAL; -ERANGE above a hundred years
 */
int options_seconds(const char *s, uint64_t *ret);
