/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * header.h - a bounded list of HTTP headers as a peer sent them, and nghttp2's form of ours
 *
 * Embedded by value, zero-initialised. Names are lower case. A list takes at most
 * CHANNEL_MAX_HEADERS entries and CHANNEL_MAX_HEADER_BYTES of text.
 */
#include <stddef.h>
#include <stdint.h>

#include <nghttp2/nghttp2.h>

struct header {
	const char *name;
	const char *value;
};

struct header_list {
	struct header_entry {
		char *name; /* name and value in one allocation */
		char *value;
	} * entries;
	size_t n;
	size_t bytes;
};

void header_list_deinit(struct header_list *l);

/** header_list_add() - Return: 0; -E2BIG when the list is full; -ENOMEM */
int header_list_add(struct header_list *l, const void *name, size_t name_len, const void *value,
		    size_t value_len);

/** header_list_find() - the first value with that name, or NULL */
const char *header_list_find(const struct header_list *l, const char *name);

/** header_nv() - nghttp2's description of a header; borrows both strings */
nghttp2_nv header_nv(const char *name, const char *value);

/** header_error() - an nghttp2 error code as a negative errno */
int header_error(int ng);
