/* SPDX-License-Identifier: Apache-2.0 */
/*
 * import.c - a snapshot out of a stream that nobody vouches for
 *
 * The manifest comes first and the map second. Together they say of everything that follows what it
 * is, how long it is and, of layers, what its digest is; so each later item has one place, one
 * length and one name (import-place.c), and an item that is not the next expected one is refused at
 * its head. No name in the stream ever becomes a path: layers and disks are named by the manifest,
 * whose reader allows only plain file names.
 *
 *     item                  goes to
 *     manifest, map         memory (4 MiB and 64 MiB at most), then the temporary directory
 *     layers                incoming/ (import-layers.c), linked into the temporary directory
 *     all others            files of the temporary directory
 *
 * transfer-reader.c hands over verified chunks only. What a checksum cannot tell (that a layer's
 * frames decode, that a qcow2 disk names no foreign file, that the whole opens as a snapshot) is
 * verified before the one rename that makes it one (import-commit.c). Until then there is only
 * something below tmp/, and whole layers in incoming/, where the next attempt finds them.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/import-internal.h"
#include "image/outcome.h"
#include "image/page-map.h"

/* The disk begins with what has come while the rest arrives; fsync() has less to wait for then. */
#define WRITE_BACK_BYTES (8u << 20)

#define RESERVE_MAX	 (256ull << 20)
#define RESERVE_SHARE	 64 /* of the file system, which an import leaves free */

#define ull(_v)		 ((unsigned long long)(_v))

int import_blame_stream(struct importer *m, int r)
{
	if (r != IMAGE_E_CORRUPT && r != IMAGE_E_VERSION)
		return error_trace(r);
	m->problem.status = 400;
	return r == IMAGE_E_CORRUPT ? TRANSFER_E_STREAM : r;
}

/* ---- manifest and map -------------------------------------------------------------------------
 */

static int check_disks(struct importer *m)
{
	for (uint32_t i = 0; i < m->manifest.n_disks; i++) {
		const char *format = m->manifest.disks[i].format;

		if (strcmp(format, "raw") && strcmp(format, "qcow2"))
			return transfer_fault(
				&m->problem,
				"manifest.json: disks/%s has the format \"%s\", known "
				"are raw and qcow2",
				m->manifest.disks[i].name, format);
	}
	return 0;
}

static int end_manifest(struct importer *m)
{
	int r;

	r = manifest_decode(m->manifest_text.data ? m->manifest_text.data : "",
			    m->manifest_text.len, &m->problem, &m->manifest, &m->files);
	if (r)
		return import_blame_stream(m, r);
	if (!strcmp(m->manifest.parent_id, m->manifest.id))
		return transfer_fault(&m->problem, "manifest.json: the snapshot is its own parent");
	m->present = calloc(MAX(m->files.n_layers, 1u), sizeof(*m->present));
	if (!m->present)
		return -ENOMEM;
	r = check_disks(m);
	return r ? r : import_check_id(m);
}

static int begin_directory(struct importer *m)
{
	int r = snapshot_begin(m->store->root_fd, m->store->root, &m->problem, &m->tmp);

	if (r < 0)
		return r;
	m->layers_dirfd = file_open_dir(m->tmp.dirfd, "layers");
	m->disks_dirfd = file_open_dir(m->tmp.dirfd, "disks");
	r = MIN(m->layers_dirfd, m->disks_dirfd);
	return r < 0 ? error_trace(r) : 0;
}

static uint64_t missing_bytes(const struct importer *m)
{
	uint64_t bytes = m->manifest.device_bytes;

	for (uint32_t i = 0; i < m->files.n_layers; i++)
		if (!m->present[i])
			bytes += MIN(m->files.layers[i].bytes, TRANSFER_MAX_ITEM_BYTES);
	for (uint32_t i = 0; i < m->manifest.n_disks; i++)
		bytes += MIN(m->manifest.disks[i].size, TRANSFER_MAX_ITEM_BYTES);
	return bytes;
}

