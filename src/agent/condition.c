/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/condition.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/str.h"

/* --- dates --------------------------------------------------------------------------------------
 */

static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
				   "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};

char *condition_date(time_t t, char buf[32])
{
	struct tm tm;

	if (!gmtime_r(&t, &tm) || tm.tm_year > 8099)
		tm = (struct tm){.tm_year = 8099, .tm_mon = 11, .tm_mday = 31, .tm_wday = 5};
	(void)snprintf(buf, 32, "%s, %02d %s %04d %02d:%02d:%02d GMT", days[tm.tm_wday], tm.tm_mday,
		       months[tm.tm_mon], tm.tm_year + 1900, tm.tm_hour, tm.tm_min,
		       tm.tm_sec); /* always fits */
	return buf;
}

int condition_parse_date(const char *s, time_t *ret)
{
	static const char *const forms[] = {"%a, %d %b %Y %H:%M:%S GMT",
					    "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"};

	for (unsigned i = 0; i < 3; i++) {
		struct tm tm = {0};
		const char *end = strptime(s, forms[i], &tm);

		if (end && !*end) {
			*ret = timegm(&tm);
			return 0;
		}
	}
	return -EINVAL;
}

/* --- validators ---------------------------------------------------------------------------------
 */

/* Is @etag in a list like `"a", W/"b"`? By the weak comparison. */
static bool list_has(const char *list, const char *etag)
{
	size_t n = strlen(etag);

	while (*list) {
		list += strspn(list, ", \t");
		if (*list == '*')
			return true;
		if (!strncmp(list, "W/", 2))
			list += 2;
		if (*list != '"')
			return false;
		if (!strncmp(list, etag, n))
			return true;
		list = strchr(list + 1, '"');
		if (!list)
			return false;
		list++;
	}
	return false;
}

bool condition_not_modified(const struct validators *v, const char *if_none_match,
			    const char *if_modified_since)
{
	time_t since;

	if (!v->etag[0])
		return false;
	if (if_none_match)
		return list_has(if_none_match, v->etag);
	return if_modified_since && condition_parse_date(if_modified_since, &since) == 0 &&
	       v->mtime <= since;
}

bool condition_range_holds(const struct validators *v, const char *if_range)
{
	time_t date;

	if (!if_range)
		return true;
	if (!v->etag[0])
		return false;
	if (if_range[0] == '"')
		return !strcmp(if_range, v->etag);
	return condition_parse_date(if_range, &date) == 0 && date == v->mtime;
}

/* --- ranges -------------------------------------------------------------------------------------
 */

/* Digits; more than fit are a very large number. Return: what follows them; NULL without any */
static const char *number(const char *s, uint64_t *ret)
{
	char *end;

	if (!isdigit((unsigned char)*s))
		return NULL;
	*ret = strtoull(s, &end, 10);
	return end;
}

static bool is_end(const char *s)
{
	return !s[strspn(s, " \t")];
}

static enum range_kind suffix(const char *s, uint64_t size, struct range *ret)
{
	uint64_t n;
	const char *end = number(s, &n);

	if (!end || !is_end(end))
		return RANGE_WHOLE;
	if (n == 0)
		return RANGE_OUTSIDE;
	ret->len = n < size ? n : size;
	ret->first = size - ret->len;
	return RANGE_PART;
}

enum range_kind condition_range(const char *range, uint64_t size, struct range *ret)
{
	uint64_t first, last = UINT64_MAX;
	const char *at = range && !strncasecmp(range, "bytes=", 6) ? range + 6 : NULL;

	if (!at || size == 0) /* some clients always ask for a range: an empty file is sent whole */
		return RANGE_WHOLE;
	at += strspn(at, " \t");
	if (*at == '-')
		return suffix(at + 1, size, ret);
	at = number(at, &first);
	if (!at || *at != '-')
		return RANGE_WHOLE;
	at++;
	if (!is_end(at)) {
		at = number(at, &last);
		if (!at || !is_end(at) || last < first)
			return RANGE_WHOLE;
	}
	if (first >= size)
		return RANGE_OUTSIDE;
	ret->first = first;
	ret->len = (last < size - 1 ? last : size - 1) - first + 1;
	return RANGE_PART;
}

/* --- encodings ----------------------------------------------------------------------------------
 */

/* Does "q=..." in @parameters say 0? */
static bool is_refused(const char *parameters, size_t len)
{
	const char *q = memmem(parameters, len, "q=", 2);
	const char *end = parameters + len;

	if (!q)
		return false;
	q += 2;
	if (q == end || *q != '0')
		return false;
	for (q++; q < end && (*q == '.' || *q == '0'); q++)
		;
	return q == end || !isdigit((unsigned char)*q);
}

struct encodings condition_encodings(const char *accept)
{
	int identity = -1, gzip = -1, any = -1; /* -1: not mentioned */

	while (accept && *accept) {
		size_t name, len;
		int allowed;

		accept += strspn(accept, ", \t");
		len = strcspn(accept, ",");
		name = strcspn(accept, ",; \t");
		allowed = !is_refused(accept + name, len - name);
		if (name == 8 && !strncasecmp(accept, "identity", 8))
			identity = allowed;
		else if ((name == 4 && !strncasecmp(accept, "gzip", 4)) ||
			 (name == 6 && !strncasecmp(accept, "x-gzip", 6)))
			gzip = allowed;
		else if (name == 1 && *accept == '*')
			any = allowed;
		accept += len;
	}
	return (struct encodings){.identity = identity >= 0 ? identity : any != 0,
				  .gzip = gzip >= 0 ? gzip : any == 1};
}
