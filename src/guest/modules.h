/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * modules.h - which kernel modules a guest needs, in the order in which they must be loaded
 *
 * Read from the package's own metadata: modules.dep (made by depmod) and modules.builtin. A line of
 * modules.dep names a module and everything that it needs; of those the last must be loaded first:
 *
 *     kernel/fs/erofs/erofs.ko: kernel/lib/libcrc32c.ko
 *     kernel/drivers/char/virtio_console.ko: kernel/drivers/virtio/virtio.ko
 * kernel/drivers/virtio/virtio_ring.ko
 *
 * gives, for {erofs, virtio_console}: libcrc32c, erofs, virtio_ring, virtio, virtio_console. What
 * is built into the kernel is left out (Debian 13 has virtio_console there). '-' and '_' are the
 * same in a module's name; paths may end in .ko, .ko.xz, .ko.zst or .ko.gz. Soft dependencies are
 * left out: in these kernels they only name faster variants of what is built in.
 *
 * Source: modules.dep(5), modprobe(8).
 */
#include "base/problem.h"

struct module_list {
	char **paths; /* relative to the directory of modules.dep */
	unsigned n;
};

void module_list_deinit(struct module_list *l);
#define _cleanup_module_list_ __attribute__((cleanup(module_list_deinit)))

/**
 * modules_resolve() - the modules that @wanted need, each once, in load order
 * @dep:     text of modules.dep
 * @builtin: text of modules.builtin
 * @wanted:  names, ended by NULL; loaded in this order as far as dependencies allow
 * Return: 0; -ENOENT when one is neither a module nor built in; -EINVAL when dependencies go in a
 *         circle or a line is not understood
 */
int modules_resolve(const char *dep, const char *builtin, const char *const wanted[],
		    struct problem *problem, struct module_list *ret);
