/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export.c - a snapshot as a stream
 *
 * exporter_new() opens every file, so that the snapshot may be deleted while it is sent, and checks
 * what can be checked without reading frames: the sizes, the map against the manifest, each layer's
 * index against the map. Small things (manifest, map, seal) are kept in memory. From then on the
 * length of the stream and of each of its pieces is fixed.
 *
 * Layers go out as they are stored. Their frames are not verified here: each has its own checksum,
 * which the receiver compares in any case. A file that has another size or time of change at its
 * end than at exporter_new() makes the stream fail.
 *
 * Of disks, holes are not sent: a chunk that lies in one is a head without bytes.
 *
 * One piece is made at a time (a head, or a chunk with its head) and handed out as it is asked for.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "image/export-internal.h"

#define PIECE_BYTES (TRANSFER_CHUNK_HEAD_BYTES + TRANSFER_CHUNK_BYTES)

#define ull(_v)	    ((unsigned long long)(_v))

struct exporter *exporter_free(struct exporter *x)
{
	if (!x)
		return NULL;
	for (uint32_t i = 0; i < x->n_items; i++) {
		fd_close(x->items[i].fd);
		buf_deinit(&x->items[i].text);
		free(x->items[i].data);
	}
	free(x->items);
	(void)XXH3_freeState(x->hash); /* always XXH_OK */
	free(x->piece);
	free(x);
	return NULL;
}

static uint64_t item_bytes(const struct export_item *i)
{
	const uint64_t n = transfer_n_chunks(i->item.bytes);
	uint64_t bytes = TRANSFER_ITEM_BYTES + n * TRANSFER_CHUNK_HEAD_BYTES;

	if (i->item.flags & TRANSFER_LEFT_OUT)
		return TRANSFER_ITEM_BYTES;
	if (!i->data)
		return bytes + i->item.bytes;
	for (uint64_t c = 0; c < n; c++)
		if (bitmap_test(i->data, c))
			bytes += transfer_chunk_bytes(i->item.bytes, c);
	return bytes;
}

static void make_header(struct exporter *x)
{
	x->total = TRANSFER_HEADER_BYTES + TRANSFER_END_BYTES;
	for (uint32_t i = 0; i < x->n_items; i++)
		x->total += item_bytes(&x->items[i]);
	transfer_header_encode(x->total, x->piece);
	x->piece_len = TRANSFER_HEADER_BYTES;
	(void)XXH3_128bits_reset(x->hash); /* fails only for NULL */
	(void)XXH3_128bits_update(x->hash, x->piece, x->piece_len);
}

int exporter_new(int dirfd, const struct export_options *options, struct problem *problem,
		 struct exporter **ret)
{
	_cleanup_(exporter_freep) struct exporter *x = calloc(1, sizeof(*x));
	int r;

	if (!x)
		return -ENOMEM;
	x->items = calloc(1, sizeof(*x->items)); /* for the manifest, which says how many more */
	x->hash = XXH3_createState();
	x->piece = malloc(PIECE_BYTES);
	if (!x->items || !x->hash || !x->piece)
		return -ENOMEM;
	r = export_open(x, dirfd, options, problem);
	if (r < 0)
		problem_errno(problem, r, "snapshot: cannot be exported");
	if (r)
		return error_trace(r);
	make_header(x);
	*ret = take_ptr(x);
	return 0;
}

uint64_t exporter_bytes(const struct exporter *x)
{
	return x->total;
}

/* ---- sending ----------------------------------------------------------------------------------
 */

static int read_chunk(const struct export_item *i, uint64_t offset, void *buf, uint32_t len,
		      struct problem *problem)
{
	int r;

	if (i->text.data) {
		memcpy(buf, i->text.data + offset, len);
		return 0;
	}
	r = fd_pread_full(i->fd, buf, len, offset);
	if (r == -ENODATA) {
		problem_set(problem, 500, "%s: ends before offset %llu: truncated meanwhile",
			    i->what, ull(offset + len));
		return error_trace(-EBADMSG);
	}
	if (r < 0)
		problem_errno(problem, r, "%s: reading at offset %llu", i->what, ull(offset));
	return error_trace(r);
}

