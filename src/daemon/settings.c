/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/settings.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/str.h"

#define OPTION_FIRST 256 /* getopt_long() gives OPTION_FIRST + the row */

/* ---- a value
 * ------------------------------------------------------------------------------------- */

static void *place(struct settings *s, const struct setting *o)
{
	return (char *)s + o->offset;
}

const struct setting *settings_find(const char *name)
{
	for (size_t i = 0; i < settings_count; i++)
		if (!strcmp(settings_table[i].name, name))
			return &settings_table[i];
	return NULL;
}

static const char *list_choices(const char *const *choices, char buf[256])
{
	size_t n = 0;

	for (unsigned i = 0; choices[i] && n < 256; i++)
		n += (size_t)snprintf(buf + n, 256 - n, "%s%s",
				      i == 0	       ? ""
				      : choices[i + 1] ? ", "
						       : " or ",
				      choices[i]);
	return buf;
}

const char *settings_allowed(const struct setting *o, char buf[256])
{
	const char * or = o->zero ? ", or " : "", *zero = o->zero ?: "";

	switch (o->kind) {
	case SETTING_FLAG:
		return "on or off";
	case SETTING_NUMBER:
		snprintf(buf, 256, "a number from %ju to %ju%s%s", (uintmax_t)o->min,
			 (uintmax_t)o->max, or, zero);
		return buf;
	case SETTING_SECONDS:
		snprintf(buf, 256, "a number of seconds from %ju to %ju", (uintmax_t)o->min,
			 (uintmax_t)o->max);
		return buf;
	case SETTING_BYTES:
		snprintf(buf, 256, "a size of at least %juM, such as 512M or 8G%s%s",
			 (uintmax_t)(o->min >> 20), or, zero);
		return buf;
	case SETTING_CHOICE:
		return list_choices(o->choices, buf);
	case SETTING_OWN:
		return o->allowed;
	case SETTING_TEXT:
	case SETTING_LIST:
		break;
	}
	return "a text of one character or more";
}

static int take_flag(bool *flag, const char *value)
{
	if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
		return -EINVAL;
	*flag = !strcmp(value, "on");
	return 0;
}

/* Is it 0, in a place where that means something? */
static bool is_zero(const struct setting *o, const char *value)
{
	return o->zero && (!strcmp(value, o->zero) || !strcmp(value, "0"));
}

static int take_number(const struct setting *o, const char *value, unsigned unit, unsigned *ret)
{
	uint64_t v = 0;

	if (!is_zero(o, value)) {
		if (str_to_u64(value, &v) < 0 || v < o->min || v > o->max)
			return -EINVAL;
	}
	*ret = (unsigned)v * unit;
	return 0;
}

static int take_bytes(const struct setting *o, const char *value, uint64_t *ret)
{
	uint64_t v = 0;

	if (!is_zero(o, value)) {
		if (str_to_bytes(value, &v) < 0 || v < o->min)
			return -EINVAL;
	}
	*ret = v;
	return 0;
}

static int take_choice(struct settings *s, const struct setting *o, const char *value)
{
	for (unsigned i = 0; o->choices[i]; i++) {
		if (strcmp(o->choices[i], value) != 0)
			continue;
		if (o->take)
			return o->take(s, value);
		*(const char **)place(s, o) = o->choices[i];
		return 0;
	}
	return -EINVAL;
}

/* @value: a text that lives as long as @s. Return: 0; -EINVAL */
static int store_value(struct settings *s, const struct setting *o, const char *value)
{
	switch (o->kind) {
	case SETTING_FLAG:
		return take_flag(place(s, o), value);
	case SETTING_NUMBER:
		return take_number(o, value, 1, place(s, o));
	case SETTING_SECONDS:
		return take_number(o, value, 1000, place(s, o));
	case SETTING_BYTES:
		return take_bytes(o, value, place(s, o));
	case SETTING_CHOICE:
		return take_choice(s, o, value);
	case SETTING_OWN:
		return o->take(s, value);
	case SETTING_TEXT:
		if (!*value)
			return -EINVAL;
		*(const char **)place(s, o) = value;
		return 0;
	case SETTING_LIST: /* its caller keeps it */
		return *value ? 0 : -EINVAL;
	}
	return -EINVAL;
}

static void forget(struct setting_value *v)
{
	for (unsigned i = 0; i < v->n; i++)
		free(v->text[i]);
	v->n = 0;
}

static void store_list(struct settings *s, const struct setting *o, const struct setting_value *v)
{
	struct settings_list *list = place(s, o);

	for (unsigned i = 0; i < v->n; i++)
		list->item[i] = v->text[i];
	list->n = v->n;
}

int settings_take(struct settings *s, const struct setting *o, const char *value,
		  enum setting_origin origin, unsigned line, const char *where)
{
	struct setting_value *v = &s->values[o - settings_table];
	bool more = o->kind == SETTING_LIST && v->n && v->origin == origin;
	_cleanup_free_ char *copy = strdup(value);
	char buf[256];

	if (!copy)
		return -ENOMEM;
	if (more && v->n == (o->max ?: SETTINGS_MAX_LIST)) {
		fprintf(stderr, "dormd: %s: more than %u of them\n", where, v->n);
		return SETTINGS_E_USAGE;
	}
	if (store_value(s, o, copy) < 0) {
		fprintf(stderr, "dormd: %s: '%s' is not %s\n", where, value,
			settings_allowed(o, buf));
		return SETTINGS_E_USAGE;
	}
	if (!more)
		forget(v);
	v->text[v->n++] = take_ptr(copy);
	v->origin = origin;
	v->line = line;
	if (o->kind == SETTING_LIST)
		store_list(s, o, v);
	return 0;
}

