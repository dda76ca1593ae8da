/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The delimiter "\r\n--BOUNDARY" is searched with memmem() in each piece. What a piece ends with
 * may be the beginning of one: since '\r' is nowhere else in it, only the piece's last '\r' can be
 * its first byte, and when the next piece shows that it was none, the bytes held back are those of
 * the delimiter itself: nothing has to be kept, and the search goes on behind them.
 */
#include "agent/multipart.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/str.h"

static int bad(struct multipart *m, const char *why)
{
	m->error = why;
	return -EBADMSG;
}

/* --- headers ------------------------------------------------------------------------------------
 */

/* A quoted string: `\` escapes only what would be special, so that C:\path survives. */
static size_t unquote(const char *s, char *out)
{
	static const char special[] = "()<>@,;:\\\"/[]?=";
	const char *at = s + 1;

	while (*at && *at != '"') {
		if (*at == '\\' && at[1] && strchr(special, at[1]))
			at++;
		*out++ = *at++;
	}
	*out = 0;
	return (size_t)(at - s) + (*at == '"');
}

/* UTF-8''a%20b, in place */
static void decode_extended(char *s)
{
	char *at = strchr(s, '\''), *out = s;
	unsigned char c;

	at = at ? strchr(at + 1, '\'') : NULL;
	if (!at)
		return;
	for (at++; *at; at++) {
		char hex[3] = {at[1], at[1] ? at[2] : 0, 0};
		bool is_escape = *at == '%' && hex[1] && str_unhex(hex, &c, 1) == 0 && c;

		*out++ = is_escape ? (char)c : *at;
		at += is_escape ? 2 : 0;
	}
	*out = 0;
}

/* One "; key=value". @value has room for all of @at. Return: what follows it */
static const char *next_parameter(const char *at, char key[32], char *value)
{
	size_t n;

	at += strspn(at, "; \t");
	n = strcspn(at, "=; \t");
	str_copy(key, n < 31 ? n + 1 : 32, at);
	at += n;
	at += strspn(at, " \t");
	value[0] = 0;
	if (*at != '=')
		return at;
	at++;
	at += strspn(at, " \t");
	if (*at == '"')
		return at + unquote(at, value);
	n = strcspn(at, "; \t");
	memcpy(value, at, n);
	value[n] = 0;
	return at + n;
}

int multipart_parameter(const char *header, const char *key, char **ret)
{
	size_t room = strlen(header) + 1, n = strlen(key);
	_cleanup_free_ char *value = malloc(room), *found = NULL;
	const char *at = header + strcspn(header, ";");
	char name[32];

	while (value && *at) {
		at = next_parameter(at, name, value);
		if (!strncasecmp(name, key, n) && (!name[n] || !strcmp(name + n, "*"))) {
			if (name[n])
				decode_extended(value);
			else if (found)
				continue; /* the extended form wins, and the first of two */
			free(found);
			found = strdup(value);
			if (!found)
				return -ENOMEM;
		}
	}
	if (!value)
		return -ENOMEM;
	if (!found)
		return 0;
	*ret = take_ptr(found);
	return 1;
}

static int header_line(struct multipart *m, const char *line)
{
	static const char disposition[] = "content-disposition:";
	int r;

	if (strncasecmp(line, disposition, strlen(disposition)) != 0)
		return 0;
	line += strlen(disposition);
	line += strspn(line, " \t");
	if (strncasecmp(line, "form-data", 9) != 0)
		return 0;
	free(take_ptr(m->name));
	free(take_ptr(m->filename));
	r = multipart_parameter(line, "name", &m->name);
	if (r >= 0)
		r = multipart_parameter(line, "filename", &m->filename);
	return r < 0 ? r : 0;
}

static int begin_part(struct multipart *m)
{
	int r = m->ops->begin(m->userdata, m->name, m->filename);

	free(take_ptr(m->name));
	free(take_ptr(m->filename));
	m->state = MULTIPART_DATA;
	m->matched = m->implied = 2; /* the line just ended, so a boundary may follow at once */
	return r;
}

static int end_line(struct multipart *m)
{
	char *text = m->line.data;
	int r;

	m->line.len = 0;
	if (strlen(text) && text[strlen(text) - 1] == '\r')
		text[strlen(text) - 1] = 0;
	if (m->state == MULTIPART_LINE) {
		if (!strncmp(text, "--", 2)) {
			m->state = MULTIPART_OVER;
			return 0;
		}
		if (text[strspn(text, " \t")])
			return bad(m, "something follows a boundary");
		m->state = MULTIPART_HEADERS;
		m->header_bytes = 0;
		return 0;
	}
	r = text[0] ? header_line(m, text) : begin_part(m);
	return r;
}

