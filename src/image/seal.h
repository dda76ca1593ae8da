/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * seal.h - the file "seal" of a snapshot: its data keys, wrapped by a tenant key, and what
 * authenticates map and manifest
 *
 *     image_writer:     seal_new_key() for its layer, seal_write() beside the map
 *     image_open():     seal_open(), seal_unwrap(), seal_match(): the layers' keys
 *     snapshot_commit() seal_device_key(), seal_put_manifest()
 *     snapshot_open()   seal_check_manifest()
 *
 * struct seal is what the file says and holds no secret. Unwrapped keys are wiped by whoever holds
 * them. Pure memory and small files; any thread. Format: docs/format-image.md, "Seals".
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/problem.h"
#include "image/keyring.h"
#include "image/layer-format.h"
#include "image/page-map.h"

#define SEAL_MAX_BYTES	   (1u << 20) /* 4096 layers take 600 KB */
#define SEAL_SALT_BYTES	   32
#define SEAL_MAC_BYTES	   32
#define SEAL_WRAPPED_BYTES (LAYER_KEY_BYTES + 16)

/* outcomes, beside those of image.h */
enum {
	SEAL_E_ABSENT = 24, /* there is no file "seal" */
};

struct seal_layer {
	uint8_t id[LAYER_ID_BYTES];
	uint8_t wrapped[SEAL_WRAPPED_BYTES];
};

struct seal {
	char key_id[KEY_ID_LEN + 1];
	uint8_t salt[SEAL_SALT_BYTES];
	uint32_t n_layers;
	struct seal_layer *layers; /* owned; in the order of the map */
	uint8_t device[SEAL_WRAPPED_BYTES];
	uint8_t map_mac[SEAL_MAC_BYTES];
	bool has_manifest; /* not before snapshot_commit() */
	uint8_t manifest_mac[SEAL_MAC_BYTES];
};

void seal_deinit(struct seal *s);

/** seal_new_key() - a random data key */
int seal_new_key(uint8_t ret[LAYER_KEY_BYTES]);

/**
 * seal_write() - wrap data keys under the first key of @keys, and write "seal" (0444, durable)
 * @names: the map's layers in its order, @n of them
 * @layer_keys: theirs
 * @map:   the bytes of the file "map"
 * The key of the device state is made here. Return: 0; negative errno
 */
int seal_write(int dirfd, const struct keyring *keys, const struct layer_name *names,
	       const uint8_t (*layer_keys)[LAYER_KEY_BYTES], uint32_t n, const void *map,
	       size_t map_len, struct problem *problem);

/**
 * seal_read() - the file, strictly; nothing in it is trusted before seal_unwrap()
 * Return: 0; SEAL_E_ABSENT; IMAGE_E_CORRUPT; IMAGE_E_VERSION; negative errno
 */
int seal_read(int dirfd, struct problem *problem, struct seal *ret);

/**
 * seal_open() - seal_read(), and the rule that with keys everything is sealed and without nothing
 * @check_only: without keys either is fine
 * Return: 0; SEAL_E_ABSENT, which then is right; IMAGE_E_KEY; as seal_read()
 */
int seal_open(int dirfd, const struct keyring *keys, bool check_only, struct problem *problem,
	      struct seal *ret);

/** seal_match() - does it name exactly the map's layers? Return: 0; IMAGE_E_CORRUPT */
int seal_match(const struct seal *s, const struct layer_name *names, uint32_t n,
	       struct problem *problem);

/**
 * seal_unwrap() - check that the map is the one that was sealed, and unwrap the layers' keys
 * @ret_keys: n_layers of them; wipe and free()
 * Return: 0; IMAGE_E_KEY naming both key ids; IMAGE_E_CORRUPT; negative errno
 */
int seal_unwrap(const struct seal *s, const struct keyring *keys, const void *map, size_t map_len,
		struct problem *problem, uint8_t (**ret_keys)[LAYER_KEY_BYTES]);

/** seal_device_key() - the key of the device state. Return: as seal_unwrap() */
int seal_device_key(const struct seal *s, const struct keyring *keys, struct problem *problem,
		    uint8_t ret[LAYER_KEY_BYTES]);

/**
 * seal_put_manifest() - authenticate a manifest as well and write "seal" into @dirfd
 * @text: the bytes of manifest.json
 */
int seal_put_manifest(struct seal *s, int dirfd, const struct keyring *keys, const char *text,
		      size_t len, struct problem *problem);

/** seal_check_manifest() - is it the one that was sealed? Return: as seal_unwrap() */
int seal_check_manifest(const struct seal *s, const struct keyring *keys, const char *text,
			size_t len, struct problem *problem);

/**
 * seal_rewrap() - the same data keys and content under the first key of @keys
 * Return: 0; as seal_unwrap()
 */
int seal_rewrap(const struct seal *s, const struct keyring *keys, const void *map, size_t map_len,
		const char *manifest, size_t manifest_len, struct problem *problem,
		struct seal *ret);

/** seal_put() - write "seal" into @dirfd, replacing one by rename */
int seal_put(const struct seal *s, int dirfd, struct problem *problem);

/** seal_encode() - the text of the file; free() */
int seal_encode(const struct seal *s, char **ret);
/** seal_decode() - Return: 0; IMAGE_E_CORRUPT naming the field; IMAGE_E_VERSION; -ENOMEM */
int seal_decode(const char *text, size_t len, struct problem *problem, struct seal *ret);
