/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settings-file.c - the configuration file: a setting a line
 *
 *     # how sleeps compress memory
 *     codec = lz4
 *     seal-key = file:/etc/dormouse/new     # may stand there more than once
 *     seal-key = file:/etc/dormouse/old
 *
 * The names are those of the options, a flag is on or off. '#' begins a comment at the beginning of
 * a line or after a space. Whatever is not understood ends the reading: a daemon that ignores a
 * misspelt limit has none.
 */
#include "daemon/settings.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

static char *trim(char *s)
{
	size_t n;

	while (isspace((unsigned char)*s))
		s++;
	n = strlen(s);
	while (n && isspace((unsigned char)s[n - 1]))
		s[--n] = 0;
	return s;
}

static void cut_comment(char *line)
{
	for (char *p = line; *p; p++)
		if (*p == '#' && (p == line || isspace((unsigned char)p[-1]))) {
			*p = 0;
			return;
		}
}

static int refuse(const char *path, unsigned line, const char *what, const char *name)
{
	fprintf(stderr, "dormd: %s:%u: %s '%s'\n", path, line, what, name);
	fputs("hint: `dormd --help` lists the settings; in the file their names have no dashes in "
	      "front\n",
	      stderr);
	return SETTINGS_E_USAGE;
}

/* It may be there once, unless it is a list. */
static int check_again(const struct settings *s, const struct setting *o, const char *path,
		       unsigned line)
{
	const struct setting_value *v = &s->values[o - settings_table];

	if (o->kind == SETTING_LIST || v->origin != ORIGIN_FILE)
		return 0;
	fprintf(stderr, "dormd: %s:%u: %s is set in line %u already\n", path, line, o->name,
		v->line);
	return SETTINGS_E_USAGE;
}

static int take_line(struct settings *s, const char *path, unsigned line, char *text)
{
	_cleanup_free_ char *where = NULL;
	const struct setting *o;
	char *value, *name;
	int r;

	cut_comment(text);
	name = trim(text);
	if (!*name)
		return 0;
	value = strchr(name, '=');
	if (!value)
		return refuse(path, line, "there must be NAME = VALUE, not", name);
	*value++ = 0;
	name = trim(name);
	o = settings_find(name);
	if (!o)
		return refuse(path, line, "there is no setting", name);
	if (o->this_run)
		return refuse(path, line, "this is for the command line alone:", name);
	r = check_again(s, o, path, line);
	where = str_printf("%s:%u: %s", path, line, name);
	if (!where)
		return -ENOMEM;
	return r ?: settings_take(s, o, trim(value), ORIGIN_FILE, line, where);
}

int settings_read_file(struct settings *s, const char *path, bool must_exist)
{
	_cleanup_free_ char *text = NULL;
	unsigned line = 0;
	size_t len;
	int r = file_read(AT_FDCWD, path, SETTINGS_MAX_FILE, &text, &len);

	if (r == -ENOENT && !must_exist)
		return 0;
	if (r < 0) {
		fprintf(stderr, "dormd: %s cannot be read: %s\n", path, strerrordesc_np(-r));
		return SETTINGS_E_USAGE;
	}
	if (strlen(text) != len) {
		fprintf(stderr, "dormd: %s is not a text: it has a byte 0 in it\n", path);
		return SETTINGS_E_USAGE;
	}
	for (char *rest = text, *one = strsep(&rest, "\n"); one; one = strsep(&rest, "\n")) {
		r = take_line(s, path, ++line, one);
		if (r)
			return r;
	}
	/* for those who ask where values are from */
	return s->file ? 0
		       : settings_take(s, settings_find("config"), path, ORIGIN_DEFAULT, 0, path);
}
