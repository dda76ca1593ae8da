/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * id.h - random bytes and identifiers
 *
 * Identifiers are 20 characters of [a-z0-9] drawn from the kernel's random numbers, with a letter in
 * front that says of what: 'i' a sandbox, 's' a snapshot, 'b' a template build. No '-' in them: host
 * names like 3000-<id>.example are split there.
 */
#include <stdbool.h>
#include <stddef.h>

#define ID_LEN 21 /* prefix + 20 */

/** id_random() - fill with random bytes; the kernel's generator is always ready on supported hosts */
void id_random(void *buf, size_t len);

/** id_new() - a fresh identifier; @out holds ID_LEN + 1 bytes */
void id_new(char prefix, char out[ID_LEN + 1]);

/** id_is_valid() - has @s the form of an identifier (any prefix)? Safe as a file name if so */
bool id_is_valid(const char *s);
