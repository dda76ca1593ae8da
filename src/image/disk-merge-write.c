/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disk-merge-write.c - several qcow2 layers as one
 *
 * For each cluster of the disk the newest layer that says anything counts: data, or zeros. Data are
 * copied, unless they are zeros; zeros are written down if there is a disk below that could show
 * something else there; where no layer says anything, the new one does not either.
 *
 *     layer 2      .   zero   B     .        .: nothing is said
 *     layer 1      A    A     A     .
 *     merged       A   zero   B     .        8 bytes and no cluster for "zero"
 *
 * The new file: header, counts, L1; data clusters as they come, after the data of 512 MiB of the
 * disk their L2 table; further blocks of counts at the end.
 *
 * Tables come from files that others may have written (an import): whatever points outside of its
 * file, or to where no cluster begins, is refused. A cluster that the file ends in is zeros from
 * there on, as QEMU has it.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/mem.h"
#include "image/disk-merge.h"
#include "image/qcow2-layout.h"
#include "image/qcow2.h"

struct layer {
	int fd;
	uint64_t file_bytes;
	uint64_t l1_offset;
	uint64_t *l2; /* of the region at hand, as in the file */
	bool empty;   /* there is none */
};

struct merger {
	struct layer layers[SNAPSHOT_MAX_DISKS];
	size_t n;
	int out;
	uint64_t virtual_bytes;
	bool has_backing;
	uint64_t next; /* cluster of @out */
	uint64_t *l2;  /* of @out, for the region at hand */
	uint8_t *cluster;
	struct problem *problem;
};

static int corrupt(struct merger *m, size_t layer, const char *what)
{
	problem_set(m->problem, 500, "qcow2: layer %zu of the chain: %s", layer, what);
	return DISK_E_CORRUPT;
}

/* ---- reading ----------------------------------------------------------------------------------
 */

static int read_layer(struct merger *m, size_t i, int fd)
{
	struct layer *l = &m->layers[i];
	struct qcow2_info info;
	uint8_t head[QCOW2_HEADER_BYTES];
	struct stat st;
	uint64_t features, l1;
	uint32_t bits;
	int r = qcow2_read_info(fd, m->problem, &info);

	if (r == 0)
		r = fstat(fd, &st) < 0 ? error_errno() : fd_pread_full(fd, head, sizeof(head), 0);
	if (r)
		return r;
	memcpy(&bits, head + 20, 4);
	memcpy(&l1, head + 40, 8);
	memcpy(&features, head + 72, 8);
	if (be32toh(bits) != QCOW2_CLUSTER_BITS || head[7] != 3 || features ||
	    (i && info.virtual_bytes != m->virtual_bytes))
		return -EOPNOTSUPP;
	m->virtual_bytes = info.virtual_bytes;
	l->fd = fd;
	l->file_bytes = (uint64_t)st.st_size;
	l->l1_offset = be64toh(l1); /* qcow2_read_info() has seen that the table is in the file */
	l->l2 = malloc(QCOW2_CLUSTER);
	return l->l2 ? 0 : -ENOMEM;
}

static bool is_in_file(const struct layer *l, uint64_t offset)
{
	return offset && offset % QCOW2_CLUSTER == 0 && offset < l->file_bytes;
}

/* At @offset, of a file that may end on the way. */
static int read_cluster(const struct layer *l, uint64_t offset, void *to)
{
	size_t len = MIN(l->file_bytes - offset, QCOW2_CLUSTER);

	memset((char *)to + len, 0, QCOW2_CLUSTER - len);
	return fd_pread_full(l->fd, to, len, offset);
}

