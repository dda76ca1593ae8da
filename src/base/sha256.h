/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * sha256.h - SHA-256 (FIPS 180-4), for the agent, which is too small for a library of cryptography
 *
 * Everything else uses OpenSSL. Meant for short inputs; takes no precautions against side channels.
 */
#include <stddef.h>
#include <stdint.h>

#define SHA256_LEN 32

/** sha256() - the digest of @len bytes */
void sha256(const void *data, size_t len, uint8_t ret[SHA256_LEN]);
