/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log-format.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

#define SANDBOX_PREFIX "sandbox="
#define SANDBOX_MAX    64

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static const int priorities[] = {3, 4, 6, 7}; /* of syslog(3) */

const char *log_level_name(enum log_level level)
{
	return level_names[level];
}

/* A line that grows up to its limit. */
struct line {
	char *text;
	size_t len, size;
};

static void add(struct line *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add(struct line *l, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (l->len + 1 >= l->size)
		return;
	va_start(ap, fmt);
	n = vsnprintf(l->text + l->len, l->size - l->len, fmt, ap);
	va_end(ap);
	if (n > 0)
		l->len += MIN((size_t)n, l->size - l->len - 1);
}

/* "sandbox=x1 it woke" is about x1: where it begins to say what. */
static const char *split(const char *message, char sandbox[SANDBOX_MAX])
{
	size_t n, skip = strlen(SANDBOX_PREFIX);

	sandbox[0] = 0;
	if (strncmp(message, SANDBOX_PREFIX, skip) != 0)
		return message;
	n = strcspn(message + skip, " ");
	if (!n || n >= SANDBOX_MAX || !message[skip + n])
		return message;
	memcpy(sandbox, message + skip, n);
	sandbox[n] = 0;
	return message + skip + n + 1;
}

/* How long a character of UTF-8 begins at @s; 1 for a byte that is none. */
static size_t character(const unsigned char *s)
{
	size_t n = *s >= 0xf0 && *s < 0xf5   ? 4
		   : *s >= 0xe0 && *s < 0xf0 ? 3
		   : *s >= 0xc2 && *s < 0xe0 ? 2
					     : 1;

	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 1;
	return n;
}

/* A string of JSON, with room left for what closes the object. */
static void add_json(struct line *l, const char *key, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;

	add(l, "%s\"%s\":\"", l->len > 1 ? "," : "", key);
	while (*s && l->len + 16 < l->size) {
		size_t n = character(s);

		if (n > 1)
			add(l, "%.*s", (int)n, (const char *)s);
		else if (*s == '"' || *s == '\\')
			add(l, "\\%c", *s);
		else if (*s < ' ' || *s > '~')
			add(l, "%s", *s < ' ' || *s == 0x7f ? " " : "\\ufffd");
		else
			add(l, "%c", *s);
		s += n;
	}
	add(l, "\"");
}

static void format_text(struct line *l, const struct log_record *r)
{
	char when[32];

	add(l, "%s %s %s: ", clock_rfc3339(r->real_ns, when), r->program, level_names[r->level]);
	if (r->request[0])
		add(l, "request=%s ", r->request);
	add(l, "%s", r->message);
	for (size_t i = 0; i < l->len; i++)
		if ((unsigned char)l->text[i] < ' ')
			l->text[i] = ' ';
	l->text[l->len++] = '\n'; /* in the place of the terminator */
}

static void format_json(struct line *l, const struct log_record *r)
{
	char when[32], sandbox[SANDBOX_MAX];
	const char *message = split(r->message, sandbox);

	add(l, "{");
	add_json(l, "time", clock_rfc3339(r->real_ns, when));
	add_json(l, "program", r->program);
	add_json(l, "level", level_names[r->level]);
	if (r->request[0])
		add_json(l, "request", r->request);
	if (sandbox[0])
		add_json(l, "sandbox", sandbox);
	add_json(l, "message", message);
	add(l, "}\n");
}

static void add_field(struct line *l, const char *key, const char *text)
{
	size_t from;

	add(l, "%s=", key);
	from = l->len;
	add(l, "%s", text);
	for (size_t i = from; i < l->len; i++)
		if ((unsigned char)l->text[i] < ' ')
			l->text[i] = ' ';
	add(l, "\n");
}

static void format_journal(struct line *l, const struct log_record *r)
{
	char sandbox[SANDBOX_MAX];
	const char *message = split(r->message, sandbox);

	add(l, "PRIORITY=%d\n", priorities[r->level]);
	add_field(l, "SYSLOG_IDENTIFIER", r->program);
	if (r->request[0])
		add_field(l, "REQUEST", r->request);
	if (sandbox[0])
		add_field(l, "SANDBOX", sandbox);
	l->size--; /* so that the last field ends, too */
	add_field(l, "MESSAGE", message);
	l->size++;
	if (l->text[l->len - 1] != '\n')
		add(l, "\n");
}

size_t log_format(enum log_format format, const struct log_record *r, char *buf, size_t size)
{
	struct line l = {.text = buf, .size = size};

	if (format == LOG_FORMAT_JSON)
		format_json(&l, r);
	else if (format == LOG_FORMAT_JOURNAL)
		format_journal(&l, r);
	else
		format_text(&l, r);
	return l.len;
}
