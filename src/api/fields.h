/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * fields.h - fields of a JSON body and query parameters, with errors that name them
 *
 * Every function leaves *@ret as it was when the field is absent or null, and fails with a 400 that
 * names the field, what was given and what is allowed.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/problem.h"

/** fields_uint() - a whole number between @min and @max */
int fields_uint(json_t *o, const char *name, uint64_t min, uint64_t max, struct problem *problem,
		uint64_t *ret);
int fields_bool(json_t *o, const char *name, struct problem *problem, bool *ret);
/** fields_text() - at most @max bytes; borrowed from @o */
int fields_text(json_t *o, const char *name, size_t max, struct problem *problem, const char **ret);
/** fields_text_map() - an object whose values are texts; borrowed from @o */
int fields_text_map(json_t *o, const char *name, struct problem *problem, json_t **ret);

/** fields_query_uint() - a query parameter; @value may be NULL (absent) */
int fields_query_uint(const char *value, const char *name, uint64_t min, uint64_t max,
		      struct problem *problem, uint64_t *ret);

/** fields_query_time() - RFC 3339, as nanoseconds since 1970; @value may be NULL (absent) */
int fields_query_time(const char *value, const char *name, struct problem *problem, uint64_t *ret);

#define FIELDS_MAX_MEMORY (1ull << 42) /* 4 TiB: no image has more */

/** fields_query_memory() - the size of a guest's memory in bytes; @value may be NULL (absent) */
int fields_query_memory(const char *value, const char *name, struct problem *problem,
			uint64_t *ret);

/**
 * fields_metadata_filter() - the metadata query parameter: k=v&k2=v2, keys and values encoded twice
 * more (that is what the clients send). @value was decoded once. New reference to an object of
 * texts
 */
int fields_metadata_filter(const char *value, struct problem *problem, json_t **ret);
