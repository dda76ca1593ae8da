/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verify.c - read everything of a snapshot once
 *
 * Every frame of every layer, also those that this snapshot's map no longer refers to: the layer is
 * shared, and damage in it is worth knowing. Without keys the checksums of what is stored are
 * compared, so that a store can be checked by who may not read it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "image/device-file.h"
#include "image/image-base.h"
#include "image/image-internal.h"
#include "image/outcome.h"
#include "image/seal.h"
#include "image/snapshot-files.h"
#include "image/working-set.h"

#define PROGRESS_FRAMES 256u /* 16 MiB: often enough to look alive */

#define ull(_v)		((unsigned long long)(_v))

struct verify {
	const struct image *image;
	bool with_keys;
	uint64_t done, total; /* frames */
	snapshot_progress progress;
	void *userdata;
};

static void advance(struct verify *v)
{
	v->done++;
	if (v->progress && (v->done % PROGRESS_FRAMES == 0 || v->done == v->total))
		v->progress(v->userdata, v->done, v->total);
}

static int verify_frames(struct verify *v, struct problem *problem)
{
	_cleanup_free_ uint8_t *frame =
		aligned_alloc(DORM_PAGE_SIZE, 2 * IMAGE_FRAME_BYTES + DORM_PAGE_SIZE);
	uint32_t n_pages;

	if (!frame)
		return -ENOMEM;
	for (uint32_t layer = 0; layer < image_n_layers(v->image); layer++)
		for (uint32_t i = 0; i < image_layer_frames(v->image, layer); i++) {
			int r = v->with_keys
					? image_read_frame(v->image, layer, i,
							   frame + IMAGE_FRAME_BYTES, frame,
							   &n_pages, problem)
					: image_check_frame(v->image, layer, i, frame, problem);

			if (r)
				return r;
			advance(v);
		}
	return 0;
}

/* The file as it is, with the digest that the manifest says. */
static int open_stored_device(int dirfd, const struct manifest *m, struct problem *problem,
			      int *ret, uint64_t *ret_bytes)
{
	_cleanup_fd_ int fd = -1;
	char digest[DIGEST_LEN + 1];
	int r;

	r = plain_file_open(dirfd, "device", "device", problem, &fd, ret_bytes);
	if (r != 0)
		return r;
	r = plain_file_digest(fd, digest);
	if (r < 0) {
		problem_errno(problem, r, "device: reading it");
		return error_trace(r);
	}
	if (strcmp(digest, m->device_digest))
		return image_corrupt(problem, "device: checksum mismatch (stored 0x%s, read 0x%s)",
				     m->device_digest, digest);
	*ret = take_fd(fd);
	return 0;
}

int snapshot_open_device(int dirfd, const struct manifest *m, const struct keyring *keys,
			 struct problem *problem, int *ret)
{
	_cleanup_(seal_deinit) struct seal seal = {0};
	_cleanup_fd_ int fd = -1;
	uint8_t key[LAYER_KEY_BYTES];
	uint64_t bytes;
	int r;

	r = seal_open(dirfd, keys, false, problem, &seal);
	if (r != 0 && r != SEAL_E_ABSENT)
		return error_trace(r);
	r = open_stored_device(dirfd, m, problem, &fd, &bytes);
	if (r)
		return r;
	if (!keys && strcmp(m->seal, SEAL_NAME_AES256)) {
		*ret = take_fd(fd);
		return 0;
	}
	if (!keys) { /* its seal was taken away since the manifest was read */
		problem_set(problem, 403, "device: sealed, but no key was given");
		return IMAGE_E_KEY;
	}
	r = seal_device_key(&seal, keys, problem, key);
	if (r == 0)
		r = device_file_open(fd, bytes, key, problem, ret);
	explicit_bzero(key, sizeof(key));
	return r;
}

static int verify_device(int dirfd, const struct manifest *m, const struct keyring *keys,
			 struct problem *problem)
{
	_cleanup_fd_ int fd = -1;
	uint64_t bytes;

	if (!m->device_bytes)
		return 0;
	return keys ? snapshot_open_device(dirfd, m, keys, problem, &fd)
		    : open_stored_device(dirfd, m, problem, &fd, &bytes);
}

