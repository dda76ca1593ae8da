/* SPDX-License-Identifier: Apache-2.0 */
/*
 * import-commit.c - from a directory with everything in it to a snapshot
 *
 * The manifest is written as it came, byte for byte, because a seal covers it. A snapshot that gets
 * another id is first completed under its own in the temporary directory, and then cloned from
 * there, which writes (and seals) the other manifest. Either way it appears by one rename.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/disk.h"
#include "image/import-internal.h"
#include "image/outcome.h"
#include "image/snapshot-files.h"
#include "image/working-set.h"

#define FINAL_LEN (sizeof("snapshots/") + ID_LEN)

/* ---- its id -----------------------------------------------------------------------------------
 */

enum existing { EXISTING_NONE, EXISTING_SAME, EXISTING_OTHER };

/* Is there a snapshot of the id @id, and is it the one that is coming? */
static int look_up(struct importer *m, const char *id, enum existing *ret)
{
	struct problem ignored = PROBLEM_INIT;
	_cleanup_free_ char *text = NULL;
	_cleanup_fd_ int dirfd = -1;
	char final[FINAL_LEN];
	size_t len;

	(void)snprintf(final, sizeof(final), "snapshots/%s", id); /* fits */
	dirfd = file_open_dir(m->store->root_fd, final);
	if (dirfd == -ENOENT) {
		*ret = EXISTING_NONE;
		return 0;
	}
	if (dirfd < 0 && dirfd != -ENOTDIR)
		return error_trace(dirfd);
	*ret = EXISTING_OTHER;
	if (dirfd >= 0 && manifest_read_text(dirfd, &ignored, &text, &len) == 0 &&
	    len == m->manifest_text.len && !memcmp(text, m->manifest_text.data, len))
		*ret = EXISTING_SAME;
	return 0;
}

static int exists(struct importer *m, const char *id, const char *what)
{
	problem_set(&m->problem, 409, "snapshot %s: %s", id, what);
	problem_hint(&m->problem, "delete it first: `dorm snapshot rm %s`", id);
	return TRANSFER_E_EXISTS;
}

/* The seal covers the manifest, and so the id: only a key can change it. */
static int need_keys(struct importer *m, const char *why)
{
	if (!import_is_sealed(m) || m->options.keys)
		return 0;
	problem_set(&m->problem, 409,
		    "snapshot %s: %s, and it is sealed: its id cannot be changed without the "
		    "tenant's key",
		    m->manifest.id, why);
	problem_hint(&m->problem, "import it with the key, or where that id is free");
	return TRANSFER_E_EXISTS;
}

int import_check_id(struct importer *m)
{
	const char *wanted = m->options.id ? m->options.id : m->manifest.id;
	enum existing existing;
	int r = look_up(m, wanted, &existing);

	if (r < 0)
		return r;
	if (!strcmp(m->manifest.parent_id, wanted))
		return transfer_fault(&m->problem, "snapshot %s: would be its own parent", wanted);
	if (existing == EXISTING_SAME)
		return exists(m, wanted, "is here already");
	if (existing == EXISTING_OTHER && m->options.id)
		return exists(m, wanted, "another one of that id is here");
	if (existing == EXISTING_OTHER) {
		id_new('s', m->id);
		return need_keys(m, "another one of that id is here");
	}
	if (!m->options.id)
		str_copy(m->id, sizeof(m->id), wanted);
	return strcmp(m->id, m->manifest.id) ? need_keys(m, "another id was asked for") : 0;
}

/* ---- verifying --------------------------------------------------------------------------------
 */

static int check_chain(struct importer *m)
{
	int r = disk_check_chain(m->disks_dirfd, m->manifest.disks, m->manifest.n_disks,
				 &m->problem);

	if (r == DISK_E_CORRUPT) {
		m->problem.status = 400;
		return TRANSFER_E_STREAM;
	}
	return error_trace(r);
}

