/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/describe.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/output.h"
#include "cli/table.h"

#define MAX_DEPTH   6 /* deeper values are shown as JSON */
#define MAX_COLUMNS 12

enum unit { UNIT_NONE, UNIT_BYTES, UNIT_MB, UNIT_MS, UNIT_NS, UNIT_KHZ };

/* The unit that a name ends with, and how many characters of the name that takes. */
static enum unit unit_of(const char *key, size_t *ret_len)
{
	static const struct {
		const char *end;
		enum unit unit;
	} units[] = {{"_bytes", UNIT_BYTES}, {"Bytes", UNIT_BYTES}, {"MB", UNIT_MB},
		     {"_ms", UNIT_MS},	     {"Ms", UNIT_MS},	    {"_ns", UNIT_NS},
		     {"Ns", UNIT_NS},	     {"_khz", UNIT_KHZ},    {"Khz", UNIT_KHZ},
		     {"KHz", UNIT_KHZ}};

	const char *rest;

	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		*ret_len = strlen(units[i].end);
		if (strlen(key) > *ret_len && str_has_suffix(key, units[i].end))
			return units[i].unit;
	}
	*ret_len = 0;
	if (!strcmp(key, "ms"))
		return UNIT_MS;
	rest = str_has_prefix(key, "bytes"); /* "bytesStored", "bytes_stored" */
	return !strcmp(key, "size") || (rest && !islower((unsigned char)*rest)) ? UNIT_BYTES
										: UNIT_NONE;
}

char *describe_label(const char *key, char buf[64])
{
	size_t unit_len, n = 0, len;

	(void)unit_of(key, &unit_len);
	len = strlen(key) - unit_len;
	for (size_t i = 0; i < len && n < 62; i++) {
		bool upper = isupper((unsigned char)key[i]);
		bool acronym = upper && (isupper((unsigned char)key[i + 1]) ||
					 (i && isupper((unsigned char)key[i - 1])));

		if (upper && i && !isupper((unsigned char)key[i - 1]))
			buf[n++] = ' ';
		buf[n++] = (char)(key[i] == '_'	      ? ' '
				  : upper && !acronym ? tolower((unsigned char)key[i])
						      : key[i]);
	}
	buf[n] = 0;
	return buf;
}

static char *number_text(const char *key, const json_t *value)
{
	double v = json_number_value(value);
	char text[32];
	size_t len;

	switch (unit_of(key, &len)) {
	case UNIT_BYTES:
		return v < 0 || v > 1e18 ? str_printf("%.0f B", v)
					 : strdup(str_format_bytes((uint64_t)v, text));
	case UNIT_MB:
		return str_printf("%.0f MiB", v);
	case UNIT_MS:
		return strdup(output_duration(v, text));
	case UNIT_NS:
		return strdup(output_duration(v / 1e6, text));
	case UNIT_KHZ:
		return str_printf("%.1f MHz", v / 1000);
	case UNIT_NONE:
		break;
	}
	return json_is_integer(value)
		       ? str_printf("%" JSON_INTEGER_FORMAT, json_integer_value(value))
		       : str_printf("%.3g", v);
}

static bool is_plain_array(const json_t *value)
{
	size_t i;
	json_t *v;

	if (!json_is_array(value))
		return false;
	json_array_foreach (value, i, v)
		if (json_is_object(v) || json_is_array(v))
			return false;
	return true;
}

static char *join(const char *key, const json_t *array)
{
	_cleanup_buf_ struct buf b = {0};
	size_t i;
	json_t *v;

	json_array_foreach (array, i, v) {
		_cleanup_free_ char *text = describe_value(key, v);

		if (!text || buf_printf(&b, "%s%s", i ? ", " : "", text))
			return NULL;
	}
	return b.data ? take_ptr(b.data) : strdup("-");
}

char *describe_value(const char *key, const json_t *value)
{
	switch (json_typeof(value)) {
	case JSON_STRING:
		return strdup(json_string_length(value) ? json_string_value(value) : "-");
	case JSON_INTEGER:
	case JSON_REAL:
		return number_text(key, value);
	case JSON_TRUE:
		return strdup("yes");
	case JSON_FALSE:
		return strdup("no");
	case JSON_NULL:
		return strdup("-");
	default:
		return is_plain_array(value) ? join(key, value) : json_dumps(value, JSON_COMPACT);
	}
}

