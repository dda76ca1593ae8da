/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/cpio.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"

#define CPIO_HEADER_LEN (6 + 13 * 8)
#define CPIO_BLOCK	512

static int pad_to(struct buf *out, size_t multiple)
{
	static const char zeros[CPIO_BLOCK];

	return buf_append(out, zeros, (multiple - out->len % multiple) % multiple);
}

static int entry(struct buf *out, const char *path, mode_t mode, unsigned major, unsigned minor,
		 const void *data, size_t len)
{
	size_t name_len = strlen(path) + 1;
	/* The offset is a number that no other entry has; the kernel joins files of equal inode. */
	size_t inode = strcmp(path, "TRAILER!!!") ? out->len / 4 + 1 : 0;
	char header[CPIO_HEADER_LEN + 1];
	int r;

	if (len > UINT32_MAX || inode > UINT32_MAX)
		return error_trace(-EFBIG);
	(void)snprintf(header, sizeof(header),
		       "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		       (unsigned)inode, (unsigned)mode, 0u, 0u, S_ISDIR(mode) ? 2u : 1u, 0u,
		       (unsigned)len, 0u, 0u, major, minor, (unsigned)name_len, 0u);
	r = buf_append(out, header, CPIO_HEADER_LEN);
	if (r == 0)
		r = buf_append(out, path, name_len);
	if (r == 0)
		r = pad_to(out, 4);
	if (r == 0 && len > 0)
		r = buf_append(out, data, len);
	if (r == 0)
		r = pad_to(out, 4);
	return error_trace(r);
}

int cpio_dir(struct buf *out, const char *path, mode_t mode)
{
	return entry(out, path, S_IFDIR | mode, 0, 0, NULL, 0);
}

int cpio_file(struct buf *out, const char *path, mode_t mode, const void *data, size_t len)
{
	return entry(out, path, S_IFREG | mode, 0, 0, data, len);
}

int cpio_char_device(struct buf *out, const char *path, mode_t mode, unsigned major, unsigned minor)
{
	return entry(out, path, S_IFCHR | mode, major, minor, NULL, 0);
}

int cpio_end(struct buf *out)
{
	int r = entry(out, "TRAILER!!!", 0, 0, 0, NULL, 0);

	return r == 0 ? error_trace(pad_to(out, CPIO_BLOCK)) : r;
}
