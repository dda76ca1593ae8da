/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/options.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

#define MAX_SPECS   16
#define MAX_SECONDS (100ull * 366 * 86400)

/* Values that getopt_long() gives for long options: above every letter, + the index of the spec. */
#define LONG_BASE 256
enum { LONG_HELP = LONG_BASE + MAX_SPECS, LONG_SOCKET, LONG_JSON };

static uint64_t unit_seconds(char unit)
{
	switch (unit) {
	case 'd':
		return 86400;
	case 'h':
		return 3600;
	case 'm':
		return 60;
	case 's':
	case 0:
		return 1;
	default:
		return 0;
	}
}

int options_seconds(const char *s, uint64_t *ret)
{
	uint64_t total = 0;

	if (!*s)
		return -EINVAL;
	while (*s) {
		uint64_t v = 0, unit;

		if (!isdigit((unsigned char)*s))
			return -EINVAL;
		for (; isdigit((unsigned char)*s); s++) {
			v = v * 10 + (uint64_t)(*s - '0');
			if (v > MAX_SECONDS)
				return -ERANGE;
		}
		unit = unit_seconds(*s);
		/* a number without a unit must stand alone: "1h30" could mean anything */
		if (!unit || (!*s && total))
			return -EINVAL;
		total += v * unit;
		if (total > MAX_SECONDS)
			return -ERANGE;
		if (*s)
			s++;
	}
	*ret = total;
	return 0;
}

int options_exit(int outcome)
{
	return outcome == OPTIONS_E_HELP ? CLI_OK : CLI_USAGE;
}

int options_usage(const struct command *command, const char *fmt, ...)
{
	va_list ap;

	(void)fprintf(stderr, "dorm %s: ", command->name);
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	(void)fprintf(stderr,
		      "\nusage: dorm %s %s\nhint: `dorm %s --help` explains it, with examples\n",
		      command->name, command->usage, command->name);
	return CLI_USAGE;
}

static void print_option(char letter, const char *name, const char *arg, const char *help)
{
	char left[64];

	(void)snprintf(left, sizeof(left), "%c%c%c --%s%s%s", letter ? '-' : ' ',
		       letter ? letter : ' ', letter ? ',' : ' ', name, arg ? " " : "",
		       arg ? arg : ""); /* ours: short */
	(void)printf("  %-26s %s\n", left, help);
}

static void print_help(const struct command *command, const struct option_spec *specs, size_t n)
{
	(void)printf("%s\n\nUsage: dorm %s %s\n", command->summary, command->name, command->usage);
	if (command->details)
		(void)printf("\n%s", command->details);
	(void)printf("\nOptions:\n");
	for (size_t i = 0; i < n; i++)
		print_option(specs[i].letter, specs[i].name, specs[i].arg, specs[i].help);
	if (!command->no_json)
		print_option(0, "json", NULL, "print the answer as JSON, and nothing else");
	print_option(0, "socket", "PATH", "dormd's socket (default: $DORM_SOCKET, then");
	(void)printf("  %-26s /run/dormouse/dormd.sock)\n", "");
	print_option(0, "host", "URL", "dormd over TCP (default: $DORM_HOST)");
	print_option('h', "help", NULL, "show this text");
	(void)printf("\nExamples:\n%s", command->examples);
}

static int add_pair(const struct command *command, const struct option_spec *spec, const char *text)
{
	const char *equals = strchr(text, '=');
	json_t *value;

	if (!equals || equals == text)
		return options_usage(command, "--%s wants KEY=VALUE, not '%s'", spec->name, text);
	value = json_string(equals + 1);
	if (!value ||
	    json_object_setn_new(*(json_t **)spec->dest, text, (size_t)(equals - text), value))
		return options_usage(command, "--%s: '%s' is not valid UTF-8", spec->name, text);
	return 0;
}

static int add_value(const struct command *command, const struct option_spec *spec,
		     const char *text)
{
	json_t *value = json_string(text);

	if (!value || json_array_append_new(*(json_t **)spec->dest, value))
		return options_usage(command, "--%s: '%s' is not valid UTF-8", spec->name, text);
	return 0;
}

static int set_number(const struct command *command, const struct option_spec *spec,
		      const char *text)
{
	uint64_t v = 0;
	int r;

	if (spec->kind == OPTION_SECONDS)
		r = options_seconds(text, &v);
	else if (spec->kind == OPTION_MIB)
		r = str_to_bytes(text, &v);
	else
		r = str_to_u64(text, &v);
	if (r < 0)
		return options_usage(command, "--%s: '%s' is not %s", spec->name, text,
				     spec->kind == OPTION_SECONDS ? "a time such as 90s, 10m or 1h"
				     : spec->kind == OPTION_MIB	  ? "a size such as 512M or 2G"
								  : "a number");
	if (spec->kind == OPTION_MIB) {
		if (v % (1 << 20))
			return options_usage(command, "--%s: '%s' is not a whole number of MiB",
					     spec->name, text);
		v >>= 20;
	}
	if (v < spec->min || (spec->max && v > spec->max))
		return options_usage(command,
				     spec->max ? "--%s: '%s' is not from %" PRIu64 " to %" PRIu64
					       : "--%s: '%s' is less than %" PRIu64,
				     spec->name, text, spec->min, spec->max);
	*(uint64_t *)spec->dest = v;
	return 0;
}

