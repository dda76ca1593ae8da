/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* import-internal.h - the inside of an import, for import*.c only */
#include "base/buf.h"
#include "image/incoming.h"
#include "image/manifest.h"
#include "image/transfer-reader.h"
#include "image/transfer.h"

struct importer {
	struct store *store;
	struct import_options options; /* with @id pointing to @id, or NULL */
	char id[ID_LEN + 1];
	int error;		/* the first result that was not 0; the import is of no more use */
	struct problem problem; /* why */
	struct import_stats stats;
	struct transfer_reader reader;
	bool committed;

	/* once the manifest is there */
	struct buf manifest_text;
	struct manifest manifest;
	struct manifest_files files;
	bool *present; /* by number of the layer: linked into the temporary directory, verified */

	/* once the map is there */
	struct buf map;
	struct snapshot_tmp tmp; /* begun if it has a name */
	int layers_dirfd, disks_dirfd;
	int incoming_dirfd;

	/* the item that is arriving goes into a buffer, or a file, or nowhere */
	struct transfer_item item;
	struct buf *into;
	int fd;
	char part[INCOMING_NAME_LEN + 1]; /* a layer's name in incoming/; "" without */
};

/* The problem of the import, in which IMAGE_E_CORRUPT of what came by the stream is its fault. */
int import_blame_stream(struct importer *m, int r);

/* import-place.c */

/**
 * import_check_place() - may this item come now, with this length?
 * @ret_index: its number among those of its kind
 * Return: 0; TRANSFER_E_STREAM
 */
int import_check_place(struct importer *m, const struct transfer_item *item, uint32_t *ret_index);
/** import_layer_number() - of a layer item that has its place. Return: index into files.layers */
uint32_t import_layer_number(const struct importer *m);

/** import_is_sealed() - does its manifest say that it is sealed? */
bool import_is_sealed(const struct importer *m);

/* import-layers.c */

/** import_find_layers() - link those that the store has into the temporary directory */
int import_find_layers(struct importer *m);
/** import_begin_layer() - the item is one. Return: 0; TRANSFER_E_MISSING; negative errno */
int import_begin_layer(struct importer *m);
/** import_end_layer() - verify it, keep it in incoming/, link it */
int import_end_layer(struct importer *m);
/** import_drop_part() - remove what has not become a layer */
void import_drop_part(struct importer *m);
/** import_forget_layers() - the snapshot exists: its layers need not wait in incoming/ any more */
void import_forget_layers(struct importer *m);

/* import-commit.c */

/** import_check_id() - may the snapshot have its id? Return: 0; TRANSFER_E_EXISTS; negative errno
 */
int import_check_id(struct importer *m);
/** import_commit() - all items are there: verify the whole and give it its name */
int import_commit(struct importer *m);