/* Whatever the manifest claims, no more than the rest of the stream can be written. */
static int check_space(struct importer *m)
{
	const uint64_t rest = m->reader.total - m->reader.offset;
	const uint64_t need = MIN(missing_bytes(m), rest);
	struct statvfs st;
	uint64_t have, reserve;

	if (fstatvfs(m->store->root_fd, &st) < 0)
		return error_errno();
	have = (uint64_t)st.f_bavail * st.f_frsize;
	reserve = MIN((uint64_t)st.f_blocks * st.f_frsize / RESERVE_SHARE, RESERVE_MAX);
	if (have >= reserve && need <= have - reserve)
		return 0;
	problem_set(&m->problem, 507,
		    "the snapshot needs %llu bytes here, and the file system of %s has %llu free, "
		    "of which %llu are kept in reserve",
		    ull(need), m->store->root, ull(have), ull(reserve));
	problem_hint(&m->problem, "free disk space and try again");
	return -ENOSPC;
}

static int end_map(struct importer *m)
{
	int r = transfer_check_map(&m->manifest, &m->files, m->map.data, m->map.len, &m->problem);

	if (r)
		return import_blame_stream(m, r);
	r = begin_directory(m);
	if (r == 0)
		r = import_find_layers(m);
	if (r == 0)
		r = check_space(m);
	if (r == 0)
		r = file_write_atomic(m->tmp.dirfd, "map", m->map.data, m->map.len, 0444);
	if (r < 0)
		problem_errno(&m->problem, r, "map: writing it");
	buf_deinit(&m->map);
	return error_trace(r);
}

/* ---- files ------------------------------------------------------------------------------------
 */

static int begin_file(struct importer *m, int dirfd, const char *name)
{
	int r;

	m->fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (m->fd >= 0)
		return 0;
	r = error_errno();
	problem_errno(&m->problem, r, "%s: cannot be made", name);
	return r;
}

/* The length is set at the end, as a disk may end in zeros that were not written. */
static int end_file(struct importer *m)
{
	int r;

	if (m->fd < 0)
		return 0; /* an item that is ignored */
	r = fd_truncate(m->fd, m->item.bytes);
	if (r == 0 && fchmod(m->fd, 0444) < 0)
		r = error_errno();
	if (r == 0)
		r = fd_sync(m->fd);
	if (r < 0)
		problem_errno(&m->problem, r, "item %u (%s): %llu bytes", m->item.number,
			      transfer_kind_name(m->item.kind), ull(m->item.bytes));
	m->fd = fd_close(m->fd);
	return r;
}

