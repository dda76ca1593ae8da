/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw-import.c - guest memory that somebody else wrote, as a snapshot
 *
 * The stream is a list of extents in ascending order and says the size of the memory at its end. Of
 * a diff the size is known in advance: its parent's. Then, or when the caller knows it, pages go
 * straight into the new image. Otherwise an image cannot be begun yet, and the pages wait in a
 * sparse temporary file without a name, so that nothing is left of them after a crash.
 *
 * Pages that no extent has keep what the image is made from: zero, or the parent.
 */
#include "image/raw-memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/image-base.h"
#include "image/le.h"
#include "image/outcome.h"
#include "image/transfer-format.h"
#include "image/transfer.h"

#define PIECE_PAGES 256u
#define PIECE_BYTES (PIECE_PAGES * DORM_PAGE_SIZE)

#define ull(_v)	    ((unsigned long long)(_v))

struct raw_importer {
	struct store *store;
	struct raw_import_options options; /* only the plain values; texts are in @manifest */
	uint64_t max_bytes;
	int error; /* the first result that was not 0 */
	struct problem problem;

	struct manifest parent; /* of a diff: its id is not "" */
	int parent_dirfd;

	struct manifest manifest; /* of the new snapshot */
	struct snapshot_tmp tmp;
	struct image_writer *writer; /* NULL as long as the size is unknown */
	int spool;		     /* then the pages wait here; -1 without */

	/* the extent that is arriving */
	enum { RAW_HEAD, RAW_DATA, RAW_DONE } state;
	uint8_t head[RAW_EXTENT_HEAD_BYTES];
	size_t head_have;
	uint64_t at;	/* offset in memory where the pages in @piece begin */
	uint64_t left;	/* bytes of the extent that have not come */
	uint64_t next;	/* where the next extent may begin */
	uint8_t *piece; /* PIECE_BYTES, page-aligned */
	size_t piece_have;
};

struct raw_importer *raw_importer_free(struct raw_importer *m)
{
	if (!m)
		return NULL;
	image_writer_free(m->writer);
	snapshot_abort(&m->tmp, m->store->root_fd);
	manifest_deinit(&m->parent);
	fd_close(m->parent_dirfd);
	fd_close(m->spool);
	free(m->piece);
	free(m);
	return NULL;
}

/* ---- beginning --------------------------------------------------------------------------------
 */

/* What the manifest's reader allows, said before gigabytes have come. */
static int take_name(struct raw_importer *m, const char *name)
{
	const char *c = name;

	if (!name)
		return 0;
	while ((unsigned char)*c >= 0x20 && *c != 0x7f && *c != '/')
		c++;
	if (*c || strstr(name, "..") || strlen(name) >= sizeof(m->manifest.name)) {
		problem_set(&m->problem, 400, "\"%.80s\" cannot be the name of a snapshot", name);
		return -EINVAL;
	}
	str_copy(m->manifest.name, sizeof(m->manifest.name), name);
	return 0;
}

static int open_parent(struct raw_importer *m, const char *id)
{
	char path[sizeof("snapshots/") + ID_LEN];

	if (!id_is_valid(id)) {
		problem_set(&m->problem, 400, "\"%.40s\" is not an identifier", id);
		return -EINVAL;
	}
	(void)snprintf(path, sizeof(path), "snapshots/%s", id); /* fits */
	m->parent_dirfd = file_open_dir(m->store->root_fd, path);
	if (m->parent_dirfd < 0) {
		problem_errno(&m->problem, m->parent_dirfd, "snapshot %s", id);
		return m->parent_dirfd; /* ENOENT is documented */
	}
	return snapshot_open(m->parent_dirfd, m->options.keys, &m->problem, &m->parent);
}

