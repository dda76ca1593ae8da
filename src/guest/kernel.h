/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * kernel.h - the distribution's cloud kernel, and the modules that a guest needs of it
 *
 * The meta package linux-image-cloud-amd64 names the real one; apt downloads it (and so checks its
 * signature), dpkg-deb unpacks it; nothing is installed. What is kept is an artefact (cache.h):
 *
 *     vmlinuz       the bzImage
 *     modules.cpio  an initramfs archive: /lib/modules/NAME.ko, decompressed, and
 * /etc/modules.list, their absolute paths in load order, one per line release
 * "6.1.0-56-cloud-amd64"
 *
 * Without network or package lists the kernel that was used last serves.
 */
#include "guest/cache.h"

struct kernel {
	char dir[4096]; /* of the artefact */
	char digest[CACHE_DIGEST_LEN + 1];
	char release[64];
};

/** kernel_prepare() - find or make it; @c is open. Return: 0; negative errno, problem set */
int kernel_prepare(struct cache *c, struct kernel *ret);
