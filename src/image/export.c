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
#include "image/transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/bitmap.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "image/layer.h"
#include "image/manifest.h"
#include "image/outcome.h"
#include "image/page-map.h"
#include "image/snapshot-files.h"
#include "image/transfer-format.h"

#define PIECE_BYTES (TRANSFER_CHUNK_HEAD_BYTES + TRANSFER_CHUNK_BYTES)

#define ull(_v)	    ((unsigned long long)(_v))

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

/* ---- opening ----------------------------------------------------------------------------------
 */

static struct export_item *add_item(struct exporter *x, uint32_t kind, const char *what)
{
	struct export_item *i = &x->items[x->n_items];

	*i = (struct export_item){.fd = -1, .item = {.kind = kind, .number = x->n_items}};
	str_copy(i->what, sizeof(i->what), what);
	x->n_items++;
	return i;
}

/* A file that stays open until it is sent. */
static int add_file(struct exporter *x, uint32_t kind, int dirfd, const char *name,
		    const char *what, struct problem *problem, struct export_item **ret)
{
	struct export_item *i = add_item(x, kind, what);
	struct stat st;
	int r = plain_file_open(dirfd, name, what, problem, &i->fd, &i->item.bytes);

	if (r)
		return r;
	if (fstat(i->fd, &st) < 0)
		return error_errno();
	i->mtime = st.st_mtim;
	if (i->item.bytes > TRANSFER_MAX_ITEM_BYTES) {
		problem_set(problem, 400, "%s: %llu bytes are too many for a stream, limit %llu",
			    what, ull(i->item.bytes), TRANSFER_MAX_ITEM_BYTES);
		return error_trace(-EFBIG);
	}
	*ret = i;
	return 0;
}

/* A file of at most @max bytes that is read now. */
static int add_text(struct exporter *x, uint32_t kind, int dirfd, const char *name, uint64_t max,
		    struct problem *problem, struct export_item **ret)
{
	struct export_item *i;
	int r = add_file(x, kind, dirfd, name, name, problem, &i);

	if (r)
		return r;
	if (i->item.bytes > max)
		return image_corrupt(problem, "%s: %llu bytes, limit %llu", name,
				     ull(i->item.bytes), ull(max));
	r = buf_reserve(&i->text, (size_t)i->item.bytes + 1);
	if (r == 0)
		r = fd_pread_full(i->fd, i->text.data, (size_t)i->item.bytes, 0);
	if (r < 0) {
		problem_errno(problem, r, "%s: reading it", name);
		return error_trace(r);
	}
	i->text.len = (size_t)i->item.bytes;
	i->fd = fd_close(i->fd);
	*ret = i;
	return 0;
}

static int open_text(struct exporter *x, int dirfd, struct problem *problem, struct manifest *m,
		     struct manifest_files *files)
{
	struct export_item *manifest, *map, *seal;
	int r;

	r = add_text(x, TRANSFER_MANIFEST, dirfd, "manifest.json", MANIFEST_MAX_BYTES, problem,
		     &manifest);
	if (r == 0)
		r = manifest_decode(manifest->text.data, manifest->text.len, problem, m, files);
	if (r == 0)
		r = snapshot_check_files(dirfd, m, files, problem);
	if (r)
		return r;
	/* from here on all items fit: kinds, layers, disks */
	x->cap_items = 8 + files->n_layers + m->n_disks;
	manifest = realloc(x->items, x->cap_items * sizeof(*x->items));
	if (!manifest)
		return -ENOMEM;
	x->items = manifest;
	r = add_text(x, TRANSFER_MAP, dirfd, "map", PAGE_MAP_MAX_BYTES, problem, &map);
	if (r == 0)
		r = transfer_check_map(m, files, map->text.data, map->text.len, problem);
	if (r == 0 && !strcmp(m->seal, "aes-256-gcm"))
		r = add_text(x, TRANSFER_SEAL, dirfd, "seal", TRANSFER_MAX_SEAL_BYTES, problem,
			     &seal);
	return r;
}

/* Is it the layer that the map means? Its digest stands for its index, and so for its frames. */
static int check_layer(const struct export_item *i, const struct manifest_layer *l,
		       struct problem *problem)
{
	_cleanup_(layer_closep) struct layer *layer = NULL;
	char digest[DIGEST_LEN + 1];
	int fd = dup(i->fd), r;

