/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* keyring-internal.h - the keys themselves, for seal.c only */
#include <stdint.h>

#include "image/keyring.h"

#define KEYRING_KEY_BYTES 32

/** keyring_find() - the index of the key with this id. Return: the index; -ENOKEY */
int keyring_find(const struct keyring *k, const char *id);

/**
 * keyring_derive() - HKDF-SHA256 of key @i
 * @salt: 32 bytes, or NULL for none
 * @info: what the derived key is for; its zero byte is not part of it
 * Return: 0; -ENOMEM
 */
int keyring_derive(const struct keyring *k, size_t i, const uint8_t *salt, const char *info,
		   uint8_t *ret, size_t len);
