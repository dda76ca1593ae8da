/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page-map-format-1.c - the runs of map files of version 1.x, which are read but no longer written
 *
 * The first varint of a run is n_pages * 2 + (1 if it has a source). With a source follow the
 * layer's number and, as a zigzag varint, how far its first slot is from the slot after the last
 * one that this map took from the same layer. Varints are minimal and runs are maximal, so there is
 * one file for a map. Header, layers and checksum are those of version 2; no two pages share a
 * slot, which page_map_decode() checks.
 *
 * Source of the design: docs/format-image.md, "Map 1.x".
 */
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/varint.h"
#include "image/page-map-format.h"

/*
 * Read one run. Return: 0, or -EBADMSG with the reason in *@ret_why. Every number is in range when
 * it is 0: n_pages up to IMAGE_MAX_PAGES, the layer is named, all slots below PAGE_MAP_MAX_SLOTS.
 */
static int decode_run(const uint8_t **p, const uint8_t *end, const struct map_header *h,
		      uint64_t *expected, struct page_run *ret, const char **ret_why)
{
	uint64_t head, layer, delta;
	int64_t slot;

	*ret_why = "bad number";
	if (varint_get(p, end, &head) < 0)
		return -EBADMSG;
	*ret = (struct page_run){.n_pages = head >> 1, .layer = IMAGE_LAYER_ZERO};
	*ret_why = "more pages than the image has, or none";
	if (ret->n_pages == 0 || ret->n_pages > h->n_pages)
		return -EBADMSG;
	if (!(head & 1))
		return 0;
	*ret_why = "bad number";
	if (varint_get(p, end, &layer) < 0 || varint_get(p, end, &delta) < 0)
		return -EBADMSG;
	*ret_why = "a layer that is not named";
	if (layer >= h->n_layers)
		return -EBADMSG;
	*ret_why = "a slot out of range";
	if (__builtin_add_overflow((int64_t)expected[layer], varint_unzigzag(delta), &slot) ||
	    slot < 0 || (uint64_t)slot > PAGE_MAP_MAX_SLOTS - ret->n_pages)
		return -EBADMSG;
	ret->layer = (uint32_t)layer;
	ret->slot = (uint64_t)slot;
	expected[layer] = ret->slot + ret->n_pages;
	return 0;
}

int map_decode_runs_1(const uint8_t *data, size_t offset, const struct map_header *h,
		      struct page_map *m, struct problem *problem)
{
	_cleanup_free_ uint64_t *expected = calloc(MAX(h->n_layers, 1u), sizeof(*expected));
	const uint8_t *p = data + offset, *end = p + h->runs_len, *start = p;
	const char *why = "more pages than the image has";
	uint64_t i;
	int r;

	if (!expected)
		return -ENOMEM;
	for (i = 0; i < h->n_runs; i++) {
		struct page_run run;

		start = p;
		if (decode_run(&p, end, h, expected, &run, &why) < 0)
			goto refuse;
		why = "more pages than the image has";
		if (run.n_pages > h->n_pages - m->n_pages)
			goto refuse;
		r = page_map_append(m, run.n_pages, run.layer, run.slot);
		if (r < 0)
			return error_trace(r);
		why = "continues the run before it";
		if (m->n_runs != i + 1)
			goto refuse;
	}
	start = p;
	why = "bytes follow the last run";
	if (p != end)
		goto refuse;
	why = "pages are missing after the last run";
	if (m->n_pages != h->n_pages)
		goto refuse;
	return 0;
refuse:
	return map_refuse_run(problem, i, (size_t)(start - data), why);
}
