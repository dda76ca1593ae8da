/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * qcow2-layout.h - the qcow2 files that we write; inside of src/image only
 *
 * Version 3, clusters of 64 KiB, counts of 16 bits, no extended tables, nothing compressed: what
 * QEMU makes by default. Source: QEMU docs/interop/qcow2.txt
 */
#include <stddef.h>
#include <stdint.h>

#define QCOW2_MAGIC		 0x514649fbu /* "QFI" 0xfb */
#define QCOW2_HEADER_BYTES	 104u
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW2_CLUSTER_BITS	 16u
#define QCOW2_CLUSTER		 (1ull << QCOW2_CLUSTER_BITS)
#define QCOW2_L2_ENTRIES	 (QCOW2_CLUSTER / 8)
#define QCOW2_L2_REACH		 (QCOW2_L2_ENTRIES * QCOW2_CLUSTER) /* 512 MiB */
#define QCOW2_REFTABLE_CLUSTER	 1ull
#define QCOW2_COUNTS_CLUSTER	 2ull
#define QCOW2_L1_CLUSTER	 3ull

/* entries of L1 and L2 tables */
#define QCOW2_COPIED	 (1ull << 63) /* its count is 1 */
#define QCOW2_COMPRESSED (1ull << 62)
#define QCOW2_ZERO	 1ull
#define QCOW2_OFFSET	 0x00fffffffffffe00ull

/** qcow2_write_at() - all of it. Return: 0; negative errno */
int qcow2_write_at(int fd, const void *data, size_t len, uint64_t offset);

/** qcow2_l1_entries() - L2 tables that a disk of that size can have */
uint64_t qcow2_l1_entries(uint64_t virtual_bytes);

/** qcow2_first_free() - number of the first cluster behind header, counts and L1 table */
uint64_t qcow2_first_free(uint64_t virtual_bytes);

/** qcow2_write_header() - cluster 0 alone. Return: 0; negative errno */
int qcow2_write_header(int fd, uint64_t virtual_bytes, const char *backing, const char *format);

/**
 * qcow2_write_counts() - a count of 1 for the clusters 0 to @n_clusters - 1
 * @more: where blocks of counts lie after the first, which is cluster 2: number of a cluster
 */
int qcow2_write_counts(int fd, uint64_t more, uint64_t n_clusters);
