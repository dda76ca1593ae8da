/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * handshake.h - what a VMM says when it hands over its memory
 *
 * One message on a fresh stream connection, in the way of Firecracker: a JSON array of regions,
 * with the userfaultfd as ancillary data. This file only understands the text; it does no I/O and
 * never looks at the descriptor. The text comes from a VMM that may be in a guest's hands.
 *
 *     [{"base_host_virt_addr": 140000000000000, "size": 268435456, "offset": 0, "page_size": 4096}]
 *
 * Region i holds the guest's pages offset/4096 ... (offset + size)/4096 - 1 at base_host_virt_addr.
 * Unknown members are ignored, so that newer VMMs can say more.
 * Format: docs/format-pager.md.
 * Source: Firecracker docs/snapshotting/handling-page-faults-on-snapshot-resume.md
 */
#include <stddef.h>
#include <stdint.h>

#include "base/problem.h"

#define HANDSHAKE_MAX_BYTES   16384u
#define HANDSHAKE_MAX_REGIONS 64u

/* outcomes */
enum {
	HANDSHAKE_E_MORE = 1, /* a good beginning; read on and ask again with all of it */
	HANDSHAKE_E_BAD = 2,  /* never will be a handshake; the problem says why */
};

struct handshake_region {
	uint64_t hva;	  /* where the VMM has it; page-aligned, not 0 */
	uint64_t gfn;	  /* first guest page */
	uint64_t n_pages; /* > 0 */
};

struct handshake {
	uint32_t n_regions;					/* > 0 */
	struct handshake_region regions[HANDSHAKE_MAX_REGIONS]; /* ascending, disjoint hva */
};

/**
 * handshake_parse() - understand and check a message
 * @data:    all that has arrived so far, @len bytes, any bytes
 * @n_pages: pages of the image; regions must lie inside and not show a page twice
 * @ret:     untouched unless the result is 0
 * Return: 0; HANDSHAKE_E_MORE; HANDSHAKE_E_BAD; -ENOMEM
 */
int handshake_parse(const char *data, size_t len, uint64_t n_pages, struct handshake *ret,
		    struct problem *problem);