static void fill_manifest(struct raw_importer *m)
{
	id_new('s', m->manifest.id);
	m->manifest.created_ns = clock_real_ns();
	str_copy(m->manifest.vmm, sizeof(m->manifest.vmm), "raw");
	str_copy(m->manifest.parent_id, sizeof(m->manifest.parent_id), m->parent.id);
	str_copy(m->manifest.template_id, sizeof(m->manifest.template_id), m->parent.template_id);
	m->manifest.lineage_sleeps = m->parent.lineage_sleeps + 1;
	m->manifest.lineage_stored = m->parent.lineage_stored;
	m->manifest.lineage_compacted = m->parent.lineage_compacted;
}

static int open_base(struct raw_importer *m, uint64_t n_pages, struct image **ret)
{
	if (m->parent_dirfd < 0)
		return image_open_zero(n_pages, ret);
	return image_open(m->parent_dirfd, m->options.keys, &m->problem, ret);
}

/* From here on the size is known. */
static int begin_image(struct raw_importer *m, uint64_t bytes)
{
	const struct image_writer_options options = {
		.codec = m->options.codec, .level = m->options.level, .keys = m->options.keys};
	_cleanup_(image_unrefp) struct image *base = NULL;
	int r = open_base(m, bytes / DORM_PAGE_SIZE, &base);

	if (r)
		return error_trace(r);
	m->manifest.memory_bytes = bytes;
	r = snapshot_begin(m->store->root_fd, m->store->root, &m->problem, &m->tmp);
	return r ? r
		 : image_writer_new(m->tmp.dirfd, base, m->parent_dirfd, &options, &m->problem,
				    &m->writer);
}

