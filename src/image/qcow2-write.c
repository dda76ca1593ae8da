/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2-write.c - an empty overlay, without starting a program
 *
 *     cluster 0      header (104 bytes), extension "backing format", end, name of the backing file
 *     cluster 1      reference count table: one entry, the block in cluster 2
 *     cluster 2      reference counts: 1 for every cluster up to here
 *     cluster 3...   first table (L1), all zeros: 8 bytes per 512 MiB of the disk
 *
 * Four pages are written, whatever the size: all else is holes. A disk of 4 GiB makes a file of
 * 256 KiB that takes 12 KiB.
 */
#include "image/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/mem.h"
#include "image/qcow2-layout.h"

static void put32(uint8_t *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

static void put64(uint8_t *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof(v));
}

int qcow2_write_at(int fd, const void *data, size_t len, uint64_t offset)
{
	const uint8_t *p = data;

	for (size_t done = 0; done < len;) {
		ssize_t n = pwrite(fd, p + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno();
		done += (size_t)n;
	}
	return 0;
}

uint64_t qcow2_l1_entries(uint64_t virtual_bytes)
{
	return (virtual_bytes + QCOW2_L2_REACH - 1) / QCOW2_L2_REACH;
}

uint64_t qcow2_first_free(uint64_t virtual_bytes)
{
	uint64_t l1_bytes = qcow2_l1_entries(virtual_bytes) * 8;

	return QCOW2_L1_CLUSTER + (l1_bytes + QCOW2_CLUSTER - 1) / QCOW2_CLUSTER;
}

static void fill_backing(uint8_t *page, const char *backing, const char *format)
{
	size_t at = QCOW2_HEADER_BYTES, len = strlen(format);

	put32(page + at, QCOW2_EXT_BACKING_FORMAT);
	put32(page + at + 4, (uint32_t)len);
	memcpy(page + at + 8, format, len);
	at += 8 + (len + 7) / 8 * 8;
	at += 8; /* extension 0: the end */
	memcpy(page + at, backing, strlen(backing));
	put64(page + 8, at);
	put32(page + 16, (uint32_t)strlen(backing));
}

static void fill_header(uint8_t *page, uint64_t virtual_bytes)
{
	put32(page, QCOW2_MAGIC);
	put32(page + 4, 3);
	put32(page + 20, QCOW2_CLUSTER_BITS);
	put64(page + 24, virtual_bytes);
	put32(page + 36, (uint32_t)qcow2_l1_entries(virtual_bytes));
	put64(page + 40, QCOW2_L1_CLUSTER * QCOW2_CLUSTER);
	put64(page + 48, QCOW2_REFTABLE_CLUSTER * QCOW2_CLUSTER);
	put32(page + 56, 1); /* clusters of the reference count table */
	put32(page + 96, 4); /* counts of 2^4 bits */
	put32(page + 100, QCOW2_HEADER_BYTES);
}

int qcow2_write_header(int fd, uint64_t virtual_bytes, const char *backing, const char *format)
{
	uint8_t page[4096] = {0};

	if (virtual_bytes == 0 || virtual_bytes > QCOW2_MAX_VIRTUAL_BYTES || virtual_bytes % 512 ||
	    (backing && strlen(backing) > 63) ||
	    (backing && strcmp(format, "raw") && strcmp(format, "qcow2")))
		return error_trace(-EINVAL);
	fill_header(page, virtual_bytes);
	if (backing)
		fill_backing(page, backing, format);
	return error_trace(qcow2_write_at(fd, page, sizeof(page), 0));
}

/* Block @i of counts, and the entry that says where it is. */
static int write_block(int fd, uint8_t *block, uint64_t i, uint64_t cluster, uint64_t n)
{
	uint8_t entry[8];
	int r;

	memset(block, 0, QCOW2_CLUSTER);
	for (uint64_t k = 0; k < n; k++)
		block[2 * k + 1] = 1;
	put64(entry, cluster * QCOW2_CLUSTER);
	r = qcow2_write_at(fd, block, (size_t)(2 * n + 4095) / 4096 * 4096,
			   cluster * QCOW2_CLUSTER);
	return r ? r : qcow2_write_at(fd, entry, 8, QCOW2_REFTABLE_CLUSTER * QCOW2_CLUSTER + i * 8);
}

int qcow2_write_counts(int fd, uint64_t more, uint64_t n_clusters)
{
	const uint64_t per_block = QCOW2_CLUSTER / 2;
	uint64_t n_blocks = (n_clusters + per_block - 1) / per_block;
	_cleanup_free_ uint8_t *block = malloc(QCOW2_CLUSTER);
	int r = block ? 0 : -ENOMEM;

	if (n_blocks > QCOW2_CLUSTER / 8)
		return error_trace(-EFBIG);
	for (uint64_t i = 0; r == 0 && i < n_blocks; i++)
		r = write_block(fd, block, i, i ? more + i - 1 : QCOW2_COUNTS_CLUSTER,
				MIN(n_clusters - i * per_block, per_block));
	return error_trace(r);
}

uint64_t qcow2_empty_bytes(uint64_t virtual_bytes)
{
	return qcow2_first_free(virtual_bytes) * QCOW2_CLUSTER;
}

int qcow2_create(int fd, uint64_t virtual_bytes, const char *backing, const char *backing_format)
{
	uint64_t n_clusters = qcow2_first_free(virtual_bytes);
	int r = qcow2_write_header(fd, virtual_bytes, backing, backing_format);

	if (r == 0)
		r = fd_truncate(fd, n_clusters * QCOW2_CLUSTER);
	if (r == 0)
		r = qcow2_write_counts(fd, n_clusters, n_clusters);
	return error_trace(r);
}

/* The name is the last thing in the header's cluster, so a longer one has room. */
int qcow2_set_backing(int fd, const char *backing, struct problem *problem)
{
	struct qcow2_info info;
	uint8_t place[12];
	uint64_t offset;
	size_t len = strlen(backing);
	int r = qcow2_read_info(fd, problem, &info);

	if (r)
		return r;
	if (!info.backing[0] || len >= sizeof(info.backing))
		return error_trace(-EINVAL);
	r = fd_pread_full(fd, place, sizeof(place), 8);
	memcpy(&offset, place, sizeof(offset));
	offset = be64toh(offset);
	if (r == 0 && offset + len > QCOW2_CLUSTER)
		r = error_trace(-EFBIG);
	if (r == 0)
		r = qcow2_write_at(fd, backing, len, offset);
	put32(place + 8, (uint32_t)len);
	return r ? r : qcow2_write_at(fd, place + 8, 4, 16);
}
