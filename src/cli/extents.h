/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * extents.h - guest memory with holes as a stream of bytes (docs/format-transfer.md)
 *
 * An extent is its offset and its length (u64, little-endian, multiples of the page size), and the
 * bytes. Extents ascend and do not overlap. The last one has length 0, and its offset is the size
 * of the memory; nothing follows it.
 *
 *     struct extents_parser p = {0};
 *     extents_parse(&p, data, len, visit, userdata, &problem) ...;  however the stream is cut
 *     extents_finish(&p, &problem)                                  was that all? p.size is set
 *
 * Plain values: no life cycle, no allocation.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/problem.h"

#define EXTENTS_HEAD 16
#define EXTENTS_MAX  (1ull << 42) /* bytes of memory: 4 TiB */

/** extents_head() - the bytes in front of an extent; @len 0: the end of a memory of @offset bytes
 */
void extents_head(uint64_t offset, uint64_t len, unsigned char out[EXTENTS_HEAD]);

struct extents_parser {
	unsigned char head[EXTENTS_HEAD];
	size_t head_len; /* of it, so far */
	uint64_t offset; /* where the next byte belongs */
	uint64_t left;	 /* of the current extent */
	uint64_t size;	 /* of the memory, when ended */
	bool ended;
};

/** extents_visit - a piece of an extent, of any length above 0. Return: 0; negative errno */
typedef int (*extents_visit)(void *userdata, uint64_t offset, const void *data, size_t len);

/** extents_parse() - the next bytes of the stream. Return: 0; -EBADMSG; what @visit returned */
int extents_parse(struct extents_parser *p, const void *data, size_t len, extents_visit visit,
		  void *userdata, struct problem *problem);

/** extents_finish() - the stream has ended. Return: 0; -EBADMSG when its end is missing */
int extents_finish(const struct extents_parser *p, struct problem *problem);
