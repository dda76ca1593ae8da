/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * raw-memory.h - guest memory as a plain file, as Firecracker writes it
 *
 * Full: byte n of the file is byte n of the guest. Diff: the same, but only the pages that changed
 * are data; holes mean "as before", not zero. Over a pipe or HTTP a raw memory goes as extents: u64
 * offset, u64 length (both little-endian, multiples of the page size), the bytes; and at the end an
 * extent of length 0 whose offset is the size of the memory (docs/format-transfer.md).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/id.h"
#include "base/mem.h"
#include "image/keyring.h"
#include "image/snapshot.h"
#include "image/store.h"

#define RAW_EXTENT_HEAD_BYTES 16u /* u64 offset, u64 length */

struct raw_import_options {
	const char *parent_id; /* a snapshot that a diff is applied to; NULL: a full memory */
	const char *name;      /* of the snapshot; NULL without */
	enum image_codec codec;
	int level;
	const struct keyring *keys;
	uint64_t max_bytes;    /* of memory; 0: IMAGE_MAX_PAGES */
	uint64_t memory_bytes; /* of a full memory, if it is known in advance: its pages need not
				  wait in a temporary file for the end of the stream then; 0:
				  unknown */
};

struct raw_importer;

/**
 * raw_importer_new() - a snapshot of memory alone: no device state, VMM "raw"
 * Return: 0; IMAGE_E_* of the parent; -ENOENT without it; -EINVAL; negative errno
 */
int raw_importer_new(struct store *store, const struct raw_import_options *options,
		     struct problem *problem, struct raw_importer **ret);
struct raw_importer *raw_importer_free(struct raw_importer *m);
DEFINE_CLEANUP(struct raw_importer *, raw_importer_free)
/**
 * raw_importer_write() - the next bytes of the extents, which ascend and do not overlap
 * Return: 0; TRANSFER_E_STREAM; IMAGE_E_CORRUPT of the parent; negative errno
 */
int raw_importer_write(struct raw_importer *m, const void *data, size_t len,
		       struct problem *problem);
/** raw_importer_finish() - the stream has ended: commit to snapshots/<id>. Return: as write */
int raw_importer_finish(struct raw_importer *m, struct problem *problem, char ret_id[ID_LEN + 1],
			struct image_writer_stats *ret_stats);

struct raw_exporter;

/**
 * raw_exporter_new() - the extents of a snapshot's memory that are not zero, up to 1 MiB each
 * @dirfd: a snapshot directory, only used during the call. The snapshot may be deleted meanwhile
 * Return: 0; IMAGE_E_*; negative errno
 */
int raw_exporter_new(int dirfd, const struct keyring *keys, struct problem *problem,
		     struct raw_exporter **ret);
struct raw_exporter *raw_exporter_free(struct raw_exporter *x);
DEFINE_CLEANUP(struct raw_exporter *, raw_exporter_free)
/** raw_exporter_read() - Return: bytes, 0 at the end; negative errno (damage: -EBADMSG) */
ssize_t raw_exporter_read(struct raw_exporter *x, void *buf, size_t len, struct problem *problem);
