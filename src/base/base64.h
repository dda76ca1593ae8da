/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* base64.h - RFC 4648 section 4 (standard alphabet, padded), as JSON carries bytes */
#include <stddef.h>
#include <sys/types.h>

/** base64_encoded_len() - characters for @len bytes, without the final zero */
static inline size_t base64_encoded_len(size_t len)
{
	return (len + 2) / 3 * 4;
}

/** base64_encode() - @out holds base64_encoded_len() + 1 bytes. Return: characters written */
size_t base64_encode(const void *data, size_t len, char *out);

/**
 * base64_decode() - @out holds @len / 4 * 3 bytes; missing padding is accepted
 * Return: bytes written; -EINVAL for any other character
 */
ssize_t base64_decode(const char *s, size_t len, void *out);
