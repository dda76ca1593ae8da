/* SPDX-License-Identifier: Apache-2.0 */
#include "base/str.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *str_printf(const char *fmt, ...)
{
	va_list ap;
	char *s;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	return n < 0 ? NULL : s;
}

const char *str_has_prefix(const char *s, const char *prefix)
{
	size_t n = strlen(prefix);

	return strncmp(s, prefix, n) ? NULL : s + n;
}

bool str_has_suffix(const char *s, const char *suffix)
{
	size_t n = strlen(s), k = strlen(suffix);

	return n >= k && !strcmp(s + n - k, suffix);
}

static int parse_number(const char *s, uint64_t *ret, const char **ret_end)
{
	unsigned long long v;
	char *end;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	errno = 0;
	v = strtoull(s, &end, 10);
	if (errno)
		return -errno;
	*ret = v;
	*ret_end = end;
	return 0;
}

int str_to_u64(const char *s, uint64_t *ret)
{
	const char *end = s;
	uint64_t v = 0;
	int r = parse_number(s, &v, &end);

	if (r < 0)
		return r;
	if (*end)
		return -EINVAL;
	*ret = v;
	return 0;
}

int str_to_bytes(const char *s, uint64_t *ret)
{
	static const char units[] = "KMGT";
	const char *end = s, *u;
	unsigned shift = 0;
	uint64_t v = 0;
	int r = parse_number(s, &v, &end);

	if (r < 0)
		return r;
	if (*end) {
		u = strchr(units, toupper((unsigned char)*end));
		if (!u)
			return -EINVAL;
		shift = 10 * (unsigned)(u - units + 1);
		end++;
		if (*end && strcmp(end, "iB") && strcmp(end, "B"))
			return -EINVAL;
	}
	if (shift && v >> (64 - shift))
		return -ERANGE;
	*ret = v << shift;
	return 0;
}

char *str_format_bytes(uint64_t n, char buf[16])
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
	double v = (double)n / 1024;
	unsigned u = 0;

	if (n < 1024) {
		(void)snprintf(buf, 16, "%u B", (unsigned)n); /* fits */
		return buf;
	}
	while (v >= 1023.95 && u < 3) {
		v /= 1024;
		u++;
	}
	(void)snprintf(buf, 16, "%.1f %s", v, units[u]); /* fits: at most 8 digits before the dot */
	return buf;
}

void str_copy(char *dst, size_t size, const char *src)
{
	size_t n = strnlen(src, size - 1);

	memcpy(dst, src, n);
	dst[n] = 0;
}

bool str_is_name(const char *s)
{
	size_t n = strlen(s);

	if (n < 1 || n > 63 || !(islower((unsigned char)*s) || isdigit((unsigned char)*s)))
		return false;
	for (; *s; s++)
		if (!islower((unsigned char)*s) && !isdigit((unsigned char)*s) &&
		    !strchr("._-", *s))
			return false;
	return true;
}

void str_hex(const void *data, size_t len, char *out)
{
	static const char digits[] = "0123456789abcdef";
	const unsigned char *p = data;

	for (size_t i = 0; i < len; i++) {
		out[2 * i] = digits[p[i] >> 4];
		out[2 * i + 1] = digits[p[i] & 15];
	}
	out[2 * len] = 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

int str_unhex(const char *s, void *out, size_t len)
{
	unsigned char *p = out;

	if (strlen(s) != 2 * len)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		int a = hex_digit(s[2 * i]), b = hex_digit(s[2 * i + 1]);

		if (a < 0 || b < 0)
			return -EINVAL;
		p[i] = (unsigned char)(a << 4 | b);
	}
	return 0;
}

bool str_equal_secret(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b);
	unsigned char differ = n != m;

	for (size_t i = 0; i < m; i++)
		differ |= (unsigned char)(a[n ? i % n : 0] ^ b[i]);
	return !differ;
}