/* Its digest is that of the file, so that it can be checked without a key; with one, its seal too.
 */
static int check_device(struct importer *m)
{
	_cleanup_fd_ int stored = -1, fd = -1;
	char digest[DIGEST_LEN + 1];
	int r;

	if (!m->manifest.device_bytes)
		return 0;
	r = plain_file_open(m->tmp.dirfd, "device", "device", &m->problem, &stored, NULL);
	if (r == 0)
		r = plain_file_digest(stored, digest);
	if (r)
		return error_trace(r);
	if (strcmp(digest, m->manifest.device_digest))
		return image_corrupt(&m->problem,
				     "device: checksum mismatch (stored 0x%s, read 0x%s)",
				     m->manifest.device_digest, digest);
	if (import_is_sealed(m) && !m->options.keys)
		return 0;
	return snapshot_open_device(m->tmp.dirfd, &m->manifest, m->options.keys, &m->problem, &fd);
}

/* With keys, or unsealed, it must open as it will be opened for use. */
static int open_for_use(struct importer *m)
{
	_cleanup_(manifest_deinit) struct manifest opened = {0};
	_cleanup_(image_unrefp) struct image *image = NULL;
	int r;

	if (import_is_sealed(m) && !m->options.keys)
		return 0;
	r = snapshot_open(m->tmp.dirfd, m->options.keys, &m->problem, &opened);
	return r ? r : image_open(m->tmp.dirfd, m->options.keys, &m->problem, &image);
}

static int verify(struct importer *m)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	int r;

	r = snapshot_check_files(m->tmp.dirfd, &m->manifest, &m->files, &m->problem);
	if (r == 0)
		r = image_open_for_check(m->tmp.dirfd, &m->problem, &image);
	if (r == 0 && image_n_layers(image) && image_is_sealed(image) != import_is_sealed(m))
		r = image_corrupt(&m->problem, "snapshot: its layers are %s, its manifest says %s",
				  image_is_sealed(image) ? "sealed" : "not sealed",
				  import_is_sealed(m) ? "sealed" : "not sealed");
	if (r == 0)
		r = open_for_use(m);
	if (r == 0)
		r = check_device(m);
	if (r == 0)
		r = working_set_check(m->tmp.dirfd, image, &m->problem);
	return r ? import_blame_stream(m, r) : check_chain(m);
}

/* ---- committing -------------------------------------------------------------------------------
 */

/* The files were fsynced as they ended. */
static int write_manifest(struct importer *m)
{
	int r = file_fsync_dir(m->layers_dirfd);

	if (r == 0)
		r = file_fsync_dir(m->disks_dirfd);
	if (r == 0)
		r = file_write_atomic(m->tmp.dirfd, "manifest.json", m->manifest_text.data,
				      m->manifest_text.len, 0444); /* syncs the directory as well */
	if (r < 0)
		problem_errno(&m->problem, r, "manifest.json: writing it");
	return error_trace(r);
}

static int publish(struct importer *m)
{
	char final[FINAL_LEN];
	struct problem p = PROBLEM_INIT;
	int r;

	(void)snprintf(final, sizeof(final), "snapshots/%s", m->id); /* fits */
	if (!strcmp(m->id, m->manifest.id))
		r = snapshot_publish(&m->tmp, m->store->root_fd, final, &p);
	else
		r = snapshot_clone(m->store->root_fd, m->store->root, m->tmp.dirfd, m->options.keys,
				   final, m->id, &p);
	if (r == -EEXIST || r == -ENOTEMPTY)
		return exists(m, m->id, "has appeared meanwhile");
	if (r)
		m->problem = p;
	return error_trace(r);
}

int import_commit(struct importer *m)
{
	int r = write_manifest(m);

	if (r == 0)
		r = verify(m);
	if (r == 0)
		r = publish(m);
	if (r)
		return error_trace(r);
	import_forget_layers(m);
	str_copy(m->stats.id, sizeof(m->stats.id), m->id);
	return 0;
}
