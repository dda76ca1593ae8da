/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * disk.h - the empty disk that a guest writes into
 *
 * An artefact (cache.h) per size with one file, disk.qcow2: an ext4 file system without any file,
 * made by mkfs.ext4 with a fixed identifier and fixed times, so equal sizes give equal bytes. It
 * takes some 300 KiB; all else is holes.
 */
#include <stdint.h>

#include "base/problem.h"
#include "guest/guest.h"

#define GUEST_DISK_MIN_BYTES (64ull << 20)
#define GUEST_DISK_MAX_BYTES (1ull << 40)

/**
 * guest_disk_prepare() - find or make it
 * @cache_dir: as for guest_prepare()
 * @bytes:     size of the disk, whole MiB between the limits above
 * @ret_path:  the file, which stays until two other sizes were asked for: link it soon
 * Return: 0; negative errno; @problem says which step failed
 */
int guest_disk_prepare(const char *cache_dir, uint64_t bytes, guest_progress progress,
		       void *userdata, struct problem *problem, char ret_path[4096]);
