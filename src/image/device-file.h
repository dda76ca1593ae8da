/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * device-file.h - the file "device" of a sealed snapshot: the device state, encrypted
 *
 * Format: docs/format-image.md, "Seals". Any thread.
 */
#include <stdint.h>

#include "base/problem.h"
#include "image/layer-format.h"

#define DEVICE_FILE_HEADER_BYTES 40u
#define DEVICE_FILE_MAX_BYTES	 (1u << 30) /* it passes through memory as a whole */

/**
 * device_file_seal() - write the encrypted file "device" in @dirfd, durably
 * @fd: the plain device state from its beginning; may be the file "device" that this one replaces
 */
int device_file_seal(int dirfd, int fd, const uint8_t key[LAYER_KEY_BYTES],
		     struct problem *problem);

/**
 * device_file_open() - decrypt and check
 * @fd:  a regular file of @bytes bytes; borrowed
 * @ret: a memfd that cannot be altered, at offset 0
 * Return: 0; IMAGE_E_CORRUPT; IMAGE_E_VERSION; negative errno
 */
int device_file_open(int fd, uint64_t bytes, const uint8_t key[LAYER_KEY_BYTES],
		     struct problem *problem, int *ret);
