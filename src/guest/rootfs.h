/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * rootfs.h - the base root file system: busybox, a user, and the places programs expect
 *
 * An artefact (cache.h) with one file, root.erofs: read-only, to be mounted under an overlay. Made
 * by mkfs.erofs from a tree with fixed times and a fixed identifier, so equal inputs give equal
 * bytes. All of it belongs to root except /home/user (uid and gid 1000), so making it needs root.
 *
 * busybox is the host's static one; its applets are links in /usr/bin. /bin/bash is a few lines of
 * shell that hand over to busybox's ash, since clients start their commands with "/bin/bash -l -c".
 */
#include "guest/cache.h"

struct rootfs {
	char dir[4096]; /* of the artefact; the file is root.erofs */
};

/** rootfs_prepare() - find or make it; @c is open. Return: 0; negative errno, problem set */
int rootfs_prepare(struct cache *c, struct rootfs *ret);
