/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loader-io.c - the steps of a read, the same for every back end
 *
 * A direct read wants offset, length and memory to be multiples of the file system's logical block.
 * So it reads a little more around what is wanted, in units of 4096 bytes:
 *
 *     wanted            offset 5000, 3000 bytes
 *     read              offset 4096, 4096 bytes, to the buffer's begin
 *     data              buffer + 904 (5000 modulo 4096)
 *
 * 4096 is a multiple of every block size that disks have (512, 4096), and frames are not smaller.
 * A file system that wants more, or does not know O_DIRECT after all, answers EINVAL, and the read
 * begins anew through the page cache, at the same place in the buffer. That is the answer that
 * counts: what statx() says about alignment needs Linux 6.1 and does not cover all of them.
 *
 * The kernel may give less than was asked for. Then there is another step, unless the file ends
 * there: an answer of 0, or a direct read that stops within a block. A read that has all that is
 * wanted is complete, whatever lies behind.
 */
#include "pager/loader-io.h"

#include <errno.h>

#include "base/error.h"

#define MAX_RETRIES 1000 /* in a row; the kernel has then had every chance */

static void prepare(struct loader_read *r, bool direct)
{
	const uint32_t skip = (uint32_t)(r->offset % LOADER_BLOCK);

	r->direct = direct;
	r->at = r->offset - skip;
	r->first = direct ? 0 : skip;
	r->enough = skip + r->len;
	r->end = direct ? (r->enough + LOADER_BLOCK - 1) / LOADER_BLOCK * LOADER_BLOCK : r->enough;
	r->done = r->first;
	r->retries = 0;
}

int loader_read_start(struct loader_read *r)
{
	r->result = 0;
	if (r->len == 0 || r->offset > (uint64_t)INT64_MAX - LOADER_ROOM((uint64_t)r->len)) {
		r->result = -EINVAL;
		return error_trace(-EINVAL);
	}
	prepare(r, r->direct_fd >= 0);
	return 0;
}

struct loader_step loader_read_step(const struct loader_read *r)
{
	return (struct loader_step){
		.fd = r->direct ? r->direct_fd : r->fd,
		.data = r->buffer + r->done,
		.len = r->end - r->done,
		.offset = r->at + r->done,
	};
}

static bool complete(struct loader_read *r, int result)
{
	r->result = error_trace(result);
	return true;
}

static bool failed(struct loader_read *r, int error)
{
	if (error == -EINTR || error == -EAGAIN)
		return ++r->retries > MAX_RETRIES ? complete(r, error) : false;
	if (r->direct && (error == -EINVAL || error == -EOPNOTSUPP)) {
		prepare(r, false);
		return false;
	}
	return complete(r, error);
}

bool loader_read_stepped(struct loader_read *r, int64_t n)
{
	if (n < 0)
		return failed(r, (int)n);
	if (n == 0)
		return complete(r, -EIO); /* the file ends too early */
	r->retries = 0;
	r->done += (uint32_t)n;
	if (r->done >= r->enough)
		return complete(r, 0);
	if (r->direct && r->done % LOADER_BLOCK)
		return complete(r, -EIO); /* likewise */
	return false;
}
