/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The head is collected until its empty line and then parsed in place: names and values become
 * strings inside the one buffer. Everything after it is a small automaton that keeps a count, never
 * bytes.
 *
 *     HEAD -> LENGTH ---------------------------------------> DONE
 *          -> CLOSE (until http1_eof())
 *          -> SIZE -> CHUNK -> CHUNK_END -> SIZE ... -> TRAILER -> DONE
 *          -> DONE (no body)          -> HEAD (1xx)          -> OTHER (101)
 */
#include "api/http1.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"

enum { S_HEAD, S_LENGTH, S_CLOSE, S_SIZE, S_CHUNK, S_CHUNK_END, S_TRAILER, S_DONE, S_OTHER };

void http1_init(struct http1 *p, bool to_head)
{
	*p = (struct http1){.to_head = to_head, .state = S_HEAD};
}

void http1_deinit(struct http1 *p)
{
	buf_deinit(&p->head);
}

static int bad(struct http1 *p, const char *why)
{
	p->error = why;
	return -EBADMSG;
}

/* --- words --------------------------------------------------------------------------------------
 */

static bool is_token_char(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       (c && strchr("!#$%&'*+-.^_`|~", c));
}

bool http1_is_token(const char *s)
{
	size_t n = 0;

	while (is_token_char(s[n]))
		n++;
	return n && !s[n];
}

bool http1_is_value(const char *s)
{
	for (; *s; s++)
		if (((unsigned char)*s < 0x20 && *s != '\t') || *s == 0x7f)
			return false;
	return true;
}

bool http1_has_token(const char *value, const char *token)
{
	size_t want = strlen(token);

	while (value && *value) {
		size_t n, end;

		value += strspn(value, ", \t");
		n = end = strcspn(value, ",");
		while (n && (value[n - 1] == ' ' || value[n - 1] == '\t'))
			n--;
		if (n == want && !strncasecmp(value, token, n))
			return true;
		value += end;
	}
	return false;
}

