/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * manifest.h - manifest.json as text: strict reading, writing
 *
 * struct manifest (image/snapshot.h) is what a caller knows of a snapshot; struct manifest_files is
 * what only the file says: sizes and digests of what lies beside it. Pure functions on memory.
 */
#include <stddef.h>
#include <stdint.h>

#include "base/problem.h"
#include "image/image.h"
#include "image/plain-file.h"
#include "image/snapshot.h"

#define MANIFEST_MAX_BYTES (4u << 20) /* 4096 layers take 600 KB */

struct manifest_layer {
	char id[IMAGE_ID_LEN + 1];
	uint64_t bytes;
	char digest[DIGEST_LEN + 1]; /* of the layer's index */
};

struct manifest_files {
	uint64_t map_bytes;
	uint32_t n_layers;
	struct manifest_layer *layers; /* owned; in the order of the map */
};

void manifest_files_deinit(struct manifest_files *f);

/**
 * manifest_encode() - the text of manifest.json
 * @ret: zero-terminated, free()
 * Return: 0; -ENOMEM; -EINVAL when a text is not UTF-8
 */
int manifest_encode(const struct manifest *m, const struct manifest_files *files, char **ret);

/**
 * manifest_decode() - and refuse whatever manifest_encode() could not have written
 * Return: 0; IMAGE_E_CORRUPT naming the field; IMAGE_E_VERSION; -ENOMEM
 */
int manifest_decode(const char *text, size_t len, struct problem *problem, struct manifest *ret,
		    struct manifest_files *ret_files);

/** manifest_replace_id() - the same text with another id (and digest), everything else kept */
int manifest_replace_id(const char *text, size_t len, const char *id, char **ret);

/** manifest_read_text() - "manifest.json" as it is. Return: 0; IMAGE_E_CORRUPT; -ENOENT; negative
 * errno */
int manifest_read_text(int dirfd, struct problem *problem, char **ret, size_t *ret_len);

/** manifest_read() - read and decode "manifest.json". Return: as manifest_decode(); -ENOENT */
int manifest_read(int dirfd, struct problem *problem, struct manifest *ret,
		  struct manifest_files *ret_files);
