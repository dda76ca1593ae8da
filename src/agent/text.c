/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/text.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define REPLACEMENT "\xEF\xBF\xBD"

/*
 * Length of the valid sequence at @s, which ends with a NUL; 0: not one.
 * Source: The Unicode Standard, table 3-7
 */
static size_t sequence(const unsigned char *s)
{
	unsigned char low = 0x80, high = 0xBF;
	size_t n;

	if (s[0] < 0x80)
		return 1;
	if (s[0] < 0xC2 || s[0] > 0xF4)
		return 0;
	n = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
	if (s[0] == 0xE0)
		low = 0xA0;
	else if (s[0] == 0xED)
		high = 0x9F;
	else if (s[0] == 0xF0)
		low = 0x90;
	else if (s[0] == 0xF4)
		high = 0x8F;
	if (s[1] < low || s[1] > high)
		return 0;
	for (size_t i = 2; i < n; i++)
		if ((s[i] & 0xC0) != 0x80)
			return 0;
	return n;
}

int text_is_utf8(const char *text)
{
	const unsigned char *s = (const unsigned char *)text;

	for (size_t n; *s; s += n) {
		n = sequence(s);
		if (!n)
			return 0;
	}
	return 1;
}

static bool is_plain(unsigned char c)
{
	return c >= 0x20 && c < 0x7F && c != '"' && c != '\\';
}

static int append_one(struct buf *b, const unsigned char *s, size_t *ret_n)
{
	size_t n = sequence(s);

	*ret_n = n ? n : 1;
	if (!n)
		return buf_append(b, REPLACEMENT, 3);
	if (n > 1)
		return buf_append(b, s, n);
	if (*s == '"' || *s == '\\')
		return buf_append(b, (char[]){'\\', (char)*s}, 2);
	return buf_printf(b, "\\u%04x", *s);
}

int text_append(struct buf *b, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	int r = buf_append(b, "\"", 1);

	while (r == 0 && *s) {
		size_t n = 0;

		while (is_plain(s[n]))
			n++;
		if (n)
			r = buf_append(b, s, n);
		else
			r = append_one(b, s, &n);
		s += n;
	}
	return r == 0 ? buf_append(b, "\"", 1) : r;
}