static int begin_spool(struct raw_importer *m)
{
	_cleanup_fd_ int tmp = file_open_dir(m->store->root_fd, "tmp");

	m->spool = tmp < 0 ? -1 : openat(tmp, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	return tmp < 0 ? tmp : m->spool < 0 ? error_errno() : 0;
}

static int check_size(struct raw_importer *m, uint64_t bytes)
{
	const uint64_t known = m->manifest.memory_bytes;

	if (bytes == 0)
		return transfer_fault(&m->problem, "memory: 0 bytes");
	if (bytes % DORM_PAGE_SIZE)
		return transfer_fault(&m->problem,
				      "memory: %llu bytes: the last page is not whole (pages have "
				      "%lu bytes)",
				      ull(bytes), DORM_PAGE_SIZE);
	if (bytes > m->max_bytes)
		return transfer_fault(&m->problem, "memory: %llu bytes, at most %llu are accepted",
				      ull(bytes), ull(m->max_bytes));
	if (known && bytes != known)
		return transfer_fault(&m->problem, "memory: %llu bytes, %s %llu", ull(bytes),
				      m->parent.id[0] ? "but its parent has" : "announced were",
				      ull(known));
	return bytes < m->next
		       ? transfer_fault(&m->problem,
					"memory: %llu bytes, but there was an extent up to %llu",
					ull(bytes), ull(m->next))
		       : 0;
}

static int begin(struct raw_importer *m, const struct raw_import_options *options)
{
	uint64_t bytes;
	int r = take_name(m, options->name);

	if (r == 0 && options->parent_id)
		r = open_parent(m, options->parent_id);
	if (r)
		return r;
	fill_manifest(m);
	bytes = m->parent.memory_bytes ? m->parent.memory_bytes : options->memory_bytes;
	if (!bytes)
		return begin_spool(m);
	r = check_size(m, bytes);
	return r ? r : begin_image(m, bytes);
}

static void hand_problem(const struct raw_importer *m, struct problem *problem)
{
	if (problem && !problem_is_set(problem))
		*problem = m->problem;
}

/* The first failure stays. */
static int fail(struct raw_importer *m, struct problem *problem)
{
	if (m->error < 0)
		problem_errno(&m->problem, m->error, "importing a memory");
	hand_problem(m, problem);
	return error_trace(m->error);
}

int raw_importer_new(struct store *store, const struct raw_import_options *options,
		     struct problem *problem, struct raw_importer **ret)
{
	_cleanup_(raw_importer_freep) struct raw_importer *m = calloc(1, sizeof(*m));
	const uint64_t limit = IMAGE_MAX_PAGES * DORM_PAGE_SIZE;

	if (!m)
		return -ENOMEM;
	m->store = store;
	m->options = *options;
	m->max_bytes = options->max_bytes ? MIN(options->max_bytes, limit) : limit;
	m->parent_dirfd = m->spool = -1;
	m->tmp = SNAPSHOT_TMP_INIT;
	m->piece = aligned_alloc(DORM_PAGE_SIZE, PIECE_BYTES);
	if (!m->piece)
		return -ENOMEM;
	m->error = begin(m, options);
	m->options.parent_id = m->options.name = NULL; /* they are the caller's */
	if (m->error)
		return fail(m, problem);
	*ret = take_ptr(m);
	return 0;
}

/* ---- extents ----------------------------------------------------------------------------------
 */

static bool page_is_zero(const uint8_t *page)
{
	return page[0] == 0 && !memcmp(page, page + 1, DORM_PAGE_SIZE - 1);
}

static int spool_run(struct raw_importer *m, const uint8_t *pages, size_t len, uint64_t at)
{
	while (len) {
		ssize_t n = pwrite(m->spool, pages, len, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? error_errno() : error_trace(-EIO);
		pages += n;
		len -= (size_t)n;
		at += (uint64_t)n;
	}
	return 0;
}

/* The pages of the piece that are not zero; the others stay holes. */
static int spool_piece(struct raw_importer *m)
{
	size_t first = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i <= m->piece_have; i += DORM_PAGE_SIZE) {
		if (i < m->piece_have && !page_is_zero(m->piece + i))
			continue;
		r = spool_run(m, m->piece + first, i - first, m->at + first);
		first = i + DORM_PAGE_SIZE;
	}
	return r;
}

static int flush_piece(struct raw_importer *m)
{
	int r = m->writer ? image_writer_add(m->writer, m->at / DORM_PAGE_SIZE,
					     m->piece_have / DORM_PAGE_SIZE, m->piece, &m->problem)
			  : spool_piece(m);

	m->at += m->piece_have;
	m->piece_have = 0;
	return r;
}

static int check_extent(struct raw_importer *m, uint64_t offset, uint64_t len)
{
	const uint64_t limit = m->manifest.memory_bytes ? m->manifest.memory_bytes : m->max_bytes;

	if (offset % DORM_PAGE_SIZE || len % DORM_PAGE_SIZE)
		return transfer_fault(&m->problem,
				      "extent at offset %llu with %llu bytes: not whole pages of "
				      "%lu bytes",
				      ull(offset), ull(len), DORM_PAGE_SIZE);
	if (offset > limit || len > limit - offset)
		return transfer_fault(&m->problem,
				      "extent at offset %llu with %llu bytes: the memory has at "
				      "most %llu",
				      ull(offset), ull(len), ull(limit));
	if (offset < m->next)
		return transfer_fault(&m->problem,
				      "extent at offset %llu: comes after one that ends at %llu; "
				      "they must ascend",
				      ull(offset), ull(m->next));
	return 0;
}

static int take_head(struct raw_importer *m)
{
	const uint64_t offset = le_get64(m->head), len = le_get64(m->head + 8);
	int r;

	m->head_have = 0;
	r = len ? check_extent(m, offset, len) : check_size(m, offset);
	if (r)
		return r;
	m->state = len ? RAW_DATA : RAW_DONE;
	m->at = offset;
	m->left = len;
	m->next = offset + len;
	return 0;
}

/* Return: how many of the bytes were taken, at least 1. *@ret_error: what came of them */
static size_t take(struct raw_importer *m, const uint8_t *data, size_t len, int *ret_error)
{
	size_t n;

	if (m->state == RAW_HEAD) {
		n = MIN(len, sizeof(m->head) - m->head_have);
		memcpy(m->head + m->head_have, data, n);
		m->head_have += n;
		if (m->head_have == sizeof(m->head))
			*ret_error = take_head(m);
		return n;
	}
	n = MIN(len, PIECE_BYTES - m->piece_have);
	n = (size_t)MIN((uint64_t)n, m->left);
	memcpy(m->piece + m->piece_have, data, n);
	m->piece_have += n;
	m->left -= n;
	if (m->left == 0)
		m->state = RAW_HEAD;
	if (m->left == 0 || m->piece_have == PIECE_BYTES)
		*ret_error = flush_piece(m);
	return n;
}

int raw_importer_write(struct raw_importer *m, const void *data, size_t len,
		       struct problem *problem)
{
	const uint8_t *at = data;

	while (m->error == 0 && len) {
		size_t n;

		if (m->state == RAW_DONE) {
			m->error = transfer_fault(&m->problem, "memory: goes on after its end");
			break;
		}
		n = take(m, at, len, &m->error);
		at += n;
		len -= n;
	}
	return m->error ? fail(m, problem) : 0;
}

/* ---- ending -----------------------------------------------------------------------------------
 */

static int add_spooled(struct raw_importer *m, off_t from, off_t to)
{
	int r = 0;

	for (m->at = (uint64_t)from; r == 0 && m->at < (uint64_t)to;) {
		m->piece_have = MIN((uint64_t)to - m->at, PIECE_BYTES);
		r = fd_pread_full(m->spool, m->piece, m->piece_have, m->at);
		if (r == 0)
			r = flush_piece(m);
	}
	return r;
}

/* What waited for the size. */
static int unspool(struct raw_importer *m, uint64_t bytes)
{
	int r = begin_image(m, bytes);
	off_t data = 0, hole;

	if (r == 0)
		r = fd_truncate(m->spool, bytes);
	while (r == 0 && (data = lseek(m->spool, data, SEEK_DATA)) >= 0) {
		hole = lseek(m->spool, data, SEEK_HOLE);
		if (hole < 0)
			return error_errno();
		/* file systems may answer in blocks smaller than a page */
		data -= data % (off_t)DORM_PAGE_SIZE;
		hole += -hole & (off_t)(DORM_PAGE_SIZE - 1);
		r = add_spooled(m, data, MIN(hole, (off_t)bytes));
		data = hole;
	}
	if (r == 0 && data < 0 && errno != ENXIO)
		return error_errno();
	return r;
}

static int commit(struct raw_importer *m, struct image_writer_stats *ret_stats)
{
	char final[sizeof("snapshots/") + ID_LEN];
	int r = 0;

	if (m->spool >= 0)
		r = unspool(m, m->next);
	if (r == 0)
		r = image_writer_commit(m->writer, &m->manifest.stats, m->manifest.image_id,
					&m->problem);
	if (r == 0)
		r = image_base_put(m->tmp.dirfd, m->parent_dirfd, &m->parent, true, &m->problem,
				   m->manifest.base_image_id);
	if (r)
		return r;
	m->manifest.lineage_stored += m->manifest.stats.bytes_stored;
	(void)snprintf(final, sizeof(final), "snapshots/%s", m->manifest.id); /* fits */
	*ret_stats = m->manifest.stats;
	return snapshot_commit(&m->tmp, m->store->root_fd, final, &m->manifest, m->options.keys,
			       &m->problem);
}

int raw_importer_finish(struct raw_importer *m, struct problem *problem, char ret_id[ID_LEN + 1],
			struct image_writer_stats *ret_stats)
{
	struct image_writer_stats stats;

	if (!m->error && m->state != RAW_DONE)
		m->error = transfer_fault(&m->problem,
					  "memory: the stream ends too early, after offset %llu",
					  ull(m->at));
	if (!m->error)
		m->error = commit(m, &stats);
	if (m->error)
		return fail(m, problem);
	memcpy(ret_id, m->manifest.id, sizeof(m->manifest.id));
	if (ret_stats)
		*ret_stats = stats;
	return 0;
}
