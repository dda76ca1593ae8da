/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* str.h - text: formatting into fresh memory, prefixes, numbers, names */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** str_printf() - formatted text in fresh memory (free()). Return: NULL when out of memory */
char *str_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/** str_has_prefix() - the rest of @s after @prefix, or NULL */
const char *str_has_prefix(const char *s, const char *prefix);

/** str_has_suffix() - does @s end with @suffix? */
bool str_has_suffix(const char *s, const char *suffix);

/** str_to_u64() - the whole of @s as a decimal number. Return: 0; -EINVAL; -ERANGE */
int str_to_u64(const char *s, uint64_t *ret);

/**
 * str_to_bytes() - a size with an optional suffix: "512M", "2GiB", "4096"
 * Suffixes K, M, G, T (with or without iB), powers of 1024. Return: 0; -EINVAL; -ERANGE
 */
int str_to_bytes(const char *s, uint64_t *ret);

/** str_format_bytes() - "12.3 MiB"; @buf holds 16 bytes */
char *str_format_bytes(uint64_t n, char buf[16]);

/** str_copy() - copy into a fixed buffer, cutting; always terminated */
void str_copy(char *dst, size_t size, const char *src);

/**
 * str_is_name() - a name that people give: 1 to 63 of [a-z0-9._-], starting with a letter or digit
 * Safe as a file name: never ".", never "..", no separator.
 */
bool str_is_name(const char *s);

/** str_hex() - lower-case hexadecimal; @out holds 2 * @len + 1 bytes */
void str_hex(const void *data, size_t len, char *out);

/** str_unhex() - @len bytes from exactly 2 * @len hexadecimal digits. Return: 0; -EINVAL */
int str_unhex(const char *s, void *out, size_t len);

/** str_equal_secret() - are they equal? In a time that does not tell where they differ */
bool str_equal_secret(const char *a, const char *b);