static int set_option(const struct command *command, const struct option_spec *spec,
		      const char *text)
{
	switch (spec->kind) {
	case OPTION_FLAG:
		*(bool *)spec->dest = true;
		return 0;
	case OPTION_TEXT:
		*(const char **)spec->dest = text;
		return 0;
	case OPTION_PAIRS:
		return add_pair(command, spec, text);
	case OPTION_LIST:
		return add_value(command, spec, text);
	case OPTION_NUMBER:
	case OPTION_SECONDS:
	case OPTION_MIB:
		return set_number(command, spec, text);
	}
	return 0;
}

struct getopt_tables {
	struct option longs[MAX_SPECS + 5];
	char shorts[2 * MAX_SPECS + 8];
};

static void fill_tables(const struct option_spec *specs, size_t n, bool stop,
			struct getopt_tables *t)
{
	char *s = t->shorts;
	size_t i;

	assert(n <= MAX_SPECS);
	*t = (struct getopt_tables){0};
	if (stop)
		*s++ = '+'; /* the first argument ends the options */
	*s++ = ':';	    /* tell a missing value from an unknown option */
	*s++ = 'h';
	for (i = 0; i < n; i++) {
		t->longs[i] = (struct option){specs[i].name,
					      specs[i].arg ? required_argument : no_argument, NULL,
					      LONG_BASE + (int)i};
		if (!specs[i].letter)
			continue;
		*s++ = specs[i].letter;
		if (specs[i].arg)
			*s++ = ':';
	}
	t->longs[i++] = (struct option){"help", no_argument, NULL, LONG_HELP};
	t->longs[i++] = (struct option){"socket", required_argument, NULL, LONG_SOCKET};
	t->longs[i++] = (struct option){"host", required_argument, NULL, LONG_SOCKET};
	t->longs[i] = (struct option){"json", no_argument, NULL, LONG_JSON};
}

static const struct option_spec *find_spec(const struct option_spec *specs, size_t n, int c)
{
	for (size_t i = 0; i < n; i++)
		if (c == LONG_BASE + (int)i || (specs[i].letter && c == specs[i].letter))
			return &specs[i];
	return NULL;
}

static int bad_option(const struct command *command, int c, char **argv)
{
	/* optopt holds a letter; for long options argv[optind - 1] is what was written */
	if (c == ':' && optopt && optopt < LONG_BASE)
		return options_usage(command, "option -%c needs a value", optopt);
	if (c == ':')
		return options_usage(command, "option %s needs a value", argv[optind - 1]);
	if (optopt && optopt < LONG_BASE)
		return options_usage(command, "unknown option -%c", optopt);
	if (optopt)
		return options_usage(command, "option %s takes no value", argv[optind - 1]);
	return options_usage(command, "unknown option %s", argv[optind - 1]);
}

static int parse_all(struct cli *cli, const struct command *command,
		     const struct option_spec *specs, size_t n, bool stop, int argc, char **argv)
{
	struct getopt_tables t;
	int c;

	fill_tables(specs, n, stop, &t);
	opterr = 0;
	optind = 0; /* glibc: begin anew */
	while ((c = getopt_long(argc, argv, t.shorts, t.longs, NULL)) != -1) {
		const struct option_spec *spec = find_spec(specs, n, c);

		if (c == 'h' || c == LONG_HELP) {
			print_help(command, specs, n);
			return OPTIONS_E_HELP;
		}
		if (c == LONG_SOCKET)
			cli->socket = optarg;
		else if (c == LONG_JSON)
			cli->json = true;
		else if (!spec)
			return bad_option(command, c, argv);
		else if (set_option(command, spec, optarg))
			return OPTIONS_E_USAGE;
	}
	return 0;
}

static int check_args(const struct command *command, const struct args *a, bool stopped)
{
	if (a->n_pos < command->min_args)
		return options_usage(command, "missing %s", command->missing);
	if (a->n_pos > command->max_args)
		return options_usage(command, "'%s' is one argument too many%s",
				     a->pos[command->max_args],
				     command->takes_command ? "; put -- before the command" : "");
	for (size_t i = 0; i < a->n_pos; i++)
		if (!*a->pos[i])
			return options_usage(command, "an argument is empty");
	if (command->needs_command && !a->n_cmd)
		return options_usage(command, "missing a command to run");
	if (stopped && **a->cmd == '-')
		return options_usage(
			command, "put %s before the sandbox id, or -- before the command", *a->cmd);
	return 0;
}

static size_t count_after_dashes(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--"))
			return (size_t)(argc - i - 1);
	return SIZE_MAX; /* there is none */
}

int options_parse(struct cli *cli, const struct command *command, const struct option_spec *specs,
		  size_t n_specs, int argc, char **argv, struct args *ret)
{
	size_t n_after = count_after_dashes(argc, argv), n_left;
	/* `exec ID ls -l`: the first argument ends the options, so that -l is not ours */
	bool dashes = n_after != SIZE_MAX, stop = command->needs_command && !dashes;
	struct args a = {0};
	int r;

	if (cli->look_at_options) {
		cli->look_at_options(cli->completion, command, specs, n_specs);
		return OPTIONS_E_HELP;
	}
	r = parse_all(cli, command, specs, n_specs, stop, argc, argv);

	if (r)
		return r;
	if (cli->json && command->no_json)
		return options_usage(command, "--json makes no sense here");
	/* getopt_long() has moved what is not an option to the end, what followed -- last of all */
	n_left = (size_t)(argc - optind);
	a.pos = argv + optind;
	if (command->takes_command && dashes)
		a.n_cmd = MIN(n_after, n_left);
	else if (stop && n_left > command->max_args)
		a.n_cmd = n_left - command->max_args;
	a.n_pos = n_left - a.n_cmd;
	a.cmd = a.pos + a.n_pos;
	if (check_args(command, &a, stop))
		return OPTIONS_E_USAGE;
	*ret = a;
	return 0;
}
