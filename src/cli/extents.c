/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/extents.h"

#include <endian.h>
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"

void extents_head(uint64_t offset, uint64_t len, unsigned char out[EXTENTS_HEAD])
{
	uint64_t le[] = {htole64(offset), htole64(len)};

	memcpy(out, le, sizeof(le));
}

static int bad(struct problem *problem, const char *why, uint64_t offset, uint64_t len)
{
	problem_set(problem, 400,
		    "the memory is damaged on its way: an extent of %" PRIu64 " bytes at %" PRIu64
		    " %s",
		    len, offset, why);
	return error_trace(-EBADMSG);
}

/* A whole head is there: what follows? */
static int begin_extent(struct extents_parser *p, struct problem *problem)
{
	uint64_t le[2], offset, len;

	memcpy(le, p->head, sizeof(le));
	offset = le64toh(le[0]);
	len = le64toh(le[1]);
	p->head_len = 0;
	if (offset % DORM_PAGE_SIZE || len % DORM_PAGE_SIZE)
		return bad(problem, "is not of whole pages", offset, len);
	if (offset < p->offset)
		return bad(problem, "does not ascend", offset, len);
	if (offset > EXTENTS_MAX || len > EXTENTS_MAX - offset)
		return bad(problem, "is beyond any memory", offset, len);
	p->offset = offset;
	p->left = len;
	p->ended = len == 0;
	p->size = offset;
	return 0;
}

int extents_parse(struct extents_parser *p, const void *data, size_t len, extents_visit visit,
		  void *userdata, struct problem *problem)
{
	const unsigned char *at = data;

	while (len) {
		size_t n = p->left ? MIN(p->left, len) : MIN(EXTENTS_HEAD - p->head_len, len);
		int r = 0;

		if (p->ended)
			return bad(problem, "should be the last, but more follows", p->size, 0);
		if (p->left) {
			r = visit(userdata, p->offset, at, n);
			p->offset += n;
			p->left -= n;
		} else {
			memcpy(p->head + p->head_len, at, n);
			p->head_len += n;
			if (p->head_len == EXTENTS_HEAD)
				r = begin_extent(p, problem);
		}
		if (r < 0)
			return error_trace(r);
		at += n;
		len -= n;
	}
	return 0;
}

int extents_finish(const struct extents_parser *p, struct problem *problem)
{
	if (p->ended)
		return 0;
	problem_set(problem, 500, "the memory ended too early, after offset %" PRIu64, p->offset);
	return error_trace(-EBADMSG);
}
