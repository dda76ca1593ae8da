/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * pagemap.h - which pages of a private file mapping were written or used, asked from the page
 * tables
 *
 * In a MAP_PRIVATE mapping of a file copy-on-write is the dirty log: a page that was written is
 * anonymous, every other one is the file's, the zero page, or absent. The process may run, but then
 * the answer is only as of each page's visit; a snapshot asks while the VM is paused.
 *
 * Needs ptrace permission on the process, and CAP_SYS_ADMIN (page frame numbers) to tell apart zero
 * pages and markers; without it they count as written, which is safe and wasteful.
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct pagemap_range {
	uint64_t start; /* address */
	uint64_t n_pages;
};

/* Ascending ranges, neighbours merged. Zero-initialised; released with pagemap_list_deinit(). */
struct pagemap_list {
	struct pagemap_range *items;
	size_t n;
	size_t cap;
};

void pagemap_list_deinit(struct pagemap_list *l);

/** pagemap_list_add() - append pages; they must lie behind all others. Return: 0; -ENOMEM */
int pagemap_list_add(struct pagemap_list *l, uint64_t start, uint64_t n_pages);

/** pagemap_open() - Return: descriptor of /proc/PID/pagemap; -ESRCH; negative errno */
int pagemap_open(pid_t pid);

/**
 * pagemap_written() - append the written pages of [start, end) to @list
 * @fd: from pagemap_open(); @start, @end: multiples of the page size
 * Uses the PAGEMAP_SCAN ioctl, and where the kernel (before 6.7) lacks it, pagemap_written_read().
 * Return: 0; -ESRCH when the process is gone; negative errno
 */
int pagemap_written(int fd, uint64_t start, uint64_t end, struct pagemap_list *list);

/** pagemap_written_scan() - only by the ioctl. Return: 0; -ENOTTY when the kernel lacks it; ... */
int pagemap_written_scan(int fd, uint64_t start, uint64_t end, struct pagemap_list *list);

/** pagemap_written_read() - only by reading an entry of 8 bytes for every page */
int pagemap_written_read(int fd, uint64_t start, uint64_t end, struct pagemap_list *list);

/**
 * pagemap_touched() - append the pages that are mapped: the file's and the written ones
 * What a process used of memory that raises no fault when it is there. Zero pages are not in it.
 * Read faults map resident neighbours too, up to 16 pages of 64 KiB that are aligned in the address
 * space ("fault-around"), so of such pages at least one was used, not each. Otherwise as
 * pagemap_written()
 */
int pagemap_touched(int fd, uint64_t start, uint64_t end, struct pagemap_list *list);

/** pagemap_touched_scan(), pagemap_touched_read() - only by the one or the other */
int pagemap_touched_scan(int fd, uint64_t start, uint64_t end, struct pagemap_list *list);
int pagemap_touched_read(int fd, uint64_t start, uint64_t end, struct pagemap_list *list);

struct pagemap_count {
	uint64_t written; /* anonymous */
	uint64_t shared;  /* present, the file's; zero pages are neither */
};

/** pagemap_count() - count pages of [start, end) */
int pagemap_count(int fd, uint64_t start, uint64_t end, struct pagemap_count *ret);
