/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * guest-ram.h - a VM's memory as an onlooker sees it, and what differs between two of them
 *
 *     ram_find(), then ram_read() as often as wanted; nothing to release
 *
 * Deliberately nothing of src/vmm in here: the code that saves memory must not be what judges it.
 * The mapping is looked up in /proc/PID/maps by the memory file's device and inode, its pages are
 * read with process_vm_readv(2). Reading a page that is not there raises the same fault that the
 * guest would, so a pager has to serve the VM. (Not through /proc/PID/mem: there the kernel does
 * not wait for a userfaultfd, and a page that is not there yet is EIO.) Any thread: nothing
 * changes.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/problem.h"

#define RAM_MAX_PIECES 16

struct ram {
	pid_t pid;
	unsigned n_pieces;
	struct ram_piece {
		uint64_t start, end; /* addresses in the process */
		uint64_t offset;     /* in the memory file: gfn * page size */
	} pieces[RAM_MAX_PIECES];
};

/**
 * ram_find() - find all of a VM's memory
 * @memory_fd: any descriptor of the memory file; borrowed
 * @bytes:     how much memory the guest has; every byte of it must be mapped, exactly once
 */
int ram_find(pid_t pid, int memory_fd, uint64_t bytes, struct problem *problem, struct ram *ret);
int ram_read(const struct ram *ram, uint64_t gfn, uint64_t n_pages, void *out);

#define DIFF_MAX_PLACES 6

struct diff {
	uint64_t n_compared; /* pages */
	uint64_t n_pages;    /* of those, with at least one byte that differs */
	unsigned n_places;   /* the first of them, in the order of comparing */
	struct diff_place {
		uint64_t gfn;
		unsigned at; /* first byte of the page that differs */
		uint8_t expected, found;
		bool expected_zero, found_zero; /* the whole page */
	} places[DIFF_MAX_PLACES];
};

/** diff_pages() - compare @n_pages pages from @gfn on, adding to @diff */
void diff_pages(struct diff *diff, uint64_t gfn, uint64_t n_pages, const void *expected,
		const void *found);

enum page_order {
	ORDER_ASCENDING,
	ORDER_DESCENDING,
	ORDER_STRIDED, /* 1021 pages further every time, round and round */
	ORDER_SHUFFLED,
	N_PAGE_ORDERS
};
extern const char *const page_order_names[N_PAGE_ORDERS];

/** page_order_new() - every gfn below @n_pages once; fresh memory (free()), NULL without memory */
uint32_t *page_order_new(enum page_order order, uint32_t n_pages);
