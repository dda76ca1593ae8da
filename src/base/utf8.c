/* SPDX-License-Identifier: Apache-2.0 */
#include "base/utf8.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd"

static bool is_tail(uint8_t c)
{
	return (c & 0xc0) == 0x80;
}

size_t utf8_len(const char *s)
{
	const uint8_t *p = (const uint8_t *)s;

	if (p[0] < 0x80)
		return p[0] != 0;
	if (p[0] >= 0xc2 && p[0] <= 0xdf)
		return is_tail(p[1]) ? 2 : 0;
	if (p[0] >= 0xe0 && p[0] <= 0xef) {
		bool overlong = p[0] == 0xe0 && p[1] < 0xa0;
		bool surrogate = p[0] == 0xed && p[1] > 0x9f;

		return !overlong && !surrogate && is_tail(p[1]) && is_tail(p[2]) ? 3 : 0;
	}
	if (p[0] >= 0xf0 && p[0] <= 0xf4) {
		bool overlong = p[0] == 0xf0 && p[1] < 0x90;
		bool too_large = p[0] == 0xf4 && p[1] > 0x8f;

		return !overlong && !too_large && is_tail(p[1]) && is_tail(p[2]) && is_tail(p[3])
			       ? 4
			       : 0;
	}
	return 0;
}

char *utf8_from(const char *s)
{
	char *text = malloc(strlen(s) * strlen(REPLACEMENT) + 1), *out = text;

	while (text && *s) {
		size_t n = utf8_len(s);

		if (n)
			out = mempcpy(out, s, n);
		else
			out = mempcpy(out, REPLACEMENT, strlen(REPLACEMENT));
		s += n ? n : 1;
	}
	if (text)
		*out = 0;
	return text;
}
