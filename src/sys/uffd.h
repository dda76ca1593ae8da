/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * uffd.h - userfaultfd: being asked for the content of pages
 *
 * A userfaultfd belongs to the address space it was made in; whoever holds a descriptor of it may
 * serve that address space. Ranges are registered by their owner, events are read by the server,
 * pages are put there with uffd_copy() or uffd_zeropage(), and waiting threads go on when the range
 * they wait for is woken.
 *
 * What the kernel promises and what it does not (all of it was tried, DESIGN.md section 4):
 *  - A thread that faults queues an event and sleeps. uffd_wake() on its page makes it fault again;
 *    if the page is still missing it queues a new event. A wake before the event was read removes
 *    the event. So waking too often costs time, never a page; waking too rarely hangs a guest.
 *  - When the last descriptor is closed, missing pages read as zeros and all threads go on.
 *  - A copy into a mapping wakes the waiters of that mapping only, not those of other mappings of
 *    the same file.
 *
 * Functions return at the first page that could not be done and say in *@ret_done how many bytes
 * were; 0 means that all of it was. Any thread; nothing here allocates.
 * Source: userfaultfd(2), ioctl_userfaultfd(2), Linux mm/userfaultfd.c.
 */
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * uffd_new() - a non-blocking userfaultfd of this process that also sees faults in kernel mode
 * @features: UFFD_FEATURE_* that must be there
 * Uses /dev/userfaultfd, or the system call where that is missing (which needs privilege).
 * Return: the descriptor; -EPERM or -EACCES without the right to it; -EINVAL without a feature
 */
int uffd_new(uint64_t features);

/**
 * uffd_new_for_copy() - one for a mapping that this process copies into and never faults on
 * Needs no privilege: where there is none, it is one that would not see faults in kernel mode.
 * Return: as uffd_new()
 */
int uffd_new_for_copy(void);

/**
 * uffd_keep_device() - open /dev/userfaultfd now and keep it, for every uffd_new() from here on
 * For a process that gives up its privileges: the right to the device is asked for when it is
 * opened, and not again. Once, before there are threads; a device that cannot be had is no error.
 */
void uffd_keep_device(void);

/** uffd_is() - is @fd a userfaultfd? (Descriptors that strangers send may be anything.) */
bool uffd_is(int fd);

/** uffd_register() - @mode: UFFDIO_REGISTER_MODE_*; @addr and @len multiples of the page size */
int uffd_register(int fd, uint64_t addr, uint64_t len, uint64_t mode);

/**
 * uffd_read() - take up to @max events without ever blocking
 * Since Linux 6.10 the read says by itself that it must not wait. Before, it depends on O_NONBLOCK
 * of the file, which the other holder of the descriptor can switch off.
 * Return: events read (0: none there); negative errno
 */
int uffd_read(int fd, struct uffd_msg *msgs, size_t max);

/**
 * uffd_copy() - allocate pages at @dst, copy @len bytes from @src, publish each atomically
 * Return: 0; -EEXIST the page at @dst + *@ret_done is there already; -EAGAIN the mappings are being
 * changed; -ENOENT no such registered range; -ESRCH the process is gone; -ENOMEM; negative errno
 */
int uffd_copy(int fd, uint64_t dst, const void *src, uint64_t len, uint64_t *ret_done);

/** uffd_zeropage() - the same with zeros; waiters are not woken by it. Return: as uffd_copy() */
int uffd_zeropage(int fd, uint64_t dst, uint64_t len, uint64_t *ret_done);

/**
 * uffd_continue() - map pages that the file behind a private mapping already has
 * Of a range registered MINOR. Return: as uffd_copy(); -EFAULT the file has no such page
 */
int uffd_continue(int fd, uint64_t dst, uint64_t len, uint64_t *ret_done);

/**
 * uffd_unregister() - from now on the range is as any other: its owner is served by the kernel
 * Wakes whoever waits there. Works on the address space of another process. Return: 0; negative
 * errno
 */
int uffd_unregister(int fd, uint64_t addr, uint64_t len);

/**
 * uffd_owns() - is the page at @addr registered for missing pages with this very userfaultfd?
 * Of the address space that it was made in. Changes nothing there. Return: 1, 0; negative errno
 */
int uffd_owns(int fd, uint64_t addr);

/** uffd_features() - UFFD_FEATURE_* that its maker enabled; 0 when that cannot be known */
uint64_t uffd_features(int fd);

/** uffd_wake() - let every thread go on that waits in the range. Return: 0; -EINVAL */
int uffd_wake(int fd, uint64_t addr, uint64_t len);
