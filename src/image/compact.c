/* SPDX-License-Identifier: Apache-2.0 */
#include "image/compact.h"

#include <errno.h>
#include <string.h>

int compact_inspect(int dirfd, const struct compact_policy *policy, struct problem *problem,
		    struct compact_report *ret)
{
	return -ENOSYS;
}

int snapshot_compact(int root_fd, const char *root, int src_dirfd, const char *final, bool replace,
		     const char *id, const struct compact_options *options, struct problem *problem,
		     struct compact_stats *ret)
{
	return -ENOSYS;
}