/* Collects the lines around the data. Return: bytes used; negative errno */
static ssize_t feed_line(struct multipart *m, const char *data, size_t len)
{
	const char *end = memchr(data, '\n', len);
	size_t n = end ? (size_t)(end - data) : len;
	int r;

	m->header_bytes += n + 1;
	if (m->header_bytes > MULTIPART_HEADERS_MAX)
		return bad(m, "the headers of a part are too long");
	if (memchr(data, 0, n))
		return bad(m, "the headers of a part have a NUL in them");
	if (buf_append(&m->line, data, n) < 0 || buf_append(&m->line, "", 0) < 0)
		return -ENOMEM;
	/* the last boundary needs no line end behind it */
	if (m->state == MULTIPART_LINE && m->line.len >= 2 && !strncmp(m->line.data, "--", 2)) {
		m->state = MULTIPART_OVER;
		return (ssize_t)n;
	}
	if (!end)
		return (ssize_t)n;
	r = end_line(m);
	return r < 0 ? r : (ssize_t)n + 1;
}

/* --- data ---------------------------------------------------------------------------------------
 */

static int emit(struct multipart *m, const char *data, size_t len)
{
	if (len == 0 || m->state != MULTIPART_DATA)
		return 0;
	return m->ops->data(m->userdata, data, len);
}

static int found(struct multipart *m)
{
	bool was_data = m->state == MULTIPART_DATA;

	m->state = MULTIPART_LINE;
	m->matched = m->implied = 0;
	m->line.len = 0;
	m->header_bytes = 0;
	return was_data ? m->ops->end(m->userdata) : 0;
}

/* Go on with a delimiter that an earlier piece began. Return: bytes used; negative errno */
static ssize_t feed_match(struct multipart *m, const char *data, size_t len)
{
	size_t n = MIN(m->len - m->matched, len), from = m->implied, to = m->matched;
	int r;

	if (memcmp(data, m->delimiter + m->matched, n) != 0) {
		for (n = 0; data[n] == m->delimiter[m->matched + n]; n++)
			;
		to += n;
		m->matched = m->implied = 0;
		r = to > from ? emit(m, m->delimiter + from, to - from) : 0;
		return r < 0 ? r : (ssize_t)n;
	}
	m->matched += n;
	r = m->matched == m->len ? found(m) : 0;
	return r < 0 ? r : (ssize_t)n;
}

/* How many bytes at the end of a piece may be the beginning of the delimiter? */
static size_t held_back(const struct multipart *m, const char *data, size_t len)
{
	size_t tail = MIN(len, m->len - 1);
	const char *at = memrchr(data + len - tail, '\r', tail);
	size_t n = at ? (size_t)(data + len - at) : 0;

	return n && !memcmp(at, m->delimiter, n) ? n : 0;
}

static ssize_t feed_data(struct multipart *m, const char *data, size_t len)
{
	const char *at;
	int r;

	if (m->matched)
		return feed_match(m, data, len);
	at = memmem(data, len, m->delimiter, m->len);
	if (!at) {
		m->matched = held_back(m, data, len);
		r = emit(m, data, len - m->matched);
		return r < 0 ? r : (ssize_t)len;
	}
	r = emit(m, data, (size_t)(at - data));
	if (r == 0)
		r = found(m);
	return r < 0 ? r : at - data + (ssize_t)m->len;
}

int multipart_feed(struct multipart *m, const char *data, size_t len)
{
	while (len && m->state != MULTIPART_OVER) {
		bool lines = m->state == MULTIPART_LINE || m->state == MULTIPART_HEADERS;
		ssize_t n = lines ? feed_line(m, data, len) : feed_data(m, data, len);

		if (n < 0)
			return (int)n;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

int multipart_finish(struct multipart *m)
{
	if (m->state == MULTIPART_OVER)
		return 0;
	return bad(m, m->state == MULTIPART_PREAMBLE ? "it has no boundary in it"
						     : "it ends before its last boundary");
}

int multipart_init(struct multipart *m, const char *content_type, const struct multipart_ops *ops,
		   void *userdata)
{
	_cleanup_free_ char *boundary = NULL;
	int r;

	*m = (struct multipart){.ops = ops, .userdata = userdata};
	r = multipart_parameter(content_type, "boundary", &boundary);
	if (r < 0)
		return r;
	if (r == 0 || !boundary[0])
		return bad(m, "its Content-Type has no boundary");
	if (strlen(boundary) > MULTIPART_BOUNDARY_MAX || strpbrk(boundary, "\r\n"))
		return bad(m, "its boundary is too long, or has a line end in it");
	str_copy(m->delimiter, sizeof(m->delimiter), "\r\n--");
	str_copy(m->delimiter + 4, sizeof(m->delimiter) - 4, boundary);
	m->len = strlen(m->delimiter);
	m->matched = m->implied = 2; /* as if a line had ended before the body */
	return 0;
}

void multipart_deinit(struct multipart *m)
{
	buf_deinit(&m->line);
	free(take_ptr(m->name));
	free(take_ptr(m->filename));
}
