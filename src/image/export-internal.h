/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* export-internal.h - the inside of an export, for export*.c only */
#include <time.h>
#include <xxhash.h>

#include "base/bitmap.h"
#include "base/buf.h"
#include "image/transfer-format.h"
#include "image/transfer.h"

/* A file of the snapshot, on its way to the wire. */
struct export_item {
	struct transfer_item item;
	char what[48];
	int fd;		       /* -1: its bytes are in @text */
	struct timespec mtime; /* of @fd, when it was opened */
	struct buf text;       /* owned */
	bitmap_word *data;     /* of a disk: chunks that are not in holes; NULL: all */
};

struct exporter {
	struct export_item *items;
	uint32_t n_items, cap_items;
	uint64_t total;
	XXH3_state_t *hash;

	uint32_t at; /* the item that is being sent */
	bool begun;  /* its head was */
	bool ended;  /* the end of the stream was made */
	uint64_t chunk;

	uint8_t *piece; /* PIECE_BYTES */
	size_t piece_len, piece_sent;
	int error; /* the first failure, which stays */
	struct problem problem;
};

/** export_open() - add an item for every file of the snapshot, opened or read, and check them */
int export_open(struct exporter *x, int dirfd, const struct export_options *options,
		struct problem *problem);
