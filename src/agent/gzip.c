/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/gzip.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"

#define BUFFER	    65536u
#define GZIP_WINDOW (15 + 16) /* the largest window, with gzip's header */

int gunzip_init(struct gunzip *g)
{
	*g = (struct gunzip){0};
	g->buffer = malloc(BUFFER);
	if (!g->buffer || inflateInit2(&g->z, GZIP_WINDOW) != Z_OK) {
		free(g->buffer);
		g->buffer = NULL;
		return error_trace(-ENOMEM);
	}
	return 0;
}

void gunzip_deinit(struct gunzip *g)
{
	if (g->buffer)
		(void)inflateEnd(&g->z); /* fails only for what was never made */
	free(g->buffer);
	*g = (struct gunzip){0};
}

static int member_end(struct gunzip *g)
{
	g->begun = false;
	return inflateReset(&g->z) == Z_OK ? 0 : -EBADMSG;
}

int gunzip_feed(struct gunzip *g, const char *data, size_t len,
		int (*sink)(void *userdata, const char *data, size_t len), void *userdata)
{
	int r = 0, z = Z_OK;

	g->z.next_in = (Bytef *)data;
	g->z.avail_in = (uInt)len;
	/* a full buffer may have left more behind, also without input */
	for (bool full = true; r == 0 && (g->z.avail_in || (full && g->begun));) {
		size_t n;

		g->begun = g->any = true;
		g->z.next_out = (Bytef *)g->buffer;
		g->z.avail_out = BUFFER;
		z = inflate(&g->z, Z_NO_FLUSH);
		if (z == Z_MEM_ERROR)
			return -ENOMEM;
		if (z != Z_OK && z != Z_STREAM_END && z != Z_BUF_ERROR)
			return -EBADMSG;
		n = BUFFER - g->z.avail_out;
		full = g->z.avail_out == 0;
		if (n)
			r = sink(userdata, g->buffer, n);
		if (r >= 0 && z == Z_STREAM_END)
			r = member_end(g);
	}
	return r;
}

int gunzip_finish(const struct gunzip *g)
{
	return g->any && !g->begun ? 0 : -EBADMSG;
}
