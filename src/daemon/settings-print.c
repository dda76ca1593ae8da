/* SPDX-License-Identifier: Apache-2.0 */
/* settings-print.c - the table of settings, as people and programs want to read it */
#include "daemon/settings.h"

#include <string.h>

#include "base/mem.h"

#define HELP_INDENT 28
#define HELP_WIDTH  92

/* ---- words on lines
 * ------------------------------------------------------------------------------ */

struct wrap {
	FILE *f;
	const char *prefix; /* of each line but the first */
	size_t at, begin;   /* column; where lines begin */
	size_t width;
};

static void wrap_word(struct wrap *w, const char *word, size_t len)
{
	if (w->at > w->begin && w->at + 1 + len > w->width) {
		fprintf(w->f, "\n%s", w->prefix);
		w->at = w->begin;
	} else if (w->at > w->begin) {
		fputc(' ', w->f);
		w->at++;
	}
	fprintf(w->f, "%.*s", (int)len, word);
	w->at += len;
}

static void wrap_text(struct wrap *w, const char *text)
{
	while (*text) {
		size_t n = strcspn(text, " ");

		if (n)
			wrap_word(w, text, n);
		text += n + (text[n] == ' ');
	}
}

/* ---- --help
 * -------------------------------------------------------------------------------------- */

static const char usage[] =
	"usage: dormd [OPTIONS]\n"
	"\n"
	"Runs sandboxes that sleep, wake and fork. Talk to it with `dorm` or over HTTP.\n";

static const char notes[] =
	"\n"
	"All but the last group can be set in " SETTINGS_DEFAULT_FILE " too, as NAME = VALUE.\n"
	"The file counts more than defaults, the environment more than the file, an option most.\n"
	"A flag can be given as --FLAG=off.\n"
	"\n";

static const char more_notes[] =
	"DORM_QEMU (the QEMU program), DORM_LOG=error|warn|info|debug, DORM_TRACE=1.";

static const char status[] =
	"\nExit status: 0 ended in good order; 1 could not start or serve; 2 wrong usage.\n";

static void help_row(const struct setting *o, FILE *f)
{
	static const char spaces[] = "                              ";
	struct wrap w = {.f = f,
			 .prefix = spaces + sizeof(spaces) - 1 - HELP_INDENT,
			 .at = HELP_INDENT,
			 .begin = HELP_INDENT,
			 .width = HELP_WIDTH};
	int n = fprintf(f, "  --%s%s%s", o->name, o->arg ? " " : "", o->arg ?: "");

	if (n + 2 > HELP_INDENT)
		fprintf(f, "\n%s", w.prefix);
	else
		fprintf(f, "%*s", HELP_INDENT - n, "");
	wrap_text(&w, o->help);
	if (o->kind == SETTING_CHOICE && o->choices) {
		char buf[256];

		wrap_text(&w, "One of");
		wrap_text(&w, settings_allowed(o, buf));
	}
	if (o->def && o->kind != SETTING_FLAG) {
		char text[128];

		snprintf(text, sizeof(text), "[%s]", o->def);
		wrap_text(&w, text);
	}
	fputc('\n', f);
}

static void help_environment(FILE *f)
{
	struct wrap w = {.f = f, .prefix = "", .width = HELP_WIDTH};
	char text[64];

	wrap_text(&w, "Environment:");
	for (size_t i = 0; i < settings_count; i++) {
		const struct setting *o = &settings_table[i];

		if (!o->env)
			continue;
		snprintf(text, sizeof(text), "%s%s%s,", o->env, o->env_on ? "=" : "",
			 o->env_on ?: "");
		wrap_text(&w, text);
	}
	wrap_text(&w, more_notes);
}

void settings_print_help(FILE *f)
{
	fputs(usage, f);
	for (size_t i = 0; i < settings_count; i++) {
		if (settings_table[i].head)
			fprintf(f, "\n%s:\n", settings_table[i].head);
		help_row(&settings_table[i], f);
	}
	fputs(notes, f);
	help_environment(f);
	fputs(status, f);
}

/* ---- --print-config
 * ------------------------------------------------------------------------------ */

static void print_origin(const struct settings *s, const struct setting *o,
			 const struct setting_value *v, FILE *f)
{
	switch (v->origin) {
	case ORIGIN_DEFAULT:
		fputs("default\n", f);
		break;
	case ORIGIN_FILE:
		fprintf(f, "%s:%u\n", s->file, v->line);
		break;
	case ORIGIN_ENVIRONMENT:
		fprintf(f, "%s\n", o->env);
		break;
	case ORIGIN_OPTION:
		fprintf(f, "--%s\n", o->name);
		break;
	}
}

void settings_print_values(const struct settings *s, FILE *f)
{
	for (size_t i = 0; i < settings_count; i++) {
		const struct setting *o = &settings_table[i];
		const struct setting_value *v = &s->values[i];

		if (o->this_run)
			continue;
		if (!v->n)
			fprintf(f, "# %s is not set\n", o->name);
		for (unsigned k = 0; k < v->n; k++) {
			int n = fprintf(f, "%s = %s", o->name, v->text[k]);

			fprintf(f, "%*s # ", n < 44 ? 44 - n : 0, "");
			print_origin(s, o, v, f);
		}
	}
}

/* ---- --describe
 * ---------------------------------------------------------------------------------- */

