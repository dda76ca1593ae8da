/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/complete.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "cli/http.h"
#include "cli/options.h"
#include "cli/output.h"

struct completion {
	const char *typed;  /* the last word */
	const char *before; /* the one before it; "" */
	const struct command *command;
	bool wants_options; /* print them; otherwise: is `before` one with a value? */
	bool value;	    /* it is */
};

static void offer(const struct completion *c, const char *word, const char *what)
{
	if (!str_has_prefix(word, c->typed))
		return;
	output_text(stdout, word);
	(void)fputc('\t', stdout);
	output_text(stdout, what);
	(void)fputc('\n', stdout);
}

/* ---- commands
 * ------------------------------------------------------------------------------------ */

/* The first word of each command, once: those of a group follow each other. */
static void offer_commands(const struct completion *c, const struct command *const *commands,
			   size_t n)
{
	char last[32] = "";

	for (size_t i = 0; i < n; i++) {
		char word[32];
		size_t len;

		if (!commands[i])
			continue;
		len = strcspn(commands[i]->name, " ");
		str_copy(word, MIN(sizeof(word), len + 1), commands[i]->name);
		if (strcmp(word, last) != 0)
			offer(c, word, commands[i]->summary);
		str_copy(last, sizeof(last), word);
	}
}

static void offer_second(const struct completion *c, const struct command *const *commands,
			 size_t n, const char *group)
{
	for (size_t i = 0; i < n; i++) {
		const char *rest = commands[i] ? str_has_prefix(commands[i]->name, group) : NULL;

		if (rest && *rest == ' ')
			offer(c, rest + 1, commands[i]->summary);
	}
}

static const struct command *find(const struct command *const *commands, size_t n,
				  const char *first, const char *second)
{
	_cleanup_free_ char *both = second ? str_printf("%s %s", first, second) : strdup(first);

	for (size_t i = 0; both && i < n; i++)
		if (commands[i] && !strcmp(commands[i]->name, both))
			return commands[i];
	return NULL;
}

static bool is_group(const struct command *const *commands, size_t n, const char *word)
{
	for (size_t i = 0; i < n; i++) {
		const char *rest = commands[i] ? str_has_prefix(commands[i]->name, word) : NULL;

		if (rest && *rest == ' ')
			return true;
	}
	return false;
}

/* ---- options
 * ------------------------------------------------------------------------------------- */

static bool is_before(const struct completion *c, const struct option_spec *spec)
{
	const char *name = str_has_prefix(c->before, "--");

	if (name)
		return !strcmp(name, spec->name);
	return spec->letter && c->before[0] == '-' && c->before[1] == spec->letter && !c->before[2];
}

/* options_parse() calls it instead of parsing: it alone knows a command's options. */
static void look_at_options(struct completion *c, const struct command *command,
			    const struct option_spec *specs, size_t n)
{
	char word[64];

	for (size_t i = 0; i < n; i++) {
		if (!c->wants_options) {
			c->value |= specs[i].arg && is_before(c, &specs[i]);
			continue;
		}
		(void)snprintf(word, sizeof(word), "--%s", specs[i].name); /* ours: short */
		offer(c, word, specs[i].help);
	}
	if (!c->wants_options) {
		c->value |= !strcmp(c->before, "--socket") || !strcmp(c->before, "--host");
		return;
	}
	if (!command->no_json)
		offer(c, "--json", "print the answer as JSON, and nothing else");
	offer(c, "--socket", "dormd's socket");
	offer(c, "--host", "dormd over TCP: http://HOST:PORT, https://HOST:PORT");
	offer(c, "--help", "explain the command, with examples");
}

static void ask_for_options(struct cli *cli, struct completion *c, bool print)
{
	char name[] = "";
	char *argv[] = {name, NULL};

	c->wants_options = print;
	cli->completion = c;
	cli->look_at_options = look_at_options;
	(void)c->command->run(cli, c->command, 1, argv); /* ends where it would parse */
	cli->look_at_options = NULL;
}

/* ---- what dormd has
 * ------------------------------------------------------------------------------ */

/* Return: an array, new reference; NULL when there is no telling */
static json_t *list(struct cli *cli, const char *path)
{
	_cleanup_(http_freep) struct http *http = NULL;
	_cleanup_reply_ struct http_reply reply = {0};
	struct problem p = PROBLEM_INIT; /* nobody wants to read it in the middle of a line */

	if (http_new(cli->socket, &p, &http) || http_call(http, "GET", path, NULL, &reply, &p))
		return NULL;
	return json_is_array(reply.body) ? json_incref(reply.body) : NULL;
}

