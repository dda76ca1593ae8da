/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/pagecache.h"

#include <unistd.h>

#include "base/mem.h"

/* As in <linux/mman.h> of those kernels. */
struct range {
	uint64_t offset, len;
};

struct answer {
	uint64_t n_cache, n_dirty, n_writeback, n_evicted, n_recently_evicted;
};

bool pagecache_has(int fd, uint64_t offset, uint64_t len)
{
	struct range range = {.offset = offset, .len = len};
	struct answer answer = {0};

	if (len == 0 || offset > INT64_MAX - len)
		return false;
	if (syscall(__NR_cachestat, fd, &range, &answer, 0) < 0)
		return false;
	return answer.n_cache == (offset + len - 1) / DORM_PAGE_SIZE - offset / DORM_PAGE_SIZE + 1;
}
