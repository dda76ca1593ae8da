/* SPDX-License-Identifier: Apache-2.0 */
#include "api/fields.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"

static const char *type_name(const json_t *v)
{
	switch (json_typeof(v)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a text";
	case JSON_INTEGER:
	case JSON_REAL:
		return "a number";
	default:
		return "a truth value";
	}
}

static json_t *find(json_t *o, const char *name)
{
	json_t *v = json_object_get(o, name);

	return v && !json_is_null(v) ? v : NULL;
}

static int out_of_range(const char *name, uint64_t min, uint64_t max, struct problem *problem)
{
	problem_set(problem, 400, "%s: must be a whole number between %llu and %llu", name,
		    (unsigned long long)min, (unsigned long long)max);
	return -EINVAL;
}

int fields_uint(json_t *o, const char *name, uint64_t min, uint64_t max, struct problem *problem,
		uint64_t *ret)
{
	json_t *v = find(o, name);
	uint64_t n;

	if (!v)
		return 0;
	if (!json_is_integer(v)) {
		problem_set(problem, 400, "%s: must be a whole number, not %s", name, type_name(v));
		return -EINVAL;
	}
	n = (uint64_t)json_integer_value(v);
	if (json_integer_value(v) < 0 || n < min || n > max) {
		problem_set(problem, 400, "%s: %lld is not between %llu and %llu", name,
			    (long long)json_integer_value(v), (unsigned long long)min,
			    (unsigned long long)max);
		return -EINVAL;
	}
	*ret = n;
	return 0;
}

int fields_bool(json_t *o, const char *name, struct problem *problem, bool *ret)
{
	json_t *v = find(o, name);

	if (!v)
		return 0;
	if (!json_is_boolean(v)) {
		problem_set(problem, 400, "%s: must be true or false, not %s", name, type_name(v));
		return -EINVAL;
	}
	*ret = json_is_true(v);
	return 0;
}

int fields_text(json_t *o, const char *name, size_t max, struct problem *problem, const char **ret)
{
	json_t *v = find(o, name);

	if (!v)
		return 0;
	if (!json_is_string(v)) {
		problem_set(problem, 400, "%s: must be a text, not %s", name, type_name(v));
		return -EINVAL;
	}
	if (json_string_length(v) > max) {
		problem_set(problem, 400, "%s: %zu bytes are more than %zu", name,
			    json_string_length(v), max);
		return -EINVAL;
	}
	*ret = json_string_value(v);
	return 0;
}

int fields_text_map(json_t *o, const char *name, struct problem *problem, json_t **ret)
{
	json_t *v = find(o, name), *item;
	const char *key;

	if (!v)
		return 0;
	if (!json_is_object(v)) {
		problem_set(problem, 400, "%s: must be an object of texts, not %s", name,
			    type_name(v));
		return -EINVAL;
	}
	json_object_foreach (v, key, item) {
		if (!json_is_string(item)) {
			problem_set(problem, 400, "%s.%.64s: must be a text, not %s", name, key,
				    json_is_null(item) ? "null" : type_name(item));
			return -EINVAL;
		}
	}
	*ret = v;
	return 0;
}

int fields_query_uint(const char *value, const char *name, uint64_t min, uint64_t max,
		      struct problem *problem, uint64_t *ret)
{
	uint64_t n;

	if (!value)
		return 0;
	if (str_to_u64(value, &n) < 0 || n < min || n > max)
		return out_of_range(name, min, max, problem);
	*ret = n;
	return 0;
}

/* "+02:00", whose '+' a query makes a blank, or "Z". Return: was it one? */
static bool parse_zone(const char *text, long *ret_s)
{
	unsigned hours, minutes;
	int n = 0;

	*ret_s = 0;
	if (!strcasecmp(text, "Z"))
		return true;
	if (!strchr("+- ", *text) || sscanf(text + 1, "%2u:%2u%n", &hours, &minutes, &n) != 2 ||
	    n != 5 || text[6] || hours > 23 || minutes > 59)
		return false;
	*ret_s = (long)(hours * 3600 + minutes * 60);
	if (*text == '-')
		*ret_s = -*ret_s;
	return true;
}

int fields_query_time(const char *value, const char *name, struct problem *problem, uint64_t *ret)
{
	struct tm tm = {0};
	const char *end = value ? strptime(value, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;
	uint64_t ns = 0, unit = 100000000;
	long zone = 0;
	time_t s;

	if (!value)
		return 0;
	if (end && *end == '.')
		for (end++; *end >= '0' && *end <= '9'; end++, unit /= 10)
			ns += (uint64_t)(*end - '0') *
			      unit; /* what is finer than that is dropped */
	if (!end || !*end || !parse_zone(end, &zone) || (s = timegm(&tm) - zone) < 0) {
		problem_set(problem, 400, "%s: '%.40s' is not a time like 2026-01-02T03:04:05Z",
			    name, value);
		return -EINVAL;
	}
	*ret = (uint64_t)s * NSEC_PER_SEC + ns;
	return 0;
}

int fields_query_memory(const char *value, const char *name, struct problem *problem, uint64_t *ret)
{
	uint64_t n = 0;
	int r = fields_query_uint(value, name, DORM_PAGE_SIZE, FIELDS_MAX_MEMORY, problem, &n);

	if (r < 0 || !value)
		return r;
	if (n % DORM_PAGE_SIZE) {
		problem_set(problem, 400, "%s: %llu is not a multiple of %lu, the size of a page",
			    name, (unsigned long long)n, DORM_PAGE_SIZE);
		return -EINVAL;
	}
	*ret = n;
	return 0;
}

static int hex(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

/* In place. A '%' that is not followed by two digits stays. */
static void unescape(char *s)
{
	char *out = s;

	while (*s) {
		if (*s == '%' && hex(s[1]) >= 0 && hex(s[2]) >= 0) {
			*out++ = (char)(hex(s[1]) << 4 | hex(s[2]));
			s += 3;
		} else {
			*out++ = *s++;
		}
	}
	*out = 0;
}

int fields_metadata_filter(const char *value, struct problem *problem, json_t **ret)
{
	_cleanup_free_ char *copy = strdup(value);
	char *save = NULL, *part;
	json_t *o = json_object();

	if (!copy || !o)
		goto no_memory;
	for (part = strtok_r(copy, "&", &save); part; part = strtok_r(NULL, "&", &save)) {
		char *v = strchr(part, '=');

		if (!v) {
			problem_set(problem, 400, "metadata: '%.64s' is not of the form key=value",
				    part);
			json_decref(o);
			return -EINVAL;
		}
		*v++ = 0;
		for (int i = 0; i < 2; i++) {
			unescape(part);
			unescape(v);
		}
		if (json_object_set_new(o, part, json_string(v)) < 0)
			goto no_memory;
	}
	*ret = o;
	return 0;
no_memory:
	json_decref(o);
	return -ENOMEM;
}