const char *http1_find(const struct http1 *p, const char *name)
{
	for (size_t i = 0; i < p->n_fields; i++)
		if (!strcasecmp(p->fields[i].name, name))
			return p->fields[i].value;
	return NULL;
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* --- the head -----------------------------------------------------------------------------------
 */

/* "HTTP/1.1 200 OK" */
static int parse_status(struct http1 *p, const char *line)
{
	int status = 0;

	if (strncmp(line, "HTTP/1.", 7) || (line[7] != '0' && line[7] != '1') || line[8] != ' ')
		return bad(p, "the answer does not begin as one of HTTP/1");
	for (int i = 9; i < 12; i++) {
		if (line[i] < '0' || line[i] > '9')
			return bad(p, "the status is not a number of three digits");
		status = status * 10 + (line[i] - '0');
	}
	if ((line[12] != ' ' && line[12] != 0) || status < 100 || status > 599)
		return bad(p, "the status is not one between 100 and 599");
	if (!http1_is_value(line))
		return bad(p, "control characters in the status line");
	p->status = status;
	p->minor = line[7] - '0';
	return 0;
}

/* "Name: value", cut up in place */
static int parse_field(struct http1 *p, char *line)
{
	char *colon = strchr(line, ':'), *value, *end;

	if (!colon)
		return bad(p, "a header line without a colon");
	if (p->n_fields == HTTP1_FIELDS_MAX)
		return bad(p, "too many header lines");
	*colon = 0;
	if (!http1_is_token(line)) /* also a folded line, and a space before the colon */
		return bad(p, "a header's name with characters that it must not have");
	value = colon + 1 + strspn(colon + 1, " \t");
	end = value + strlen(value);
	while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
		*--end = 0;
	if (!http1_is_value(value))
		return bad(p, "control characters in a header's value");
	p->fields[p->n_fields++] = (struct http1_field){.name = line, .value = value};
	return 0;
}

/* One number, or the same one again and again ("5, 5"). */
static int parse_length(struct http1 *p, const char *value)
{
	do {
		uint64_t n = 0;
		size_t digits = strspn(value, "0123456789");

		if (!digits || digits > 18)
			return bad(p, "Content-Length is not a number");
		for (size_t i = 0; i < digits; i++)
			n = n * 10 + (uint64_t)(value[i] - '0');
		if (p->has_length && n != p->length)
			return bad(p, "two values of Content-Length that differ");
		p->has_length = true;
		p->length = n;
		value += digits;
		value += strspn(value, " \t");
		if (*value && *value != ',')
			return bad(p, "Content-Length is not a number");
		value += *value == ',';
		value += strspn(value, " \t");
	} while (*value);
	return 0;
}

/* RFC 9112, 6.3 */
static int choose_framing(struct http1 *p)
{
	bool chunked = false;

	for (size_t i = 0; i < p->n_fields; i++) {
		const struct http1_field *f = &p->fields[i];
		int r = 0;

		if (!strcasecmp(f->name, "transfer-encoding")) {
			if (chunked || p->minor == 0 || strcasecmp(f->value, "chunked"))
				return bad(p, "a Transfer-Encoding other than chunked");
			chunked = true;
		} else if (!strcasecmp(f->name, "content-length")) {
			r = parse_length(p, f->value);
		}
		if (r < 0)
			return r;
	}
	if (chunked)
		p->has_length = false; /* it counts more, and what is passed on has one of them */
	if (p->to_head || p->status < 200 || p->status == 204 || p->status == 304)
		p->framing = HTTP1_NONE;
	else if (chunked)
		p->framing = HTTP1_CHUNKED;
	else
		p->framing = p->has_length ? HTTP1_LENGTH : HTTP1_CLOSE;
	return 0;
}

static int parse_lines(struct http1 *p)
{
	char *line = p->head.data, *end = p->head.data + p->head.len;
	bool first = true;
	int r = 0;

	p->n_fields = 0;
	p->has_length = false;
	while (r == 0 && line < end) {
		char *lf = memchr(line, '\n', (size_t)(end - line));

		if (lf > line && lf[-1] == '\r')
			lf[-1] = 0;
		*lf = 0;
		if (!*line)
			break;
		r = first ? parse_status(p, line) : parse_field(p, line);
		first = false;
		line = lf + 1;
	}
	return r ?: first ? bad(p, "an empty line where an answer begins") : choose_framing(p);
}

static void enter_body(struct http1 *p)
{
	static const int states[] = {[HTTP1_NONE] = S_DONE,
				     [HTTP1_LENGTH] = S_LENGTH,
				     [HTTP1_CHUNKED] = S_SIZE,
				     [HTTP1_CLOSE] = S_CLOSE};

	p->state = states[p->framing];
	p->left = p->framing == HTTP1_LENGTH ? p->length : 0;
	p->line = 0;
	p->line_cr = p->line_hex = false;
	if (p->status == 101)
		p->state = S_OTHER;
	else if (p->status < 200)
		p->state = S_HEAD;
}

/* Is the head complete with this LF? The line before it was empty if only that or a CR is there. */
static bool ends_head(const struct buf *b)
{
	size_t n = b->len;

	if (n >= 2 && b->data[n - 2] == '\r')
		n--;
	return n == 1 || b->data[n - 2] == '\n';
}

static int take_head(struct http1 *p, const char *data, size_t len, size_t *ret_used)
{
	size_t used = 0;

	if (p->n_fields || p->status) { /* the head before it is not needed any more */
		p->n_fields = 0;
		p->status = 0;
		p->head.len = 0;
	}
	while (used < len) {
		const char *lf = memchr(data + used, '\n', len - used);
		size_t n = lf ? (size_t)(lf + 1 - data) - used : len - used;

		if (memchr(data + used, 0, n))
			return bad(p, "a NUL in the head");
		if (p->head.len + n > HTTP1_HEAD_MAX)
			return -EMSGSIZE;
		if (buf_append(&p->head, data + used, n) < 0)
			return -ENOMEM;
		used += n;
		if (lf && ends_head(&p->head)) {
			int r = parse_lines(p);

			if (r < 0)
				return r;
			if (p->status < 200 && p->status != 101 && ++p->interim > HTTP1_INTERIM_MAX)
				return bad(p, "too many interim responses");
			enter_body(p);
			*ret_used = used;
			return HTTP1_HEAD;
		}
	}
	*ret_used = used;
	return HTTP1_MORE;
}

/* --- the body -----------------------------------------------------------------------------------
 */

static int size_digit(struct http1 *p, char c)
{
	int digit = hex(c);

	if (digit < 0 || p->line_cr)
		return bad(p, "a chunk's size is not a hexadecimal number");
	if (p->left >> 56)
		return bad(p, "a chunk's size is too large");
	p->left = p->left << 4 | (uint64_t)digit;
	p->line_hex = true;
	return 0;
}

/* One character of a chunk's size line; an extension is skipped. `line` > 0: in an extension. */
static int size_char(struct http1 *p, char c)
{
	if (c == '\n') {
		if (!p->line_hex)
			return bad(p, "a chunk without a size");
		p->state = p->left ? S_CHUNK : S_TRAILER;
		p->line = 0;
		p->line_cr = p->line_hex = false;
		return 0;
	}
	if (p->line_cr)
		return bad(p, "a CR in the middle of a chunk's size");
	if (c == '\r') {
		p->line_cr = true;
		return 0;
	}
	if (!p->line && c != ';' && c != ' ' && c != '\t')
		return size_digit(p, c);
	if (!p->line_hex)
		return bad(p, "a chunk without a size");
	return ++p->line > HTTP1_LINE_MAX ? bad(p, "a chunk's extension is too long") : 0;
}

/* The line's end that follows a chunk's data */
static int chunk_end_char(struct http1 *p, char c)
{
	if (c == '\r' && !p->line_cr) {
		p->line_cr = true;
		return 0;
	}
	if (c != '\n')
		return bad(p, "a chunk is longer than its size says");
	p->state = S_SIZE;
	p->line_cr = false;
	return 0;
}

/* Trailers go unread to the empty line. `left` counts their bytes. */
static int trailer_char(struct http1 *p, char c)
{
	if (++p->left > HTTP1_LINE_MAX)
		return bad(p, "the trailers are too long");
	if (c == '\n') {
		if (p->line == 0)
			p->state = S_DONE;
		p->line = 0;
	} else if (c != '\r') {
		p->line++;
	}
	return 0;
}

static int framing_char(struct http1 *p, char c)
{
	if (p->state == S_SIZE)
		return size_char(p, c);
	return p->state == S_CHUNK_END ? chunk_end_char(p, c) : trailer_char(p, c);
}

static int take_data(struct http1 *p, const char *data, size_t len, size_t *ret_used,
		     const char **ret_body, size_t *ret_len)
{
	size_t n = p->state == S_CLOSE ? len : (size_t)MIN((uint64_t)len, p->left);

	if (p->state != S_CLOSE)
		p->left -= n;
	if (p->state != S_CLOSE && p->left == 0)
		p->state = p->state == S_CHUNK ? S_CHUNK_END : S_DONE;
	*ret_used += n;
	*ret_body = data;
	*ret_len = n;
	return HTTP1_BODY;
}

int http1_next(struct http1 *p, const char *data, size_t len, size_t *ret_used,
	       const char **ret_body, size_t *ret_len)
{
	size_t i = 0;
	int r = 0;

	*ret_used = 0;
	if (p->state == S_HEAD)
		return take_head(p, data, len, ret_used);
	if (p->state == S_LENGTH && p->left == 0)
		p->state = S_DONE;
	while (i < len &&
	       (p->state == S_SIZE || p->state == S_CHUNK_END || p->state == S_TRAILER)) {
		r = framing_char(p, data[i++]);
		if (r < 0)
			return r;
	}
	*ret_used = i;
	if (p->state == S_DONE)
		return HTTP1_END;
	if (i == len || p->state == S_OTHER)
		return HTTP1_MORE;
	return take_data(p, data + i, len - i, ret_used, ret_body, ret_len);
}

int http1_eof(struct http1 *p)
{
	if (p->state == S_DONE || p->state == S_CLOSE || p->state == S_OTHER)
		return 0;
	if (p->state == S_LENGTH && p->left == 0)
		return 0;
	if (p->state == S_HEAD && p->head.len == 0)
		return bad(p, "the connection was closed without an answer");
	return bad(p, p->state == S_HEAD ? "the answer ends in its head"
					 : "the answer ends before it is complete");
}

/* --- requests -----------------------------------------------------------------------------------
 */

int http1_put_request(struct buf *b, const char *method, const char *target)
{
	if (!http1_is_token(method) || !*target)
		return -EINVAL;
	for (const char *c = target; *c; c++)
		if ((unsigned char)*c <= 0x20 || *c == 0x7f)
			return -EINVAL;
	return buf_printf(b, "%s %s HTTP/1.1\r\n", method, target);
}

int http1_put_field(struct buf *b, const char *name, const char *value)
{
	if (!http1_is_token(name) || !http1_is_value(value))
		return -EINVAL;
	return buf_printf(b, "%s: %s\r\n", name, value);
}

int http1_put_end(struct buf *b)
{
	return buf_append(b, "\r\n", 2);
}