static bool is_plain(const json_t *value)
{
	return !json_is_object(value) && (!json_is_array(value) || is_plain_array(value));
}

/* Elements that are objects, the same keys in all: then the first one's keys are the columns. */
static int print_table(const struct cli *cli, const json_t *array)
{
	_cleanup_(table_freep) struct table *t = NULL;
	struct table_column columns[MAX_COLUMNS] = {0};
	char titles[MAX_COLUMNS][64];
	const char *keys[MAX_COLUMNS], *key;
	json_t *v, *element;
	size_t n = 0, i;

	json_object_foreach (json_array_get(array, 0), key, v) {
		if (n == MAX_COLUMNS)
			break;
		(void)describe_label(key, titles[n]);
		if (!strcmp(titles[n], "bytes") || !strcmp(titles[n], "ms"))
			str_copy(titles[n], sizeof(titles[n]), *titles[n] == 'b' ? "size" : "time");
		for (char *c = titles[n]; *c; c++)
			*c = (char)toupper((unsigned char)*c);
		columns[n] = (struct table_column){titles[n],
						   json_is_number(v) ? TABLE_RIGHT : TABLE_CUT};
		keys[n++] = key;
	}
	t = table_new(cli, columns, n);
	json_array_foreach (array, i, element) {
		table_row(t);
		for (size_t k = 0; k < n; k++) {
			json_t *cell = json_object_get(element, keys[k]);
			_cleanup_free_ char *text = cell ? describe_value(keys[k], cell) : NULL;

			table_cell(t, "%s", text ? text : "-");
		}
	}
	return table_print(t);
}

/* Where one object is printed. */
struct place {
	size_t indent;
	unsigned depth;
	bool verbatim; /* its keys are the user's own words */
	bool times;    /* its numbers are milliseconds, whatever they are called */
};

static const char *label_of(const struct place *at, const char *key, char buf[64])
{
	return at->verbatim ? key : describe_label(key, buf);
}

static void print_line(const struct place *at, size_t width, const char *key, const json_t *value)
{
	_cleanup_free_ char *text = describe_value(at->times ? "ms" : key, value);
	char buf[64];

	(void)printf("%*s", (int)at->indent, "");
	output_padded(stdout, label_of(at, key, buf), width + 2);
	output_text(stdout, text ? text : "-");
	(void)putchar('\n');
}

static int describe(const struct cli *cli, const json_t *object, struct place at);

static int describe_nested(const struct cli *cli, const char *key, const json_t *value,
			   const struct place *at)
{
	struct place inner = {.indent = at->indent + 2,
			      .depth = at->depth + 1,
			      .verbatim = !strcmp(key, "metadata") || !strcmp(key, "envVars"),
			      .times = !strcmp(key, "phases")};
	_cleanup_free_ char *text = NULL;
	char buf[64];

	(void)printf("%*s", (int)at->indent, "");
	output_text(stdout, label_of(at, key, buf));
	(void)putchar('\n');
	if (json_is_object(value))
		return describe(cli, value, inner);
	if (json_is_object(json_array_get(value, 0)))
		return print_table(cli, value);
	text = describe_value(key, value);
	output_text(stdout, text ? text : "-");
	(void)putchar('\n');
	return CLI_OK;
}

static bool fits_line(const struct place *at, const json_t *value)
{
	return is_plain(value) || at->depth >= MAX_DEPTH;
}

static int describe(const struct cli *cli, const json_t *object, struct place at)
{
	json_t *members = (json_t *)object, *v; /* iterating changes nothing */
	const char *key, *lead = "";
	size_t width = 0;
	int code = CLI_OK;
	char buf[64];

	json_object_foreach (members, key, v)
		if (fits_line(&at, v))
			width = MAX(width, strlen(label_of(&at, key, buf)));
	json_object_foreach (members, key, v)
		if (fits_line(&at, v)) {
			lead = "\n"; /* what is nested stands apart from lines above it */
			print_line(&at, width, key, v);
		}
	json_object_foreach (members, key, v)
		if (!fits_line(&at, v) && (json_object_size(v) || json_array_size(v))) {
			(void)fputs(lead, stdout);
			lead = "\n";
			code = MAX(code, describe_nested(cli, key, v, &at));
		}
	return code;
}

int describe_object(const struct cli *cli, const json_t *object)
{
	return describe(cli, object, (struct place){0});
}