static int make_chunk(struct exporter *x, const struct export_item *i, struct problem *problem)
{
	uint8_t *data = x->piece + TRANSFER_CHUNK_HEAD_BYTES;
	struct transfer_chunk chunk = {.bytes = transfer_chunk_bytes(i->item.bytes, x->chunk)};
	uint32_t len = chunk.bytes;
	int r;

	if (i->data && !bitmap_test(i->data, x->chunk)) {
		chunk.flags = TRANSFER_ZERO;
		len = 0;
	}
	r = len ? read_chunk(i, x->chunk * TRANSFER_CHUNK_BYTES, data, len, problem) : 0;
	if (r < 0)
		return r;
	chunk.tag = transfer_tag(i->item.number, x->chunk, len ? data : NULL, len);
	transfer_chunk_encode(&chunk, x->piece);
	x->piece_len = TRANSFER_CHUNK_HEAD_BYTES + len;
	x->chunk++;
	return 0;
}

/* Files of a snapshot never change. One that did was not sent as it was when it was checked. */
static int check_unchanged(const struct export_item *i, struct problem *problem)
{
	struct stat st;

	if (i->fd < 0)
		return 0;
	if (fstat(i->fd, &st) < 0)
		return error_errno();
	if ((uint64_t)st.st_size == i->item.bytes && st.st_mtim.tv_sec == i->mtime.tv_sec &&
	    st.st_mtim.tv_nsec == i->mtime.tv_nsec)
		return 0;
	problem_set(problem, 500, "%s: was altered while it was sent", i->what);
	return error_trace(-EBADMSG);
}

static void make_end(struct exporter *x)
{
	const struct transfer_item end = {
		.kind = TRANSFER_END, .number = x->n_items, .bytes = DIGEST_BYTES};
	XXH128_canonical_t digest;

	transfer_item_encode(&end, x->piece);
	(void)XXH3_128bits_update(x->hash, x->piece, TRANSFER_ITEM_BYTES);
	XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(x->hash));
	memcpy(x->piece + TRANSFER_ITEM_BYTES, digest.digest, DIGEST_BYTES);
	x->piece_len = TRANSFER_END_BYTES;
	x->ended = true;
}

/* The next piece of an item: its head, or a chunk. Return: 0, or 1 when there is none left */
static int make_item_piece(struct exporter *x, struct problem *problem)
{
	struct export_item *i = &x->items[x->at];
	int r;

	if (!x->begun) {
		transfer_item_encode(&i->item, x->piece);
		x->piece_len = TRANSFER_ITEM_BYTES;
		x->begun = true;
		x->chunk = 0;
		return 0;
	}
	if (!(i->item.flags & TRANSFER_LEFT_OUT) && x->chunk < transfer_n_chunks(i->item.bytes))
		return make_chunk(x, i, problem);
	r = check_unchanged(i, problem);
	x->at++;
	x->begun = false;
	return r < 0 ? r : 1;
}

static int make_piece(struct exporter *x, struct problem *problem)
{
	int r = 1;

	x->piece_sent = 0;
	x->piece_len = 0;
	while (r == 1 && x->at < x->n_items)
		r = make_item_piece(x, problem);
	if (r < 0)
		return r;
	if (r == 0)
		(void)XXH3_128bits_update(x->hash, x->piece, x->piece_len);
	else if (!x->ended)
		make_end(x);
	return 0;
}

ssize_t exporter_read(struct exporter *x, void *buf, size_t len, struct problem *problem)
{
	size_t done = 0;

	len = MIN(len, (size_t)SSIZE_MAX);
	while (x->error == 0 && done < len) {
		size_t n = MIN(len - done, x->piece_len - x->piece_sent);

		if (n == 0) {
			x->error = make_piece(x, &x->problem);
			if (x->piece_len == 0)
				break;
			continue;
		}
		memcpy((uint8_t *)buf + done, x->piece + x->piece_sent, n);
		x->piece_sent += n;
		done += n;
	}
	if (done || x->error == 0)
		return (ssize_t)done;
	problem_errno(&x->problem, x->error, "snapshot: sending it");
	if (problem && !problem_is_set(problem))
		*problem = x->problem;
	return error_trace(x->error);
}