static int write_at(struct importer *m, const uint8_t *data, size_t len, uint64_t offset)
{
	int r = 0;

	while (r == 0 && len) {
		ssize_t n = pwrite(m->fd, data, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			r = n < 0 ? error_errno() : error_trace(-EIO);
			problem_errno(&m->problem, r, "item %u (%s): writing %zu bytes",
				      m->item.number, transfer_kind_name(m->item.kind), len);
			return r;
		}
		data += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return r;
}

/* ---- the sink ---------------------------------------------------------------------------------
 */

static int on_begin(void *userdata, uint64_t total, struct problem *problem)
{
	struct importer *m = userdata;

	if (!m->options.max_bytes || total <= m->options.max_bytes)
		return 0;
	problem_set(problem, 413, "stream: %llu bytes, at most %llu are accepted", ull(total),
		    ull(m->options.max_bytes));
	return TRANSFER_E_STREAM;
}

static int on_item(void *userdata, const struct transfer_item *item, uint64_t room,
		   struct problem *problem)
{
	struct importer *m = userdata;
	uint32_t index;
	int r = import_check_place(m, item, &index);

	(void)room;
	(void)problem; /* it is m->problem */
	if (r)
		return r;
	m->item = *item;
	m->into = NULL;
	switch (item->kind) {
	case TRANSFER_MANIFEST:
		m->into = &m->manifest_text;
		return 0;
	case TRANSFER_MAP:
		m->into = &m->map;
		return 0;
	case TRANSFER_SEAL:
		return begin_file(m, m->tmp.dirfd, "seal");
	case TRANSFER_DEVICE:
		return begin_file(m, m->tmp.dirfd, "device");
	case TRANSFER_LAYER:
		return import_begin_layer(m);
	case TRANSFER_DISK:
		return begin_file(m, m->disks_dirfd, m->manifest.disks[index].name);
	case TRANSFER_WORKING_SET:
		return begin_file(m, m->tmp.dirfd, "working-set");
	default:
		return 0; /* ignored, or the end */
	}
}

static int on_data(void *userdata, const void *data, uint32_t len, uint64_t offset,
		   struct problem *problem)
{
	struct importer *m = userdata;
	int r;

	(void)problem; /* it is m->problem */
	if (m->into)
		return error_trace(buf_append(m->into, data, len));
	if (m->fd < 0 || !data) /* not wanted, or zeros of a disk: a hole */
		return 0;
	r = write_at(m, data, len, offset);
	if (r == 0 && (offset + len) % WRITE_BACK_BYTES == 0)
		(void)sync_file_range(m->fd, (off_t)(offset + len - WRITE_BACK_BYTES),
				      WRITE_BACK_BYTES, SYNC_FILE_RANGE_WRITE); /* a hint */
	return r;
}

static int on_item_end(void *userdata, struct problem *problem)
{
	struct importer *m = userdata;

	(void)problem; /* it is m->problem */
	switch (m->item.kind) {
	case TRANSFER_MANIFEST:
		return end_manifest(m);
	case TRANSFER_MAP:
		return end_map(m);
	case TRANSFER_LAYER:
		return import_end_layer(m);
	default:
		return end_file(m);
	}
}

/* ---- from outside -----------------------------------------------------------------------------
 */

static const struct transfer_sink sink = {
	.begin = on_begin, .item = on_item, .data = on_data, .item_end = on_item_end};

static int take_options(struct importer *m, const struct import_options *options)
{
	if (!options)
		return 0;
	m->options = *options;
	if (!options->id)
		return 0;
	if (!id_is_valid(options->id)) {
		problem_set(&m->problem, 400, "\"%.40s\" is not an identifier", options->id);
		return -EINVAL;
	}
	str_copy(m->id, sizeof(m->id), options->id);
	m->options.id = m->id;
	return 0;
}

static int begin(struct importer *m, const struct import_options *options)
{
	int r = take_options(m, options);

	if (r < 0)
		return r;
	m->incoming_dirfd = store_open_incoming(m->store);
	r = m->incoming_dirfd < 0 ? m->incoming_dirfd : store_clean_incoming(m->incoming_dirfd);
	if (r < 0)
		problem_errno(&m->problem, r, "%s/incoming", m->store->root);
	return r < 0 ? error_trace(r) : transfer_reader_init(&m->reader, &sink, m);
}

static void hand_problem(const struct importer *m, struct problem *problem)
{
	if (problem && !problem_is_set(problem))
		*problem = m->problem;
}

int importer_new(struct store *store, const struct import_options *options, struct problem *problem,
		 struct importer **ret)
{
	_cleanup_(importer_freep) struct importer *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return -ENOMEM;
	m->store = store;
	m->fd = m->incoming_dirfd = m->layers_dirfd = m->disks_dirfd = -1;
	m->tmp = SNAPSHOT_TMP_INIT;
	r = begin(m, options);
	if (r < 0) {
		hand_problem(m, problem);
		return error_trace(r);
	}
	*ret = take_ptr(m);
	return 0;
}

struct importer *importer_free(struct importer *m)
{
	if (!m)
		return NULL;
	import_drop_part(m);
	snapshot_abort(&m->tmp, m->store->root_fd);
	fd_close(m->layers_dirfd);
	fd_close(m->disks_dirfd);
	fd_close(m->incoming_dirfd);
	transfer_reader_deinit(&m->reader);
	manifest_deinit(&m->manifest);
	manifest_files_deinit(&m->files);
	buf_deinit(&m->manifest_text);
	buf_deinit(&m->map);
	free(m->present);
	free(m);
	return NULL;
}

/* The first failure ends an import. */
static int fail(struct importer *m, struct problem *problem)
{
	import_drop_part(m);
	if (m->error < 0)
		problem_errno(&m->problem, m->error, "importing a snapshot");
	hand_problem(m, problem);
	return error_trace(m->error);
}

int importer_write(struct importer *m, const void *data, size_t len, struct problem *problem)
{
	if (!m->error)
		m->error = transfer_reader_write(&m->reader, data, len, &m->problem);
	if (m->error)
		return fail(m, problem);
	m->stats.bytes_received += len;
	return 0;
}

int importer_finish(struct importer *m, struct problem *problem, struct import_stats *ret)
{
	assert(!m->committed);
	if (!m->error && !transfer_reader_is_done(&m->reader))
		m->error = transfer_fault(&m->problem,
					  "stream: ends after %llu bytes, too early; %u layers "
					  "arrived whole and are kept for the next attempt",
					  ull(m->reader.offset), m->stats.layers_received);
	if (!m->error)
		m->error = import_commit(m);
	if (m->error)
		return fail(m, problem);
	m->committed = true;
	*ret = m->stats;
	return 0;
}
