/* SPDX-License-Identifier: Apache-2.0 */
#include "channel/header.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "channel/limits.h"

void header_list_deinit(struct header_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->entries[i].name);
	free(l->entries);
	*l = (struct header_list){0};
}

static int list_grow(struct header_list *l)
{
	void *p;

	if (l->n % 16)
		return 0;
	p = realloc(l->entries, (l->n + 16) * sizeof(*l->entries));
	if (!p)
		return error_trace(-ENOMEM);
	l->entries = p;
	return 0;
}

int header_list_add(struct header_list *l, const void *name, size_t name_len, const void *value,
		    size_t value_len)
{
	size_t bytes = name_len + value_len + 2;
	char *p;
	int r;

	if (l->n >= CHANNEL_MAX_HEADERS || name_len > CHANNEL_MAX_HEADER_BYTES ||
	    value_len > CHANNEL_MAX_HEADER_BYTES || l->bytes + bytes > CHANNEL_MAX_HEADER_BYTES)
		return -E2BIG;
	r = list_grow(l);
	if (r < 0)
		return r;
	p = malloc(bytes);
	if (!p)
		return error_trace(-ENOMEM);
	memcpy(p, name, name_len);
	p[name_len] = 0;
	memcpy(p + name_len + 1, value, value_len);
	p[bytes - 1] = 0;
	l->entries[l->n++] = (struct header_entry){p, p + name_len + 1};
	l->bytes += bytes;
	return 0;
}

const char *header_list_find(const struct header_list *l, const char *name)
{
	for (size_t i = 0; i < l->n; i++)
		if (!strcmp(l->entries[i].name, name))
			return l->entries[i].value;
	return NULL;
}

nghttp2_nv header_nv(const char *name, const char *value)
{
	return (nghttp2_nv){(uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value),
			    NGHTTP2_NV_FLAG_NONE};
}

int header_error(int ng)
{
	return ng == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EPROTO;
}
