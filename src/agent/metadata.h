/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * metadata.h - what clients note on a file: extended attributes "user.e2b.KEY"
 *
 * A set comes with an upload as X-Metadata-KEY headers (keys in lower case, as HTTP has them), is
 * stored with the file, and is told with it. A file system without user attributes has no
 * metadata: reading gives none, writing a set that is not empty fails.
 *
 * Limits (API.md): a key of at most 246 bytes, keys and values together at most 4096 bytes,
 * printable ASCII. Reading leaves out what others may have stored that is beyond them.
 * Any thread; may block on the file's file system.
 */
#include <jansson.h>

#include "base/problem.h"

struct header_list;

#define METADATA_KEY_MAX   246u
#define METADATA_TOTAL_MAX 4096u

/**
 * metadata_from_headers() - the set that a request brings
 * @ret: new object {key: value}; NULL when there are none
 * Return: 0; -EINVAL with a 400 in @problem; -ENOMEM
 */
int metadata_from_headers(const struct header_list *headers, struct problem *problem, json_t **ret);

/**
 * metadata_read() - the set of a file
 * @path: links are followed; "/proc/self/fd/N" means a descriptor, also one opened with O_PATH
 * @ret: new object {key: value}; NULL when there are none
 * Return: 0; negative errno
 */
int metadata_read(const char *path, json_t **ret);

/**
 * metadata_write() - replace the set of an open file
 * @set: borrowed; NULL: none
 * Return: 0; -ENOTSUP: the file system keeps none; negative errno (ENOSPC, E2BIG: it is full)
 */
int metadata_write(int fd, const json_t *set);
