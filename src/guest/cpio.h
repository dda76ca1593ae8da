/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * cpio.h - write an initramfs: a cpio archive in the "newc" format
 *
 * Entries are appended to a buf one after the other; directories before what lies in them; then
 * cpio_end(). Everything belongs to root and carries time 0, so equal inputs give equal bytes.
 * Device nodes are only entries here: no privilege is needed to write one.
 *
 * An entry is a header of 6 + 13 * 8 ASCII characters, the name with its zero, padding to 4 bytes,
 * the data, padding to 4 bytes. The directory "dev", as the third entry:
 *
 *     070701 00000003 000041ED 00000000 00000000 00000002 00000000 00000000 ... 00000004 00000000
 *     magic  inode    mode     uid      gid      nlink    mtime    size     ... namesize check
 *
 * Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst; cpio(5).
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"

/** cpio_dir() - a directory; @path without a leading slash. Return: 0; -ENOMEM */
int cpio_dir(struct buf *out, const char *path, mode_t mode);

/** cpio_file() - a file of @len bytes. Return: 0; -EFBIG from 4 GiB on; -ENOMEM */
int cpio_file(struct buf *out, const char *path, mode_t mode, const void *data, size_t len);

/** cpio_char_device() - a character device node */
int cpio_char_device(struct buf *out, const char *path, mode_t mode, unsigned major,
		     unsigned minor);

/** cpio_end() - the closing entry, padded to a whole block of 512 bytes */
int cpio_end(struct buf *out);