static void describe_conf(FILE *f)
{
	fprintf(f,
		"# dormd.conf - the configuration of dormd\n"
		"#\n"
		"# Everything here is commented out and shows the default, or an example where "
		"there\n"
		"# is none. Options of the command line and variables of the environment count "
		"more\n"
		"# than this file. `dormd --check-config` says whether it is right, `dormd\n"
		"# --print-config` what holds. dormd reads it when it starts: `systemctl restart\n"
		"# dormd` is safe, sandboxes go on running. See dormd.conf(5).\n");
	for (size_t i = 0; i < settings_count; i++) {
		const struct setting *o = &settings_table[i];
		struct wrap w = {.f = f, .prefix = "# ", .at = 2, .begin = 2, .width = 88};
		char buf[256];

		if (o->this_run)
			continue;
		if (o->head)
			fprintf(f, "\n# ---- %s\n", o->head);
		fputs("\n# ", f);
		wrap_text(&w, o->help);
		if (o->kind != SETTING_TEXT && o->kind != SETTING_LIST) {
			fprintf(f, "\n# Value: %s.", settings_allowed(o, buf));
		}
		fprintf(f, "\n#%s = %s\n", o->name, o->def ?: o->example);
	}
}

/* Text of a manual page: a dash that is one, and no request by accident. */
static void man_text(FILE *f, const char *s)
{
	for (; *s; s++) {
		if (*s == '-' || *s == '\\')
			fputc('\\', f);
		fputc(*s, f);
	}
}

/* A sentence a line, as manual pages are written. */
static void man_sentences(FILE *f, const char *s)
{
	if (*s == '.' || *s == '\'')
		fputs("\\&", f);
	for (const char *end = strstr(s, ". "); end; end = strstr(s, ". ")) {
		for (; s <= end; s++) {
			if (*s == '-' || *s == '\\')
				fputc('\\', f);
			fputc(*s, f);
		}
		fputc('\n', f);
		s = end + 2;
		if (*s == '.' || *s == '\'')
			fputs("\\&", f);
	}
	man_text(f, s);
	fputc('\n', f);
}

static void man_row(const struct setting *o, bool option, FILE *f)
{
	char buf[256];

	fprintf(f, ".TP\n%s", o->arg ? ".BI \"" : ".B \"");
	man_text(f, option ? "--" : "");
	man_text(f, o->name);
	if (o->arg && option)
		fprintf(f, " \" \"%s", o->arg);
	else if (!option)
		fprintf(f, o->arg ? " = \" \"%s" : " = on%s", o->arg ?: "");
	fputs("\"\n", f);
	man_sentences(f, o->help);
	if (o->kind == SETTING_CHOICE) {
		fputs("One of ", f);
		man_text(f, settings_allowed(o, buf));
		fputs(".\n", f);
	}
	if (o->def && o->kind != SETTING_FLAG) {
		fputs("Default: ", f);
		man_text(f, o->def);
		fputs(".\n", f);
	}
	if (o->env)
		fprintf(f, "Environment: %s%s%s.\n", o->env, o->env_on ? "=" : "", o->env_on ?: "");
}

static void man_rows(bool option, FILE *f)
{
	for (size_t i = 0; i < settings_count; i++) {
		const struct setting *o = &settings_table[i];

		if (o->this_run && !option)
			break;
		if (o->head) {
			fputs(".SS ", f);
			man_text(f, o->head);
			fputc('\n', f);
		}
		man_row(o, option, f);
	}
}

static void describe_man(FILE *f)
{
	man_rows(true, f);
}

static void describe_man_conf(FILE *f)
{
	man_rows(false, f);
}

static void describe_markdown(FILE *f)
{
	fputs("| setting | value | default | what |\n| --- | --- | --- | --- |\n", f);
	for (size_t i = 0; i < settings_count; i++) {
		const struct setting *o = &settings_table[i];
		char buf[256];

		if (o->this_run)
			continue;
		fprintf(f, "| `%s` | %s | %s%s%s | %s |\n", o->name,
			o->kind == SETTING_TEXT || o->kind == SETTING_LIST
				? o->arg
				: settings_allowed(o, buf),
			o->def ? "`" : "", o->def ?: "", o->def ? "`" : "", o->help);
	}
}

/* "--codec value", "--jail choice auto on off", "--root DIR": what shells complete from */
static void describe_words(FILE *f)
{
	for (size_t i = 0; i < settings_count; i++) {
		const struct setting *o = &settings_table[i];

		fprintf(f, "--%s", o->name);
		if (o->choices) {
			fputs(" choice", f);
			for (unsigned k = 0; o->choices[k]; k++)
				fprintf(f, " %s", o->choices[k]);
		} else if (o->arg) {
			fprintf(f, " %s",
				!strcmp(o->arg, "DIR") || !strcmp(o->arg, "PATH") ? o->arg
										  : "value");
		}
		fputc('\n', f);
	}
}

void settings_describe(const char *format, FILE *f)
{
	static const struct {
		const char *name;
		void (*print)(FILE *f);
	} formats[] = {{"conf", describe_conf},
		       {"man", describe_man},
		       {"man-conf", describe_man_conf},
		       {"markdown", describe_markdown},
		       {"words", describe_words}};

	for (unsigned i = 0; i < ARRAY_SIZE(formats); i++)
		if (!strcmp(formats[i].name, format))
			formats[i].print(f);
}
