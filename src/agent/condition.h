/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * condition.h - what a GET makes its answer depend on: validators, ranges, encodings
 *
 * Pure functions over header values; NULL stands for a header that is absent.
 * Source: RFC 9110 sections 8.8, 12.5.3, 13, 14.
 */
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* What identifies a version of a file. */
struct validators {
	char etag[80]; /* strong, with its quotes; "": none */
	time_t mtime;
};

enum range_kind {
	RANGE_WHOLE,   /* absent, malformed, or several: answer 200 */
	RANGE_PART,    /* 206 */
	RANGE_OUTSIDE, /* 416 */
};

struct range {
	uint64_t first, len; /* of RANGE_PART */
};

/** condition_range() - a Range header for a file of @size bytes */
enum range_kind condition_range(const char *range, uint64_t size, struct range *ret);

/** condition_not_modified() - does the client have this version already? Then answer 304 */
bool condition_not_modified(const struct validators *v, const char *if_none_match,
			    const char *if_modified_since);

/** condition_range_holds() - is the client's part of the same version, so that Range counts? */
bool condition_range_holds(const struct validators *v, const char *if_range);

struct encodings {
	bool identity, gzip; /* may be sent */
};

/** condition_encodings() - what Accept-Encoding allows. Without it: identity alone, as for envd */
struct encodings condition_encodings(const char *accept);

/** condition_date() - an IMF-fixdate; @buf holds 32 bytes */
char *condition_date(time_t t, char buf[32]);

/** condition_parse_date() - any of the three forms of HTTP. Return: 0; -EINVAL */
int condition_parse_date(const char *s, time_t *ret);
