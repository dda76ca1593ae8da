/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * memfd.h - files that live in memory and have no name
 *
 * memfd_new() gives a file of a fixed size, all holes, that can neither grow nor shrink (so a
 * mapping of it never raises SIGBUS). Its mode is 0444: whoever gets a read-only descriptor of it
 * and is not root cannot reopen it for writing. Any thread.
 *
 * Reading a hole through a mapping allocates a page of zeros in the file, for everybody. Whoever
 * maps a file whose holes mean "not loaded yet" must register the mapping with userfaultfd first.
 * read(2) of a hole allocates nothing.
 */
#include <stddef.h>
#include <stdint.h>

/**
 * memfd_new() - an empty file of @size bytes, sealed against growing, shrinking and more seals
 * @name: shown in /proc/PID/maps as "/memfd:@name"
 * Return: a read-write descriptor; negative errno
 * Source: memfd_create(2), fcntl(2) "File Sealing"
 */
int memfd_new(const char *name, uint64_t size);

/** memfd_reopen_readonly() - another descriptor of @fd's file, for reading only */
int memfd_reopen_readonly(int fd);

/** memfd_from_bytes() - a file that holds @len bytes, positioned at its start; cannot be altered */
int memfd_from_bytes(const char *name, const void *data, size_t len);

/** memfd_allocated_pages() - pages that the file really has, in memory or in swap */
int memfd_allocated_pages(int fd, uint64_t *ret);