/* ---- from everywhere
 * ----------------------------------------------------------------------------- */

static int take_environment(struct settings *s)
{
	for (size_t i = 0; i < settings_count; i++) {
		const struct setting *o = &settings_table[i];
		const char *value = o->env ? getenv(o->env) : NULL;
		int r;

		if (o->this_run || !value || !*value ||
		    (o->env_on && strcmp(value, o->env_on) != 0))
			continue;
		r = settings_take(s, o, o->env_on ? "on" : value, ORIGIN_ENVIRONMENT, 0, o->env);
		if (r)
			return r;
	}
	return 0;
}

static void fill_options(struct option *options)
{
	for (size_t i = 0; i < settings_count; i++) {
		const struct setting *o = &settings_table[i];

		options[i].name = o->name;
		options[i].has_arg = o->kind != SETTING_FLAG ? required_argument
				     : o->this_run	     ? no_argument
							     : optional_argument;
		options[i].val = OPTION_FIRST + (int)i;
	}
}

/* @this_run: those options alone, or all others: the file that they name is read in between */
static int take_options(struct settings *s, int argc, char **argv, bool this_run)
{
	_cleanup_free_ struct option *options = calloc(settings_count + 1, sizeof(*options));
	int opt, r = 0;

	if (!options)
		return -ENOMEM;
	fill_options(options);
	optind = 0; /* glibc: begin anew */
	opterr = this_run;
	while (r == 0 && (opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		const struct setting *o;
		char where[64];

		if (opt < OPTION_FIRST) {
			fputs("Try 'dormd --help'.\n", stderr);
			return SETTINGS_E_USAGE;
		}
		o = &settings_table[opt - OPTION_FIRST];
		snprintf(where, sizeof(where), "--%s", o->name);
		if (o->this_run == this_run)
			r = settings_take(s, o, optarg ?: "on", ORIGIN_OPTION, 0, where);
	}
	if (r == 0 && optind < argc) {
		fprintf(stderr, "dormd: unexpected argument '%s'\nTry 'dormd --help'.\n",
			argv[optind]);
		return SETTINGS_E_USAGE;
	}
	return r;
}

static void fill_listen(struct settings *s)
{
	struct listeners_config *c = &s->listeners;

	for (c->n_tcp = 0; c->n_tcp < s->listen.n; c->n_tcp++)
		c->tcp[c->n_tcp] = s->listen.item[c->n_tcp];
}

static int fill_socket(struct settings *s)
{
	const struct setting *o = settings_find("socket");
	_cleanup_free_ char *path = NULL;

	if (s->listeners.socket)
		return 0;
	path = str_printf("%s/dormd.sock", s->config.run_dir);
	return path ? settings_take(s, o, path, ORIGIN_DEFAULT, 0, o->name) : -ENOMEM;
}

/* What is right by itself, and not together. */
static int check_together(const struct settings *s)
{
	struct problem p = PROBLEM_INIT;

	if (listeners_check(&s->listeners, &p) == 0)
		return 0;
	fprintf(stderr, "dormd: %s\nhint: %s\n", p.message, p.hint);
	return SETTINGS_E_USAGE;
}

int settings_load(struct settings *s, int argc, char **argv)
{
	const char *file;
	int r = take_options(s, argc, argv, true);

	if (r || s->help || s->version || s->describe)
		return r;
	file = s->file ?: getenv("DORM_CONFIG");
	file = file && *file ? file : NULL;
	r = settings_read_file(s, file ?: SETTINGS_DEFAULT_FILE, file != NULL);
	r = r ?: take_environment(s);
	r = r ?: take_options(s, argc, argv, false);
	fill_listen(s);
	r = r ?: check_together(s);
	return r ?: fill_socket(s);
}

/* ---- life
 * ---------------------------------------------------------------------------------------- */

static bool has_helpers(const char *dir)
{
	_cleanup_free_ char *pager = str_printf("%s/dorm-pager", dir);

	return pager && access(pager, X_OK) == 0;
}

/* The helpers are beside this program, as in a build; or where they are installed: relative to
 * this program, so that an installed tree can be moved, or where it was meant to go. */
static void find_libexec(char ret[PATH_MAX])
{
	static const char *const from_here[] = {"", "/../libexec/dormouse"};
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n > 0) {
		self[n] = 0;
		*strrchr(self, '/') = 0; /* an absolute path */
	}
	for (unsigned i = 0; n > 0 && i < ARRAY_SIZE(from_here); i++) {
		_cleanup_free_ char *dir = str_printf("%s%s", self, from_here[i]);

		if (dir && has_helpers(dir) && realpath(dir, ret))
			return;
	}
	str_copy(ret, PATH_MAX, DORM_LIBEXECDIR);
}

static int take_defaults(struct settings *s)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < settings_count; i++) {
		const struct setting *o = &settings_table[i];

		if (o->def)
			r = settings_take(s, o, o->def, ORIGIN_DEFAULT, 0, o->name);
	}
	return r;
}

int settings_init(struct settings *s)
{
	int r;

	*s = (struct settings){.config = HOST_CONFIG_DEFAULT};
	s->values = calloc(settings_count, sizeof(*s->values));
	if (!s->values)
		return -ENOMEM;
	r = take_defaults(s);
	if (r)
		return r;
	find_libexec(s->libexec);
	return settings_take(s, settings_find("libexec"), s->libexec, ORIGIN_DEFAULT, 0, "libexec");
}

void settings_free(struct settings *s)
{
	for (size_t i = 0; s->values && i < settings_count; i++)
		forget(&s->values[i]);
	free(s->values);
	s->values = NULL;
}