static void offer_sandboxes(struct cli *cli, const struct completion *c)
{
	const char *name = c->command->name;
	bool colon = !strcmp(name, "cp");
	json_auto_t *all =
		list(cli, !strcmp(name, "wake")	   ? "/v2/sandboxes?state=paused&limit=1000"
			  : !strcmp(name, "sleep") ? "/v2/sandboxes?state=running&limit=1000"
						   : "/v2/sandboxes?state=running,paused,"
						     "failed&limit=1000");
	json_t *v;
	size_t i;

	json_array_foreach (all, i, v) {
		char word[80], what[128];

		(void)snprintf(word, sizeof(word), "%s%s", output_field(v, "sandboxID", ""),
			       colon ? ":" : "");
		(void)snprintf(what, sizeof(what), "%s, %s",
			       output_field(v, "status", output_field(v, "state", "")),
			       output_field(v, "alias", output_field(v, "templateID", "")));
		offer(c, word, what);
	}
}

static void offer_templates(struct cli *cli, const struct completion *c)
{
	json_auto_t *all = list(cli, "/templates");
	json_t *v;
	size_t i;

	json_array_foreach (all, i, v) {
		const char *name = output_field_first(v, "names", NULL);

		offer(c, name ? name : output_field_first(v, "aliases", ""), "template");
	}
}

static void offer_snapshots(struct cli *cli, const struct completion *c)
{
	json_auto_t *all = list(cli, "/snapshots");
	json_t *v;
	size_t i;

	json_array_foreach (all, i, v)
		offer(c, output_field(v, "snapshotID", ""),
		      output_field_first(v, "names", "snapshot"));
}

/* Which of them, the command's name and usage say. */
static void offer_arguments(struct cli *cli, const struct completion *c, size_t n_before)
{
	const char *name = c->command->name, *usage = c->command->usage;

	if (n_before && !strstr(usage, "ID...") && strcmp(name, "cp") != 0)
		return;
	if (str_has_prefix(name, "template ") || !strcmp(name, "run"))
		offer_templates(cli, c);
	if (!strcmp(name, "run") ||
	    (str_has_prefix(name, "snapshot ") && strcmp(name, "snapshot create") != 0)) {
		if (strcmp(name, "snapshot layers") && strcmp(name, "snapshot import"))
			offer_snapshots(cli, c);
	} else if (!str_has_prefix(name, "template ") && strstr(usage, "ID")) {
		offer_sandboxes(cli, c);
	}
}

/* ---- all of it
 * ----------------------------------------------------------------------------------- */

/* Options before the command. Return: how many words they are */
static int skip_global(struct cli *cli, int n, char **words)
{
	int i = 0;

	while (i < n - 1 && *words[i] == '-') {
		if ((!strcmp(words[i], "--socket") || !strcmp(words[i], "--host")) && i + 1 < n - 1)
			cli->socket = words[++i];
		i++;
	}
	return i;
}

static void offer_global(const struct completion *c)
{
	offer(c, "--socket", "dormd's socket");
	offer(c, "--host", "dormd over TCP: http://HOST:PORT, https://HOST:PORT");
	offer(c, "--json", "print the answer as JSON");
	offer(c, "--help", "list the commands");
	offer(c, "--version", "print the version");
}

/* The words behind the command; the last is being typed. */
static void complete_arguments(struct cli *cli, struct completion *c, int n, char **words)
{
	size_t n_before = 0;

	for (int i = 0; i < n - 1; i++) {
		if (!strcmp(words[i], "--"))
			return; /* a command of the sandbox's */
		if (!strcmp(words[i], "--socket") || !strcmp(words[i], "--host"))
			cli->socket = words[i + 1];
		n_before += *words[i] != '-';
	}
	if (n > 1)
		c->before = words[n - 2];
	if (*c->before == '-') {
		ask_for_options(cli, c, false);
		if (c->value)
			return;
	}
	if (*c->typed == '-')
		ask_for_options(cli, c, true);
	else
		offer_arguments(cli, c, n_before);
}

int complete(struct cli *cli, const struct command *const *commands, size_t n_commands, int n_words,
	     char **words)
{
	struct completion c = {.before = ""};
	int skip = skip_global(cli, n_words, words);

	words += skip;
	n_words -= skip;
	if (n_words < 1)
		return CLI_OK;
	c.typed = words[n_words - 1];
	if (n_words == 1 && *c.typed == '-') {
		offer_global(&c);
		return CLI_OK;
	}
	if (n_words == 1) {
		offer_commands(&c, commands, n_commands);
		offer(&c, "help", "explain a command");
		return CLI_OK;
	}
	if (!strcmp(words[0], "help") && n_words > 1) {
		words++;
		n_words--;
		if (n_words == 1)
			offer_commands(&c, commands, n_commands);
		else if (n_words == 2)
			offer_second(&c, commands, n_commands, words[0]);
		return CLI_OK;
	}
	if (n_words == 2 && is_group(commands, n_commands, words[0])) {
		offer_second(&c, commands, n_commands, words[0]);
		if (!find(commands, n_commands, words[0], NULL))
			return CLI_OK;
	}
	skip = 1;
	if (n_words > 2 && (c.command = find(commands, n_commands, words[0], words[1])))
		skip = 2;
	c.command = c.command ? c.command : find(commands, n_commands, words[0], NULL);
	if (c.command)
		complete_arguments(cli, &c, n_words - skip, words + skip);
	return CLI_OK;
}
