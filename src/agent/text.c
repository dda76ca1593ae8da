/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/text.h"

#include <stdbool.h>

#include "base/utf8.h"

#define REPLACEMENT "\xEF\xBF\xBD"

static bool is_plain(char c)
{
	return c >= 0x20 && c < 0x7F && c != '"' && c != '\\';
}

static int append_one(struct buf *b, const char *s, size_t *ret_n)
{
	size_t n = utf8_len(s);

	*ret_n = n ? n : 1;
	if (!n)
		return buf_append(b, REPLACEMENT, 3);
	if (n > 1)
		return buf_append(b, s, n);
	if (*s == '"' || *s == '\\')
		return buf_append(b, (char[]){'\\', *s}, 2);
	return buf_printf(b, "\\u%04x", (unsigned)*s);
}

int text_append(struct buf *b, const char *text)
{
	const char *s = text;
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
