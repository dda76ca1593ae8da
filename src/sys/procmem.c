/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel takes at most IOV_MAX (1024) ranges per call, copies at most 2 GiB minus a page, and
 * may stop early at any range it cannot read. So: take a batch, give the kernel as much room as the
 * batch needs, and go on behind what was copied; a call that copies nothing is the error.
 */
#include "sys/procmem.h"

#include "base/error.h"
#include "base/mem.h"

#define BATCH	  1024
#define BATCH_LEN (1ul << 30)

/* Fill @vec from (range @i, byte @skip) on. Return: number of entries; @ret_len: their sum */
static size_t fill_batch(const struct iovec *ranges, size_t n_ranges, size_t i, size_t skip,
			 struct iovec vec[BATCH], size_t *ret_len)
{
	size_t n = 0, len = 0;

	for (; i < n_ranges && n < BATCH && len < BATCH_LEN; i++, skip = 0) {
		size_t part = MIN(ranges[i].iov_len - skip, BATCH_LEN - len);

		vec[n++] = (struct iovec){(char *)ranges[i].iov_base + skip, part};
		len += part;
	}
	*ret_len = len;
	return n;
}

int procmem_read(pid_t pid, const struct iovec *ranges, size_t n_ranges, void *out)
{
	size_t i = 0, skip = 0;
	char *to = out;

	while (i < n_ranges) {
		struct iovec vec[BATCH], local;
		size_t len, n = fill_batch(ranges, n_ranges, i, skip, vec, &len);
		ssize_t done = 0;

		local = (struct iovec){to, len};
		if (len)
			done = process_vm_readv(pid, &local, 1, vec, n, 0);
		if (done < 0)
			return error_errno();
		if (len && !done)
			return error_trace(-EFAULT);
		to += done;
		for (skip += (size_t)done; i < n_ranges && skip >= ranges[i].iov_len; i++)
			skip -= ranges[i].iov_len;
	}
	return 0;
}
