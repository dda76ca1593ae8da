/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transfer-reader.c - a state machine over the pieces of a stream
 *
 * One piece is collected at a time: the header, an item's head, a chunk's head, a chunk's bytes
 * (1 MiB at most), the digest at the end. When it is whole it is checked and decides what the next
 * piece is. So the memory needed is one chunk, whatever the stream says, and the sink never sees a
 * byte whose checksum was not compared.
 *
 * The header announces the length of the stream. An item that does not fit into what is left of it
 * is refused at its head; the end must come exactly there.
 */
#include "image/transfer-reader.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "image/transfer.h"

#define ull(_v) ((unsigned long long)(_v))

static void expect(struct transfer_reader *r, int state, size_t need)
{
	r->state = state;
	r->have = 0;
	r->need = need;
}

int transfer_reader_init(struct transfer_reader *r, const struct transfer_sink *sink,
			 void *userdata)
{
	*r = (struct transfer_reader){.sink = sink, .userdata = userdata};
	r->hash = XXH3_createState();
	r->piece = malloc(TRANSFER_CHUNK_BYTES);
	if (!r->hash || !r->piece)
		return -ENOMEM;		   /* deinit releases the other one */
	(void)XXH3_128bits_reset(r->hash); /* fails only for NULL */
	expect(r, READ_HEADER, TRANSFER_HEADER_BYTES);
	return 0;
}

void transfer_reader_deinit(struct transfer_reader *r)
{
	(void)XXH3_freeState(r->hash); /* always XXH_OK */
	free(r->piece);
	r->hash = NULL;
	r->piece = NULL;
}

bool transfer_reader_is_done(const struct transfer_reader *r)
{
	return r->state == READ_DONE;
}

/* ---- pieces -----------------------------------------------------------------------------------
 */

static int take_header(struct transfer_reader *r, struct problem *problem)
{
	int e = transfer_header_decode(r->piece, problem, &r->total);

	if (e == 0)
		e = r->sink->begin(r->userdata, r->total, problem);
	expect(r, READ_ITEM, TRANSFER_ITEM_BYTES);
	return e;
}

/* What the stream has left for items: all but the end. */
static uint64_t room(const struct transfer_reader *r)
{
	uint64_t used = r->offset + TRANSFER_END_BYTES;

	return used <= r->total ? r->total - used : 0;
}

/* The least that an item takes: one of a disk may consist of zeros that are not sent. */
static uint64_t least_bytes(const struct transfer_item *item)
{
	uint64_t heads = transfer_n_chunks(item->bytes) * TRANSFER_CHUNK_HEAD_BYTES;

	if (item->flags & TRANSFER_LEFT_OUT)
		return 0;
	return item->kind == TRANSFER_DISK ? heads : heads + item->bytes;
}

static int take_end(struct transfer_reader *r, struct problem *problem)
{
	if (r->item.bytes != DIGEST_BYTES || r->item.flags || r->offset + DIGEST_BYTES != r->total)
		return transfer_fault(
			problem, "stream: ends at offset %llu, its header announced %llu bytes",
			ull(r->offset + DIGEST_BYTES), ull(r->total));
	expect(r, READ_DIGEST, DIGEST_BYTES);
	return r->sink->item(r->userdata, &r->item, 0, problem);
}

/* After a chunk, or an item's head: the next chunk, or the next item. */
static int advance(struct transfer_reader *r, struct problem *problem)
{
	if (r->item.flags & TRANSFER_LEFT_OUT) {
		expect(r, READ_ITEM, TRANSFER_ITEM_BYTES);
		return 0;
	}
	if (r->chunk < transfer_n_chunks(r->item.bytes)) {
		expect(r, READ_CHUNK, TRANSFER_CHUNK_HEAD_BYTES);
		return 0;
	}
	expect(r, READ_ITEM, TRANSFER_ITEM_BYTES);
	return r->sink->item_end(r->userdata, problem);
}

static int take_item(struct transfer_reader *r, struct problem *problem)
{
	int e = transfer_item_decode(r->piece, r->n_items, problem, &r->item);

	if (e)
		return e;
	r->n_items++;
	r->chunk = 0;
	if (r->item.kind == TRANSFER_END)
		return take_end(r, problem);
	if (least_bytes(&r->item) > room(r))
		return transfer_fault(
			problem,
			"stream: item %u (%s): its %llu bytes do not fit into a stream "
			"of %llu",
			r->item.number, transfer_kind_name(r->item.kind), ull(r->item.bytes),
			ull(r->total));
	e = r->sink->item(r->userdata, &r->item, room(r), problem);
	return e ? e : advance(r, problem);
}

static int take_data(struct transfer_reader *r, const void *data, struct problem *problem)
{
	const uint64_t number = r->chunk++;
	int e;

	if (transfer_tag(r->item.number, number, data, data ? r->chunk_head.bytes : 0) !=
	    r->chunk_head.tag)
		return transfer_fault(
			problem, "stream: item %u (%s), chunk %llu: checksum mismatch",
			r->item.number, transfer_kind_name(r->item.kind), ull(number));
	e = r->sink->data(r->userdata, data, r->chunk_head.bytes, number * TRANSFER_CHUNK_BYTES,
			  problem);
	return e ? e : advance(r, problem);
}

static int take_chunk_head(struct transfer_reader *r, struct problem *problem)
{
	int e = transfer_chunk_decode(r->piece, &r->item, r->chunk, problem, &r->chunk_head);

	if (e)
		return e;
	if (r->chunk_head.flags & TRANSFER_ZERO)
		return take_data(r, NULL, problem);
	if (r->chunk_head.bytes > room(r))
		return transfer_fault(
			problem, "stream: item %u (%s): more than the stream's %llu bytes",
			r->item.number, transfer_kind_name(r->item.kind), ull(r->total));
	expect(r, READ_DATA, r->chunk_head.bytes);
	return 0;
}

static int take_digest(struct transfer_reader *r, struct problem *problem)
{
	XXH128_canonical_t digest;

	XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(r->hash));
	if (memcmp(digest.digest, r->piece, DIGEST_BYTES))
		return transfer_fault(problem,
				      "stream: digest at offset %llu: not that of the stream",
				      ull(r->total - DIGEST_BYTES));
	expect(r, READ_DONE, 0);
	return 0;
}

static int take_piece(struct transfer_reader *r, struct problem *problem)
{
	if (r->state != READ_DIGEST)
		(void)XXH3_128bits_update(r->hash, r->piece, r->need); /* fails only for NULL */
	switch (r->state) {
	case READ_HEADER:
		return take_header(r, problem);
	case READ_ITEM:
		return take_item(r, problem);
	case READ_CHUNK:
		return take_chunk_head(r, problem);
	case READ_DATA:
		return take_data(r, r->piece, problem);
	case READ_DIGEST:
		return take_digest(r, problem);
	case READ_DONE:
		break;
	}
	assert(false); /* transfer_reader_write() collects nothing then */
	return -EINVAL;
}

int transfer_reader_write(struct transfer_reader *r, const void *data, size_t len,
			  struct problem *problem)
{
	const uint8_t *at = data;

	while (len) {
		size_t n = MIN(r->need - r->have, len);
		int e;

		if (r->state == READ_DONE)
			return transfer_fault(problem,
					      "stream: goes on after its end at offset %llu",
					      ull(r->total));
		memcpy(r->piece + r->have, at, n);
		r->have += n;
		r->offset += n;
		at += n;
		len -= n;
		if (r->have < r->need)
			return 0;
		e = take_piece(r, problem);
		if (e)
			return e;
	}
	return 0;
}