	if (fd < 0)
		return error_errno();
	r = layer_open_fd_consume(fd, i->item.bytes, i->item.layer, NULL, problem, &layer);
	if (r)
		return r;
	str_hex(layer_digest(layer), DIGEST_BYTES, digest);
	if (i->item.bytes != l->bytes || strcmp(digest, l->digest))
		return image_corrupt(problem, "%s: not the one that the manifest means", i->what);
	return 0;
}

static bool is_skipped(const struct export_options *options, const char *id)
{
	for (size_t i = 0; options && i < options->n_skip; i++)
		if (!strcmp(options->skip[i], id))
			return true;
	return false;
}

static int open_layer(struct exporter *x, int layers_dirfd, const struct manifest_layer *l,
		      const struct export_options *options, struct problem *problem)
{
	struct export_item *i;
	char what[48];
	int r;

	(void)snprintf(what, sizeof(what), "layer %s", l->id); /* 32 digits: fits */
	r = add_file(x, TRANSFER_LAYER, layers_dirfd, l->id, what, problem, &i);
	if (r == 0)
		r = str_unhex(l->id, i->item.layer, LAYER_ID_BYTES);
	if (r == 0)
		r = check_layer(i, l, problem);
	if (r == 0 && is_skipped(options, l->id)) {
		i->item.flags = TRANSFER_LEFT_OUT;
		i->fd = fd_close(i->fd);
	}
	return r;
}

static int open_layers(struct exporter *x, int dirfd, const struct manifest_files *files,
		       const struct export_options *options, struct problem *problem)
{
	_cleanup_fd_ int layers_dirfd = -1;
	int r = 0;

	if (files->n_layers)
		r = plain_dir_open(dirfd, "layers", problem, &layers_dirfd);
	for (uint32_t i = 0; r == 0 && i < files->n_layers; i++)
		r = open_layer(x, layers_dirfd, &files->layers[i], options, problem);
	return r;
}

/* Which chunks have data. A file system that cannot say has data everywhere. */
static int find_data(struct export_item *i)
{
	const off_t end = (off_t)i->item.bytes;
	off_t data = 0, hole;

	i->data = bitmap_new(transfer_n_chunks(i->item.bytes) + 1);
	if (!i->data)
		return -ENOMEM;
	while (data < end) {
		data = lseek(i->fd, data, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break; /* a hole up to the end */
		hole = data < 0 ? -1 : lseek(i->fd, data, SEEK_HOLE);
		if (hole <= data) {
			free(i->data);
			i->data = NULL;
			return 0;
		}
		for (off_t at = data; at < MIN(hole, end);
		     at += TRANSFER_CHUNK_BYTES - at % (off_t)TRANSFER_CHUNK_BYTES)
			bitmap_set(i->data, (size_t)at / TRANSFER_CHUNK_BYTES);
		data = hole;
	}
	return 0;
}

static int open_disks(struct exporter *x, int dirfd, const struct manifest *m,
		      struct problem *problem)
{
	_cleanup_fd_ int disks_dirfd = -1;
	int r = 0;

	if (m->n_disks)
		r = plain_dir_open(dirfd, "disks", problem, &disks_dirfd);
	for (uint32_t n = 0; r == 0 && n < m->n_disks; n++) {
		struct export_item *i;
		char what[48];

		(void)snprintf(what, sizeof(what), "disks/%s", m->disks[n].name); /* fits */
		r = add_file(x, TRANSFER_DISK, disks_dirfd, m->disks[n].name, what, problem, &i);
		if (r == 0)
			r = find_data(i);
	}
	return r;
}

static int open_optional(struct exporter *x, int dirfd, struct problem *problem)
{
	struct export_item *i;

	if (faccessat(dirfd, "working-set", F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
		return 0;
	return add_text(x, TRANSFER_WORKING_SET, dirfd, "working-set", TRANSFER_MAX_SET_BYTES,
			problem, &i);
}

static int open_all(struct exporter *x, int dirfd, const struct export_options *options,
		    struct problem *problem)
{
	_cleanup_(manifest_files_deinit) struct manifest_files files = {0};
	_cleanup_(manifest_deinit) struct manifest m = {0};
	struct export_item *device;
	int r;

	r = open_text(x, dirfd, problem, &m, &files);
	if (r == 0 && m.device_bytes)
		r = add_file(x, TRANSFER_DEVICE, dirfd, "device", "device", problem, &device);
	if (r == 0)
		r = open_layers(x, dirfd, &files, options, problem);
	if (r == 0)
		r = open_disks(x, dirfd, &m, problem);
	return r ? r : open_optional(x, dirfd, problem);
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
	r = open_all(x, dirfd, options, problem);
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
