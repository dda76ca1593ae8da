/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * snapshot.h - snapshot directories: manifest, map, device state, layers, disks
 *
 *     snapshot_begin()  a temporary directory below <root>/tmp, which the caller fills
 *                       (image_writer, "device", disks/) and describes in a manifest
 *     snapshot_commit() manifest written, everything fsynced, one rename: now it exists
 *     snapshot_open()   manifest read and checked against the files that are there
 *     snapshot_clone()  a second directory with hard links to every file: O(layers)
 *
 * A directory that has a manifest is complete: it is written last, before the rename. Files in it
 * never change afterwards (mode 0444). Formats: docs/format-image.md. Any thread.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/id.h"
#include "base/problem.h"
#include "image/image.h"

#define SNAPSHOT_MAX_DISKS  16
#define SNAPSHOT_MAX_LAYERS 4096
#define DIGEST_HEX	    32

/*
 * A file below disks/. Those that no other one names as its backing file are the guest's devices,
 * in the order of the list; under each lies its chain.
 */
struct snapshot_disk {
	char name[32];
	char format[8]; /* "raw" or "qcow2" (whose backing file is another disk of the list) */
	bool read_only; /* of a device: false: each sandbox has an overlay of its own over it */
	uint64_t size;	/* bytes */
	uint64_t virtual_bytes;	      /* what the guest sees; set by snapshot_commit(); 0: not known */
	char backing[32];	      /* the disk below it; "": none, or only its header says so */
	char digest[DIGEST_HEX + 1]; /* XXH3-128 of the file, set by snapshot_commit(); "": not
					known */
};

/* What manifest.json says. Fixed-size text is cut never: too long is refused when reading. */
struct manifest {
	char id[ID_LEN + 1];
	char image_id[IMAGE_ID_LEN + 1];
	char parent_id[ID_LEN +
		       1];    /* snapshot or sandbox memory it descends from; "" for a first */
	char template_id[64]; /* template it was created from; "" when unknown */
	char source_id[ID_LEN + 1]; /* sandbox that was snapshotted; "" for a template build */
	char name[64];		    /* "" without one */
	uint64_t created_ns;	    /* real time */
	uint64_t memory_bytes;
	uint32_t cpus;
	/* the machine: a restore needs the same */
	char vmm[16]; /* "qemu" */
	char vmm_version[64];
	char accel[8]; /* "tcg" or "kvm" */
	uint64_t tsc_khz;
	bool network; /* it has a network device, connected or not */
	char kernel_version[64];
	uint64_t device_bytes;	/* size of "device" */
	char device_digest[33]; /* XXH3-128 of it, hexadecimal */
	uint32_t n_disks;
	struct snapshot_disk disks[SNAPSHOT_MAX_DISKS];
	char seal[16]; /* "xxh3", or "aes-256-gcm"; set by snapshot_commit() */
	/* what its ancestors and it have written since the template, for write amplification */
	uint32_t lineage_sleeps;    /* snapshots in that line, this one included */
	uint64_t lineage_stored;    /* bytes of layers written by sleeps */
	uint64_t lineage_compacted; /* bytes of layers written by compactions */
	/* of image_base_put(): whose map the file "base" is; "" when there is none */
	char base_image_id[IMAGE_ID_LEN + 1];
	bool prepared;	 /* the agent answered "prepare" */
	json_t *prepare; /* what it said, or NULL; owned */
	json_t *defaults; /* of the template: {"env": {}, "user", "workdir",
			     "start": {"command", "user", "workdir"}}, or NULL; owned */
	struct image_writer_stats stats;
};

void manifest_deinit(struct manifest *m);

/** manifest_to_json() - as stored, for `inspect` and the API; new reference, NULL without memory */
json_t *manifest_to_json(const struct manifest *m);

struct snapshot_tmp {
	int dirfd;	 /* owned; fill it relative to this */
	int device_fd;	 /* device state that must not reach the disk in the clear: a memfd that the
			    caller puts here, owned; -1: it is in the file "device", if anywhere */
	char path[4096]; /* absolute, for programs that need a path */
	char name[64];	 /* below <root>/tmp */
};

#define SNAPSHOT_TMP_INIT ((struct snapshot_tmp){.dirfd = -1, .device_fd = -1})

/**
 * snapshot_begin() - an empty temporary directory with layers/ and disks/ in it
 * @root_fd: the store
 * @root:    its absolute path
 */
int snapshot_begin(int root_fd, const char *root, struct problem *problem,
		   struct snapshot_tmp *ret);

/** snapshot_abort() - remove what was begun; after snapshot_commit() does nothing but close */
void snapshot_abort(struct snapshot_tmp *tmp, int root_fd);

/**
 * snapshot_commit() - write the manifest (adding layer sizes and digests), fsync, rename
 * @final: path below @root_fd that must not exist, for example "snapshots/<id>"
 * @keys:  as for the image; NULL: not sealed. The device state is encrypted too; only with keys may
 *         it be in @tmp->device_fd
 * Return: 0; -ENOKEY when the image is not sealed by @keys; negative errno, with nothing at @final
 */
int snapshot_commit(struct snapshot_tmp *tmp, int root_fd, const char *final,
		    const struct manifest *manifest, const struct keyring *keys,
		    struct problem *problem);

/**
 * snapshot_open() - read and check the manifest of a snapshot directory; sizes of all files are
 * compared (a truncated file is found here), contents are not read. @keys as for image_open()
 * Return: 0; IMAGE_E_CORRUPT; IMAGE_E_VERSION; IMAGE_E_KEY; -ENOENT; negative errno
 */
int snapshot_open(int dirfd, const struct keyring *keys, struct problem *problem,
		  struct manifest *ret);

/**
 * snapshot_open_device() - the device state, verified against the manifest's digest; decrypted into
 * a memfd when it is sealed
 * @ret: descriptor at offset 0; owned by the caller
 * Return: 0; IMAGE_E_CORRUPT; negative errno
 */
int snapshot_open_device(int dirfd, const struct manifest *manifest, const struct keyring *keys,
			 struct problem *problem, int *ret);

/**
 * snapshot_clone() - hard-link everything of @src_dirfd into a new directory at @final, through
 * <root>/tmp and one rename
 * @id: the clone's own id, written into its manifest (nothing else differs); NULL keeps it
 * @keys: needed to seal another manifest; with @id NULL unused
 * The source may be deleted as soon as this returns. Return: 0; -ENOKEY when @keys do not fit the
 * source; negative errno, nothing at @final
 */
int snapshot_clone(int root_fd, const char *root, int src_dirfd, const struct keyring *keys,
		   const char *final, const char *id, struct problem *problem);

/** snapshot_delete() - make it disappear (one rename into tmp/), then remove it */
int snapshot_delete(int root_fd, const char *path, struct problem *problem);

typedef void (*snapshot_progress)(void *userdata, uint64_t done, uint64_t total);

/**
 * snapshot_verify() - read every byte: each frame against its seal, device state and disks' sizes,
 * the image id against manifest; at last the working set and the base. @keys as for image_open(); a
 * sealed snapshot without keys is checked against its checksums only
 *
 * Return: 0; IMAGE_E_CORRUPT with the first damage described; negative errno
 */
int snapshot_verify(int dirfd, const struct keyring *keys, snapshot_progress progress,
		    void *userdata, struct problem *problem);