static int verify_disk(int disks_dirfd, const struct snapshot_disk *d, struct problem *problem)
{
	_cleanup_fd_ int fd = -1;
	char what[sizeof(d->name) + 8], digest[DIGEST_LEN + 1];
	int r;

	(void)snprintf(what, sizeof(what), "disks/%s", d->name);
	r = plain_file_open(disks_dirfd, d->name, what, problem, &fd, NULL);
	if (r == 0)
		r = plain_file_digest(fd, digest);
	if (r == 0 && strcmp(digest, d->digest))
		r = image_corrupt(problem, "%s: checksum mismatch (stored 0x%s, read 0x%s)", what,
				  d->digest, digest);
	return r;
}

/* Snapshots of an earlier day say nothing of what is in their disks. */
static int verify_disks(int dirfd, const struct manifest *m, struct problem *problem)
{
	_cleanup_fd_ int disks = -1;
	int r = m->n_disks ? plain_dir_open(dirfd, "disks", problem, &disks) : 0;

	for (uint32_t i = 0; r == 0 && i < m->n_disks; i++)
		if (m->disks[i].digest[0])
			r = verify_disk(disks, &m->disks[i], problem);
	return error_trace(r);
}

static int verify_layers(const struct image *image, const struct manifest_files *files,
			 struct problem *problem)
{
	if (image_n_layers(image) != files->n_layers)
		return image_corrupt(problem, "map: %u layers, the manifest has %u",
				     image_n_layers(image), files->n_layers);
	for (uint32_t i = 0; i < files->n_layers; i++) {
		char digest[DIGEST_LEN + 1];

		str_hex(image_layer_digest(image, i), DIGEST_BYTES, digest);
		if (strcmp(image_layer_id(image, i), files->layers[i].id) ||
		    strcmp(digest, files->layers[i].digest))
			return image_corrupt(problem,
					     "layer %s: the manifest has another one there",
					     image_layer_id(image, i));
	}
	return 0;
}

static int verify_image(const struct image *image, const struct manifest *m,
			const struct manifest_files *files, struct problem *problem)
{
	if (strcmp(image_id(image), m->image_id))
		return image_corrupt(problem, "map: its image id is %s, the manifest says %s",
				     image_id(image), m->image_id);
	if (image_n_pages(image) != m->memory_bytes / DORM_PAGE_SIZE)
		return image_corrupt(problem, "map: %llu pages, the manifest says %llu bytes",
				     ull(image_n_pages(image)), ull(m->memory_bytes));
	return verify_layers(image, files, problem);
}

int snapshot_verify(int dirfd, const struct keyring *keys, snapshot_progress progress,
		    void *userdata, struct problem *problem)
{
	_cleanup_(manifest_files_deinit) struct manifest_files files = {0};
	_cleanup_(manifest_deinit) struct manifest m = {0};
	_cleanup_(image_unrefp) struct image *image = NULL;
	struct verify v = {.with_keys = keys, .progress = progress, .userdata = userdata};
	int r;

	r = snapshot_read_manifest(dirfd, keys, true, problem, &m, &files);
	if (r == 0)
		r = snapshot_check_files(dirfd, &m, &files, problem);
	if (r == 0)
		r = keys ? image_open(dirfd, keys, problem, &image)
			 : image_open_for_check(dirfd, problem, &image);
	if (r == 0)
		r = verify_image(image, &m, &files, problem);
	if (r == 0)
		r = verify_device(dirfd, &m, keys, problem);
	if (r)
		return error_trace(r);
	v.image = image;
	for (uint32_t i = 0; i < image_n_layers(image); i++)
		v.total += image_layer_frames(image, i);
	r = verify_frames(&v, problem);
	if (r == 0)
		r = verify_disks(dirfd, &m, problem);
	if (r == 0) /* last: what is said of it means that all else is whole */
		r = working_set_check(dirfd, image, problem);
	if (r == 0)
		r = image_base_check(dirfd, image, m.base_image_id, problem);
	if (r < 0)
		problem_errno(problem, r, "snapshot: cannot be verified");
	return error_trace(r);
}
