/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * qcow2.h - what a qcow2 disk says about itself, and whether that may be believed
 *
 * A qcow2 overlay names its backing file, and QEMU opens whatever is named there. So before an
 * overlay becomes part of a snapshot, or one from a snapshot is handed to QEMU, that name must be
 * one of the snapshot's own disks. Only headers are read. The empty overlay that a running sandbox
 * writes into is made here too. Any thread.
 *
 * Source: QEMU docs/interop/qcow2.txt
 */
#include <stddef.h>
#include <stdint.h>

#include "base/problem.h"

/* outcomes */
enum {
	DISK_E_CORRUPT = 1, /* not a qcow2 file, or one that names things it must not */
};

#define QCOW2_MAX_VIRTUAL_BYTES (1ull << 46) /* 64 TiB */

struct qcow2_info {
	uint64_t virtual_bytes;
	char backing[64];	/* name of the backing file; "" without */
	char backing_format[8]; /* "raw" or "qcow2"; "" without a backing file */
};

/**
 * qcow2_read_info() - header of a qcow2 file, which nobody trusts
 * Refuses external data files, encryption, features we do not know, files that are marked as
 * corrupt or as not closed, and backing names that are not plain file names of `[a-z0-9._-]` (no
 * path, no protocol, no "json:") or that leave QEMU to guess the backing file's format.
 * Return: 0; DISK_E_CORRUPT; negative errno
 */
int qcow2_read_info(int fd, struct problem *problem, struct qcow2_info *ret);

/**
 * qcow2_create() - make the empty file @fd an overlay in which nothing is written yet
 * @virtual_bytes:  a multiple of 512; that of the backing file, if there is one
 * @backing:        name of the file beside it, at most 63 bytes; NULL without
 * @backing_format: "raw" or "qcow2"
 * Not fsynced. Takes 12 KiB and no program. Return: 0; negative errno
 */
int qcow2_create(int fd, uint64_t virtual_bytes, const char *backing, const char *backing_format);

/** qcow2_empty_bytes() - size of the file that qcow2_create() makes; what was written to is larger */
uint64_t qcow2_empty_bytes(uint64_t virtual_bytes);

/**
 * qcow2_set_backing() - write another name of a backing file into the header
 * @fd: opened for writing; a file that names one already, of the same format
 * Return: 0; DISK_E_CORRUPT; negative errno
 */
int qcow2_set_backing(int fd, const char *backing, struct problem *problem);

struct snapshot_disk;
/**
 * disk_check_chain() - every qcow2 disk of the list is one, its size is believable, its backing
 * file is another disk of the list, in the format that the list says and the one that the list
 * names if it names one, and no chain comes back to itself
 * @disks_dirfd: the directory with the files
 * One header is read per qcow2 disk; without such disks @disks_dirfd is not looked at.
 * Return: 0; DISK_E_CORRUPT; negative errno
 */
int disk_check_chain(int disks_dirfd, const struct snapshot_disk *disks, size_t n,
		     struct problem *problem);
