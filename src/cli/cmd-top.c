/* SPDX-License-Identifier: Apache-2.0 */
/* dorm top */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/http.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/table.h"

#define FIRST_MS 500 /* between the two looks that the first table needs */

/* Two looks at the same counters, and the time between them. */
struct span {
	const json_t *before; /* by id; NULL: no earlier look */
	double seconds;
};

/* How fast a counter moves. Return: false when that is not known */
static bool rate(const struct span *s, const json_t *now, const char *key, double *ret)
{
	const json_t *before = json_object_get(s->before, output_field(now, "sandboxID", "")),
		     *a = json_object_get(before, key), *b = json_object_get(now, key);

	if (!a || !b || s->seconds <= 0 || json_number_value(b) < json_number_value(a))
		return false;
	*ret = (json_number_value(b) - json_number_value(a)) / s->seconds;
	return true;
}

static void bytes_cell(struct table *t, const json_t *o, const char *key)
{
	char text[16];

	if (json_object_get(o, key))
		table_cell(t, "%s", str_format_bytes(output_field_number(o, key), text));
	else
		table_cell(t, "-");
}

static void rate_cell(struct table *t, const struct span *s, const json_t *o, const char *key,
		      double scale)
{
	double n;

	if (rate(s, o, key, &n))
		table_cell(t, "%.1f", n * scale);
	else
		table_cell(t, "-");
}

static void row(struct table *t, const struct span *s, const json_t *v)
{
	char age[32];

	table_row(t);
	table_cell(t, "%s", output_field(v, "sandboxID", "-"));
	table_cell(t, "%s", output_field(v, "templateID", "-"));
	table_cell(t, "%s", output_field(v, "status", "-"));
	table_cell(t, "%s", output_age(v, "startedAt", age));
	rate_cell(t, s, v, "cpuNs", 100 / 1e9);
	bytes_cell(t, v, "ownBytes");
	bytes_cell(t, v, "sharedBytes");
	bytes_cell(t, v, "notLoadedBytes");
	rate_cell(t, s, v, "faults", 1);
	bytes_cell(t, v, "diskBytes");
}

static void print_host(const json_t *host, size_t n)
{
	const json_t *pager = json_object_get(host, "pager");
	char a[16], b[16], c[16], d[16], e[16];

	if (!json_is_object(host))
		return;
	(void)printf("%zu sandboxes   memory %s of %s available   dormd %s   pager ", n,
		     str_format_bytes(output_field_number(host, "memoryAvailableBytes"), a),
		     str_format_bytes(output_field_number(host, "memoryTotalBytes"), b),
		     str_format_bytes(output_field_number(host, "dormdRssBytes"), c));
	if (json_is_object(pager))
		(void)printf("%s, resident images %s\n",
			     str_format_bytes(output_field_number(pager, "ownBytes"), d),
			     str_format_bytes(output_field_number(pager, "residentBytes"), e));
	else
		(void)puts("does not answer");
}

static int print_look(struct cli *cli, const struct span *s, const json_t *look)
{
	static const struct table_column columns[] = {{"ID", 0},
						      {"TEMPLATE", TABLE_CUT},
						      {"STATUS", 0},
						      {"AGE", TABLE_RIGHT},
						      {"CPU%", TABLE_RIGHT},
						      {"OWN", TABLE_RIGHT},
						      {"SHARED", TABLE_RIGHT},
						      {"ABSENT", TABLE_RIGHT},
						      {"FAULTS/S", TABLE_RIGHT},
						      {"DISK", TABLE_RIGHT}};
	_cleanup_(table_freep) struct table *t = table_new(cli, columns, ARRAY_SIZE(columns));
	const json_t *list = json_object_get(look, "sandboxes"), *v;
	size_t i;

	print_host(json_object_get(look, "host"), json_array_size(list));
	json_array_foreach (list, i, v)
		row(t, s, v);
	return table_print(t);
}

/* Sandboxes by their id; NULL without memory */
static json_t *by_id(const json_t *look)
{
	json_t *o = json_object(), *v;
	size_t i;

	json_array_foreach (json_object_get(look, "sandboxes"), i, v)
		(void)json_object_set(o, output_field(v, "sandboxID", "-"), v); /* then no rate */
	return o;
}

/* --json has what can be asked for twice, and the rates, too. */
static void add_rates(const struct span *s, const json_t *look)
{
	json_t *v;
	double n;
	size_t i;

	json_array_foreach (json_object_get(look, "sandboxes"), i, v) {
		if (rate(s, v, "cpuNs", &n))
			(void)json_object_set_new(v, "cpuPct", json_real(n * 100 / 1e9));
		if (rate(s, v, "faults", &n))
			(void)json_object_set_new(v, "faultsPerSecond", json_real(n));
	}
}

static int show(struct cli *cli, const struct span *s, const json_t *look, bool clear)
{
	if (cli->json) {
		add_rates(s, look);
		output_json(look);
		return CLI_OK;
	}
	if (clear)
		(void)fputs("\x1b[H\x1b[2J", stdout);
	return print_look(cli, s, look);
}

/* Look, wait, look, show; again and again, or once. */
static int watch(struct cli *cli, struct http *http, uint64_t every_s, bool once,
		 struct problem *problem)
{
	_cleanup_reply_ struct http_reply before = {0};
	uint64_t then = clock_now_ns();
	int r = http_call(http, "GET", "/sandboxes/usage", NULL, &before, problem);

	for (bool first = true; !r; first = false) {
		struct http_reply now = {0};
		json_auto_t *known = by_id(before.body);
		struct span s = {.before = known};

		clock_sleep_ms(first ? FIRST_MS : (unsigned)every_s * 1000);
		r = http_call(http, "GET", "/sandboxes/usage", NULL, &now, problem);
		s.seconds = (double)(clock_now_ns() - then) / 1e9;
		then = clock_now_ns();
		if (!r && (show(cli, &s, now.body, cli->tty_out && !once) || fflush(stdout))) {
			problem_set(problem, 500, "standard output cannot be written");
			r = -EPIPE;
		}
		http_reply_deinit(&before);
		before = now;
		if (once)
			break;
	}
	return r;
}

static int run_top(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_(http_freep) struct http *http = NULL;
	struct problem problem = PROBLEM_INIT;
	uint64_t every_s = 2;
	bool once = false;
	const struct option_spec specs[] = {
		{'n', "interval", OPTION_NUMBER, &every_s, "SECONDS",
		 "how often to look (default: 2)", 1, 3600},
		{0, "once", OPTION_FLAG, &once, NULL, "look once, and end"},
	};
	struct args args;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	r = http_new(cli->socket, &problem, &http);
	if (!r)
		r = watch(cli, http, every_s, once, &problem);
	if (!r)
		return CLI_OK;
	output_problem(&problem);
	return CLI_FAILED;
}

const struct command cmd_top = {
	.name = "top",
	.usage = "[OPTIONS]",
	.summary = "Show what sandboxes use of this host, again and again",
	.details = "CPU% is of one processor. OWN memory is the sandbox's alone, SHARED is that of "
		   "its\n"
		   "image, ABSENT is what was not loaded yet. FAULTS/S are pages that the pager\n"
		   "served. No guest is asked. Ends with Ctrl-C.\n",
	.examples = "  dorm top\n  dorm top --once\n  dorm top --once --json | jq .host\n",
	.run = run_top,
};
