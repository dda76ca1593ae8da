/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * disk-merge.h - chains of disk layers: what the guest's devices are, and fewer layers for them
 *
 * Each sleep leaves one layer more over a disk: what the guest wrote since it was woken. A read
 * that finds nothing in a layer goes on to the one below, and a manifest has room for 16 files, so
 * the newest layers of a long chain are merged into one. No lock, any thread.
 */
#include "base/problem.h"
#include "image/snapshot.h"

/* Layers of one device above which the newest are merged in the background, and what must not be
 * exceeded, so that a manifest has room. */
#define DISK_CHAIN_MAX	 8u
#define DISK_CHAIN_LIMIT 12u

struct disk_device {
	uint32_t layers[SNAPSHOT_MAX_DISKS]; /* numbers of disks in the manifest, from the lowest */
	uint32_t n_layers;
	bool read_only;
};

/**
 * disk_devices() - the devices of a guest, in their order, from what the manifest says
 * @ret: SNAPSHOT_MAX_DISKS of them
 * Return: how many; -EBADMSG when chains meet, or do not end (@problem)
 */
int disk_devices(const struct manifest *m, struct problem *problem, struct disk_device *ret);

struct disk_merge_choice {
	uint32_t first, last; /* of the device's layers: these become one; equal: none */
	uint64_t bytes;	      /* of their files */
};

struct disk_merge_stats {
	uint32_t layers_before, layers_after; /* of the writable device; 0: there is none */
	uint64_t bytes_written;		      /* of the new layer */
	uint64_t bytes_dropped;		      /* of those that it stands for */
};

/**
 * disk_merge_choose() - which layers of @device are worth being one
 * @sizes: of the device's layers, in its order
 * @own:   is the layer nobody else's? Others free nothing, and are taken only where the chain would
 *         stay too long
 * @max:   layers that may stay
 * @force: all own ones
 */
struct disk_merge_choice disk_merge_choose(const uint64_t *sizes, const bool *own, uint32_t n,
				    uint32_t max, bool force);

/**
 * disk_merge_write() - one qcow2 file with what @n layers hold together
 * @fds:     the layers from the lowest, of 64 KiB clusters, not compressed, of one virtual size
 * @backing: name of the disk under the lowest; NULL without
 * @out:     empty file; not fsynced
 * @cancelled: asked once per cluster; NULL: never
 * Return: 0; DISK_E_CORRUPT when a table points nowhere; -EOPNOTSUPP for a file of another kind;
 * -ECANCELED; negative errno
 */
int disk_merge_write(const int *fds, size_t n, const char *backing, const char *backing_format,
		     int out, bool (*cancelled)(void *userdata), void *userdata,
		     struct problem *problem);

/** disk_chain_is_long() - is there something for disk_merge_place() to do? */
bool disk_chain_is_long(const struct manifest *m);

/** disk_chain_has_own() - two own layers or more, which merging by force would make one */
bool disk_chain_has_own(int dirfd, const struct manifest *m);

struct disk_merge_options {
	uint32_t max_layers; /* may stay */
	uint32_t own_links;  /* a layer with as many names, or fewer, is nobody else's */
	bool force;	     /* also where there are not too many */
	bool (*cancelled)(void *userdata); /* asked often; NULL: never */
	void *userdata;
};

/**
 * disk_merge() - the newest layers of the writable device as one file, where there are too many
 * @disks_dirfd: a directory disks/ that is being made; the names of what is merged go from it
 * @m: its list of disks is changed to fit
 * A chain that cannot be merged (of other clusters, for example) stays as it is.
 * Return: 0; DISK_E_CORRUPT; -ECANCELED; negative errno
 */
int disk_merge(int disks_dirfd, struct manifest *m, const struct disk_merge_options *options,
	       struct problem *problem, struct disk_merge_stats *ret);
