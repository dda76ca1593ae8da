/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * layer-writer.h - writing one layer file
 *
 * layer_writer_new() creates the file; frames are appended; commit adds index and footer, makes
 * the file read-only and fsyncs it. One thread, which may have a helper of its own. After an error
 * only free is allowed; the unfinished file stays for the owner of the directory to remove.
 */
#include <stdint.h>

#include "base/mem.h"
#include "base/problem.h"
#include "image/image.h"
#include "image/layer-format.h"

struct layer_writer;

struct layer_options {
	enum image_codec codec;
	int level;
	const uint8_t *key; /* LAYER_KEY_BYTES: encrypt frames; NULL: checksums only. Copied */
};

/**
 * layer_writer_new() - create the file @layers_dirfd/<hex of @id>
 * @layers_dirfd: borrowed, only during the call
 */
int layer_writer_new(int layers_dirfd, const uint8_t id[LAYER_ID_BYTES],
		     const struct layer_options *options, struct problem *problem,
		     struct layer_writer **ret);
struct layer_writer *layer_writer_free(struct layer_writer *w);
DEFINE_CLEANUP(struct layer_writer *, layer_writer_free)

/** layer_writer_add() - append a frame of @n_pages (1 .. IMAGE_FRAME_PAGES) */
int layer_writer_add(struct layer_writer *w, const void *pages, uint32_t n_pages,
		     struct problem *problem);

/**
 * layer_writer_commit() - finish the file; at least one frame was added
 * @ret_digest: of the index, DIGEST_BYTES
 */
int layer_writer_commit(struct layer_writer *w, uint8_t *ret_digest, uint64_t *ret_bytes,
			struct problem *problem);
