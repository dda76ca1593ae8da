/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export-open.c - the files of a snapshot that is to be sent
 *
 * All are opened at once, small ones read. The map is checked against the manifest, each layer's
 * index against both, so that a snapshot with a damaged index is not even begun. Holes of disks are
 * found now, because the length of the stream depends on them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "image/export-internal.h"
#include "image/layer.h"
#include "image/manifest.h"
#include "image/outcome.h"
#include "image/page-map.h"
#include "image/snapshot-files.h"
#include "image/working-set.h"

#define ull(_v) ((unsigned long long)(_v))

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

	*ret = i; /* it is in the list, whatever comes of it */
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

/* Is it a working set of this image? */
static bool is_of_use(const struct buf *text, const struct manifest *m)
{
	_cleanup_(working_set_deinit) struct working_set s = {0};

	return working_set_decode(text->data, text->len, NULL, &s) == 0 &&
	       !strcmp(s.image_id, m->image_id) &&
	       s.guest_pages == m->memory_bytes / DORM_PAGE_SIZE;
}

/* A working set that is not is left out. */
static int open_optional(struct exporter *x, int dirfd, const struct manifest *m,
			 struct problem *problem)
{
	struct export_item *i = &x->items[x->n_items], *same;
	struct problem why = PROBLEM_INIT; /* of what is left out: nobody's concern */
	struct stat st;
	int r;

	if (fstatat(dirfd, WORKING_SET_NAME, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
		return 0;
	r = add_text(x, TRANSFER_WORKING_SET, dirfd, WORKING_SET_NAME, WORKING_SET_MAX_BYTES, &why,
		     &same);
	if (r == 0 && is_of_use(&i->text, m))
		return 0;
	if (r < 0) {
		problem_errno(problem, r, "working-set: reading it");
		return error_trace(r);
	}
	x->n_items--;
	fd_close(i->fd);
	buf_deinit(&i->text);
	return 0;
}

int export_open(struct exporter *x, int dirfd, const struct export_options *options,
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
	return r ? r : open_optional(x, dirfd, &m, problem);
}
