/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* page-map-format.h - what the decoders of the two major versions of map files share */
#include "base/problem.h"
#include "base/varint.h"
#include "image/page-map.h"

#define MAP_HEADER_BYTES 40u
#define MAP_NAME_BYTES	 (LAYER_ID_BYTES + DIGEST_BYTES)

struct map_header {
	uint16_t major;
	uint32_t n_layers;
	uint64_t n_pages;
	uint64_t n_runs;
	uint64_t runs_len;
};

/** map_refuse_run() - describe a bad run. Return: IMAGE_E_CORRUPT */
int map_refuse_run(struct problem *problem, uint64_t run, size_t offset, const char *why);

#define MAP_RUN_MAX_BYTES 12u /* token 1, length 4, layer 2, slot 5 */

/**
 * map_encode_runs() - the runs of a map, in the present version
 * @out: room for m->n_runs * MAP_RUN_MAX_BYTES + VARINT_MAX bytes
 * @ret_n_runs: maximal runs, which may be fewer than m->n_runs
 * Return: 0; -ENOMEM
 */
int map_encode_runs(const struct page_map *m, uint32_t n_layers, uint8_t *out, size_t *ret_len,
		    uint64_t *ret_n_runs);

/**
 * map_decode_runs() - the runs of a file of version 2.x: h->runs_len bytes at @data + @offset
 * Return: 0, and all of h->n_pages are in @m, which is not sealed; IMAGE_E_CORRUPT; -ENOMEM
 */
int map_decode_runs(const uint8_t *data, size_t offset, const struct map_header *h,
		    struct page_map *m, struct problem *problem);

/** map_decode_runs_1() - the same of version 1.x */
int map_decode_runs_1(const uint8_t *data, size_t offset, const struct map_header *h,
		      struct page_map *m, struct problem *problem);
