/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * pagecache.h - what of a file is in memory already
 *
 * A hint: it may have changed before the caller acts on it. Any thread.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>

#ifndef __NR_cachestat
#define __NR_cachestat 451 /* Linux 6.5, on every architecture */
#endif

/**
 * pagecache_has() - are these bytes of a file all in the page cache? Begins no read.
 * Return: false also when the kernel does not say: before Linux 6.5, or of a file that the caller
 * neither owns nor may write to
 * Source: cachestat(2)
 */
bool pagecache_has(int fd, uint64_t offset, uint64_t len);
