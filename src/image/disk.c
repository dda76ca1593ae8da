/* SPDX-License-Identifier: Apache-2.0 */
#include "image/disk.h"

#include <errno.h>
#include <string.h>

int disk_reflink_parse(const char *text, enum disk_reflink *ret)
{
	return -ENOSYS;
}

int disk_copy(int from_fd, int to_dirfd, const char *name, unsigned mode, enum disk_reflink reflink,
	      struct problem *problem, struct disk_copy_stats *ret)
{
	return -ENOSYS;
}

int qcow2_read_info(int fd, struct problem *problem, struct qcow2_info *ret)
{
	return -ENOSYS;
}

int disk_check_chain(int disks_dirfd, const struct snapshot_disk *disks, size_t n,
		     struct problem *problem)
{
	return -ENOSYS;
}
