/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * buf.h - a growable run of bytes
 *
 * Embedded by value: `struct buf b = {0};`, filled with buf_append(), released with buf_deinit().
 * data[len] is always a zero byte once anything was appended, so text can be used as a string.
 */
#include <stddef.h>
#include <stdint.h>

struct buf {
	char *data;
	size_t len;
	size_t cap;
};

/** buf_deinit() - release and empty; also the cleanup function of an embedded buf */
void buf_deinit(struct buf *b);
#define _cleanup_buf_ __attribute__((cleanup(buf_deinit)))

/** buf_reserve() - make room for @more bytes past len. Return: 0; -ENOMEM */
int buf_reserve(struct buf *b, size_t more);

/** buf_append() - copy @len bytes to the end. Return: 0; -ENOMEM */
int buf_append(struct buf *b, const void *data, size_t len);

/** buf_printf() - append formatted text. Return: 0; -ENOMEM */
int buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** buf_consume() - drop @len bytes from the front; @len <= b->len */
void buf_consume(struct buf *b, size_t len);
