/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * page-cache.h - have nothing in memory that can be read again
 *
 * Dropping the page cache frees its pages, but leaves what was in them: to the host a page that was
 * written is a page to be stored, whether the guest uses it or not. So as much memory as was freed
 * is taken once more, which has the kernel zero it, and given back; zero pages are not stored. The
 * kernel hands out what was freed last first, so it is mostly the same pages.
 *
 * Worked example: a guest of 512 MiB read a disk of 160 MiB; its sleep stored 161 MiB after a drop
 * alone, and after this some hundred KiB.
 */

/**
 * page_cache_drop() - the page cache, and only that: dentries and inodes are small and dear
 * Blocks: for a child process, which may be killed. Return: 0; -1 with errno
 */
int page_cache_drop(void);
