/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * transfer.h - a snapshot as one stream, out of a store and into one
 *
 * The stream has the manifest, the map, device state, every layer and disk, each in checksummed
 * chunks (docs/format-transfer.md). Layers that the other side already has may be left out by id.
 * An import keeps what arrived whole, so that after a broken stream the next one need not bring it
 * again: layers are kept below <root>/incoming/ until the snapshot is complete or a week has
 * passed.
 *
 * Both ends push or pull through plain functions, so that files, sockets and HTTP bodies all do.
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

/* outcomes */
enum {
	TRANSFER_E_STREAM =
		48, /* the stream is damaged, hostile, or ends too early; @problem says where */
	TRANSFER_E_MISSING =
		49, /* it leaves out layers that this store has not got: @problem names one */
	TRANSFER_E_EXISTS = 50, /* the snapshot is here already */
};

/* ---- out ---- */

struct exporter;

struct export_options {
	const char *const *skip; /* ids of layers that the receiver has */
	size_t n_skip;
};

/**
 * exporter_new() - open everything that will be sent
 * @dirfd: a snapshot directory, only used during the call. The snapshot may be deleted meanwhile
 * @options: may be NULL; ids that are not of this snapshot's layers are ignored
 * Takes a descriptor for each layer and disk. Sealed snapshots need no key: they go as they are.
 * Return: 0; IMAGE_E_CORRUPT; IMAGE_E_VERSION; negative errno
 */
int exporter_new(int dirfd, const struct export_options *options, struct problem *problem,
		 struct exporter **ret);
struct exporter *exporter_free(struct exporter *x);
DEFINE_CLEANUP(struct exporter *, exporter_free)
/** exporter_bytes() - length of the whole stream */
uint64_t exporter_bytes(const struct exporter *x);
/**
 * exporter_read() - the next bytes of the stream
 * Return: how many, 0 at the end; negative errno (a file that has become damaged: -EBADMSG)
 */
ssize_t exporter_read(struct exporter *x, void *buf, size_t len, struct problem *problem);

/* ---- in ---- */

struct importer;

struct import_options {
	const struct keyring *keys; /* to authenticate a sealed one; without, it is taken as it is;
				       an unsealed one is refused with keys. Borrowed */
	const char *id; /* another id for it, which must be free; NULL keeps the stream's, or makes
			   a fresh one where another snapshot has that. A sealed snapshot cannot
			   change its id without keys: TRANSFER_E_EXISTS */
	uint64_t max_bytes; /* refuse larger streams; 0: what the file system has free */
};

struct import_stats {
	char id[ID_LEN + 1];
	uint32_t layers_received, layers_present; /* found in this store */
	uint64_t bytes_received;
};

/** importer_new() - @options may be NULL. Removes what has waited in incoming/ for a week */
int importer_new(struct store *store, const struct import_options *options, struct problem *problem,
		 struct importer **ret);
/** importer_free() - layers that arrived whole are kept for the next attempt */
struct importer *importer_free(struct importer *m);
DEFINE_CLEANUP(struct importer *, importer_free)
/**
 * importer_write() - the next bytes
 * What is refused stays refused: every later call answers the same.
 * Return: 0; TRANSFER_E_*; IMAGE_E_VERSION; IMAGE_E_KEY; negative errno (-ENOSPC before anything
 * is written if it is known by then)
 */
int importer_write(struct importer *m, const void *data, size_t len, struct problem *problem);
/**
 * importer_finish() - the stream has ended: verify what is left, commit to snapshots/<id>
 * Return: as importer_write(), TRANSFER_E_STREAM for a stream that ended too early
 */
int importer_finish(struct importer *m, struct problem *problem, struct import_stats *ret);

/** transfer_each_layer() - ids of all layers of this store, incoming ones included, each once */
int transfer_each_layer(struct store *store, int (*visit)(void *userdata, const char *layer_id),
			void *userdata);
