/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * write-behind.h - writing a file from front to back while the caller makes the next bytes
 *
 *     write_behind_new() -> write_behind_put() ... -> write_behind_finish() -> free
 *
 * Bytes collect in buffers of 1 MiB. The first full one starts a thread, which writes them in order
 * and asks the kernel to begin with the disk early, so that the fsync at the end finds little left
 * to do. Files below 1 MiB have no thread, and touch no more memory. When 16 buffers wait, put
 * waits.
 *
 * One thread owns the object. After an error every call says it again, and only free is useful.
 */
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"

struct write_behind;

/** write_behind_new() - @fd: borrowed, at offset 0, must stay open until free */
int write_behind_new(int fd, struct write_behind **ret);

/** write_behind_free() - waits for a write under way; what was not written yet is not */
struct write_behind *write_behind_free(struct write_behind *w);
DEFINE_CLEANUP(struct write_behind *, write_behind_free)

/** write_behind_put() - the next @len bytes; @data NULL stands for zeros. Return: 0; negative errno
 */
int write_behind_put(struct write_behind *w, const void *data, size_t len);

/** write_behind_finish() - until everything was handed to the kernel. Return: 0; negative errno */
int write_behind_finish(struct write_behind *w);

/** write_behind_written() - bytes that the kernel has taken: after an error, where it happened */
uint64_t write_behind_written(struct write_behind *w);
