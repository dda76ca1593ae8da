/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/page-cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"

#define CLEAR_MS      1000
#define HUGE_BYTES    (2u << 20)
#define OVERCOMMIT    "/proc/sys/vm/nr_overcommit_hugepages"
#define WORTH_BYTES   (2u << 20) /* less than this is stored sooner than it is cleared */
#define RESERVE_BYTES (8u << 20) /* what others may need meanwhile */

static int write_drop(void)
{
	_cleanup_fd_ int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);

	return fd < 0 || write(fd, "1", 1) < 0 ? -1 : 0;
}

/* Return: bytes; 0 when it is not to be known */
static uint64_t free_bytes(void)
{
	_cleanup_fd_ int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
	unsigned long long kb = 0;
	char text[512];
	const char *at;
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	text[MAX(n, 0)] = 0;
	at = strstr(text, "MemFree:");
	return at && sscanf(at, "MemFree: %llu kB", &kb) == 1 ? kb << 10 : 0;
}

static int write_overcommit(unsigned long n)
{
	_cleanup_fd_ int fd = open(OVERCOMMIT, O_WRONLY | O_CLOEXEC);

	return fd < 0 || dprintf(fd, "%lu", n) < 0 ? -1 : 0;
}

/*
 * In huge pages: one fault for 512 pages. They come from the buddy allocator as others do, and go
 * back to it at the exit. Fewer than wanted are fine: what is not cleared is stored.
 */
static void clear(uint64_t bytes)
{
	uint64_t deadline_ns = deadline_after_ms(CLEAR_MS);
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_HUGETLB, -1, 0);

	for (uint64_t at = 0; p != MAP_FAILED && at < bytes && !deadline_passed(deadline_ns); at += HUGE_BYTES)
		if (madvise(p + at, HUGE_BYTES, MADV_POPULATE_WRITE) < 0)
			return;
}

int page_cache_drop(void)
{
	uint64_t before = free_bytes(), after, bytes;

	if (write_drop() < 0)
		return -1;
	after = free_bytes();
	if (after < before + WORTH_BYTES || after < RESERVE_BYTES)
		return 0;
	bytes = MIN(after - before, after - RESERVE_BYTES) / HUGE_BYTES * HUGE_BYTES;
	if (write_overcommit(bytes / HUGE_BYTES) < 0)
		return 0; /* a kernel without huge pages: a larger snapshot */
	clear(bytes);
	return write_overcommit(0);
}