static int read_tables(struct merger *m, uint64_t region)
{
	for (size_t i = 0; i < m->n; i++) {
		struct layer *l = &m->layers[i];
		uint64_t entry;
		int r = fd_pread_full(l->fd, &entry, 8, l->l1_offset + region * 8);

		if (r < 0)
			return error_trace(r);
		entry = be64toh(entry) & QCOW2_OFFSET;
		l->empty = !entry;
		if (entry && !is_in_file(l, entry))
			return corrupt(m, i, "a table lies outside of its file");
		r = entry ? read_cluster(l, entry, l->l2) : 0;
		if (r < 0)
			return error_trace(r);
	}
	return 0;
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static bool is_zero(const uint8_t *p, size_t len)
{
	return !p[0] && !memcmp(p, p + 1, len - 1);
}

static int copy_cluster(struct merger *m, size_t layer, uint64_t offset, uint64_t *ret_entry)
{
	struct layer *l = &m->layers[layer];
	int r;

	if (!is_in_file(l, offset))
		return corrupt(m, layer, "data lie outside of its file");
	r = read_cluster(l, offset, m->cluster);
	if (r < 0)
		return error_trace(r);
	if (is_zero(m->cluster, QCOW2_CLUSTER)) {
		*ret_entry = m->has_backing ? QCOW2_ZERO : 0;
		return 0;
	}
	r = qcow2_write_at(m->out, m->cluster, QCOW2_CLUSTER, m->next * QCOW2_CLUSTER);
	*ret_entry = m->next++ * QCOW2_CLUSTER | QCOW2_COPIED;
	return r;
}

static int merge_entry(struct merger *m, uint64_t k, uint64_t *ret)
{
	*ret = 0;
	for (size_t i = m->n; i-- > 0;) {
		uint64_t entry = m->layers[i].empty ? 0 : be64toh(m->layers[i].l2[k]);

		if (entry & QCOW2_COMPRESSED)
			return -EOPNOTSUPP;
		if (entry & QCOW2_ZERO) {
			*ret = m->has_backing ? QCOW2_ZERO : 0;
			return 0;
		}
		if (entry & QCOW2_OFFSET)
			return copy_cluster(m, i, entry & QCOW2_OFFSET, ret);
	}
	return 0;
}

static int write_table(struct merger *m, uint64_t region)
{
	uint64_t entry = htobe64(m->next * QCOW2_CLUSTER | QCOW2_COPIED);
	int r = qcow2_write_at(m->out, m->l2, QCOW2_CLUSTER, m->next * QCOW2_CLUSTER);

	m->next++;
	if (r == 0)
		r = qcow2_write_at(m->out, &entry, 8,
				   QCOW2_L1_CLUSTER * QCOW2_CLUSTER + region * 8);
	return r;
}

static int merge_region(struct merger *m, uint64_t region, bool (*cancelled)(void *userdata),
			void *userdata)
{
	bool any = false;
	int r = read_tables(m, region);

	for (uint64_t k = 0; r == 0 && k < QCOW2_L2_ENTRIES; k++) {
		uint64_t entry;

		if (cancelled && cancelled(userdata))
			return -ECANCELED;
		r = merge_entry(m, k, &entry);
		m->l2[k] = htobe64(entry);
		any |= entry != 0;
	}
	return r || !any ? r : write_table(m, region);
}

static int finish(struct merger *m, const char *backing, const char *format)
{
	const uint64_t per_block = QCOW2_CLUSTER / 2;
	uint64_t first = m->next, more = 0;
	int r;

	while ((1 + more) * per_block < first + more)
		more++;
	r = fd_truncate(m->out, (first + more) * QCOW2_CLUSTER);
	if (r == 0)
		r = qcow2_write_counts(m->out, first, first + more);
	return r ? r : qcow2_write_header(m->out, m->virtual_bytes, backing, format);
}

static void merger_deinit(struct merger *m)
{
	for (size_t i = 0; i < m->n; i++)
		free(m->layers[i].l2);
	free(m->l2);
	free(m->cluster);
}

int disk_merge_write(const int *fds, size_t n, const char *backing, const char *backing_format,
		     int out, bool (*cancelled)(void *userdata), void *userdata,
		     struct problem *problem)
{
	_cleanup_(merger_deinit) struct merger m = {
		.n = n, .out = out, .has_backing = backing != NULL, .problem = problem};
	int r = n && n <= SNAPSHOT_MAX_DISKS ? 0 : -EINVAL;

	m.l2 = malloc(QCOW2_CLUSTER);
	m.cluster = malloc(QCOW2_CLUSTER);
	if (r == 0 && (!m.l2 || !m.cluster))
		r = -ENOMEM;
	for (size_t i = 0; r == 0 && i < n; i++)
		r = read_layer(&m, i, fds[i]);
	if (r)
		return r;
	m.next = qcow2_first_free(m.virtual_bytes);
	for (uint64_t i = 0; r == 0 && i < qcow2_l1_entries(m.virtual_bytes); i++)
		r = merge_region(&m, i, cancelled, userdata);
	if (r == 0)
		r = finish(&m, backing, backing_format);
	if (r < 0 && r != -EOPNOTSUPP && r != -ECANCELED)
		problem_errno(problem, r, "qcow2: merging layers");
	return r;
}
