/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * transfer-reader.h - takes a snapshot's stream apart, however it is sliced
 *
 *     transfer_reader_init(&reader, &sink, userdata)
 *     transfer_reader_write() ...     calls the sink for what is verified, and only for that
 *     transfer_reader_is_done()       everything was there, and its digest was right
 *     transfer_reader_deinit()
 *
 * One thread. After a result other than 0 only deinit is allowed.
 */
#include <stdbool.h>

#include "image/transfer-format.h"

/* Each may refuse with a result other than 0, which transfer_reader_write() hands on. */
struct transfer_sink {
	/* the header: the stream has @total bytes */
	int (*begin)(void *userdata, uint64_t total, struct problem *problem);
	/* an item begins; @room: bytes of the stream that are left after its head */
	int (*item)(void *userdata, const struct transfer_item *item, uint64_t room,
		    struct problem *problem);
	/* its next bytes; @data NULL: @len zeros */
	int (*data)(void *userdata, const void *data, uint32_t len, uint64_t offset,
		    struct problem *problem);
	/* that was all of it. Not called for an item that is left out */
	int (*item_end)(void *userdata, struct problem *problem);
};

struct transfer_reader {
	const struct transfer_sink *sink;
	void *userdata;
	enum { READ_HEADER, READ_ITEM, READ_CHUNK, READ_DATA, READ_DIGEST, READ_DONE } state;
	uint64_t total;	 /* of the stream, from its header */
	uint64_t offset; /* bytes taken */
	void *hash;	 /* of all pieces so far */

	uint32_t n_items;
	struct transfer_item item;
	uint64_t chunk; /* number of the chunk that comes or is being read */
	struct transfer_chunk chunk_head;

	/* the piece being collected: header, head, or the bytes of a chunk */
	uint8_t *piece; /* TRANSFER_CHUNK_BYTES */
	size_t have, need;
};

/** transfer_reader_init() - Return: 0; -ENOMEM */
int transfer_reader_init(struct transfer_reader *r, const struct transfer_sink *sink,
			 void *userdata);
void transfer_reader_deinit(struct transfer_reader *r);

/** transfer_reader_write() - Return: 0; TRANSFER_E_STREAM; IMAGE_E_VERSION; what the sink said */
int transfer_reader_write(struct transfer_reader *r, const void *data, size_t len,
			  struct problem *problem);

bool transfer_reader_is_done(const struct transfer_reader *r);
