/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshots.c - what can be done with one snapshot
 *
 * A directory that was opened may be replaced by a compacted copy, or deleted, while it is read.
 * What holds descriptors goes on; what still looks for a file below it finds none. The operations
 * that a compaction must not break look whether that has happened, and begin again with the
 * directory that is there now.
 */
#include "sandbox/private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/str.h"
#include "sandbox/pool.h"
#include "image/manifest.h"
#include "image/image-base.h"
#include "image/working-set.h"
#include "sandbox/reference.h"
#include "sandbox/snapshots.h"

int snapshot_resolve(struct host *host, const char *id_or_name, struct problem *problem,
		     char ret_id[ID_LEN + 1])
{
	struct stat st;
	char path[64], name[REFERENCE_NAME] = "";
	int r;

	if (reference_parse(id_or_name, NULL, name) == 0 && id_is_valid(name)) {
		(void)snprintf(path, sizeof(path), "snapshots/%s", name); /* fixed length */
		if (fstatat(host->store->root_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0) {
			memcpy(ret_id, name, ID_LEN + 1);
			return 0;
		}
	}
	r = name[0] ? store_template_get(host->store, name, ret_id) : -ENOENT;
	if (r == -ENOENT) {
		problem_set(problem, 404, "there is no template or snapshot '%.64s'", id_or_name);
		problem_hint(problem,
			     "`dorm template ls` and `dorm snapshot ls` list what there is");
	} else if (r < 0) {
		problem_errno(problem, r, "template %s", id_or_name);
	}
	return error_trace(r);
}

int snapshots_resolve(struct host *host, const char *id_or_name, struct problem *problem,
		      char ret_id[ID_LEN + 1])
{
	return snapshot_resolve(host, id_or_name, problem, ret_id);
}

int snapshot_open_dir(struct host *host, const char *id_or_name, struct problem *problem,
		      char ret_id[ID_LEN + 1])
{
	char path[64];
	int r = snapshot_resolve(host, id_or_name, problem, ret_id);

	if (r < 0)
		return r;
	(void)snprintf(path, sizeof(path), "snapshots/%s", ret_id); /* fixed length */
	r = file_open_dir(host->store->root_fd, path);
	if (r < 0)
		problem_errno(problem, r, "snapshot %s", ret_id);
	return error_trace(r);
}

int snapshots_exists(struct host *host, const char *id_or_name, struct problem *problem)
{
	char id[ID_LEN + 1];

	return snapshot_resolve(host, id_or_name, problem, id);
}

int snapshots_id(struct host *host, const char *id_or_name, struct problem *problem,
		 char ret_id[ID_LEN + 1])
{
	return snapshot_resolve(host, id_or_name, problem, ret_id);
}

bool snapshot_was_replaced(struct host *host, const char *id, int dirfd)
{
	struct stat then, now;
	char path[64];

	(void)snprintf(path, sizeof(path), "snapshots/%s", id); /* fixed length */
	return fstat(dirfd, &then) == 0 &&
	       fstatat(host->store->root_fd, path, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
	       then.st_ino != now.st_ino;
}

/* ---- one snapshot -----------------------------------------------------------------------------
 */

static int add_layers(int dirfd, struct image *image, json_t *o)
{
	json_t *layers = json_array();

	for (uint32_t i = 0; layers && i < image_n_layers(image); i++) {
		char path[96];
		struct stat st = {0};

		(void)snprintf(path, sizeof(path), "layers/%s",
			       image_layer_id(image, i));	      /* fits */
		(void)fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW); /* shows 0 links */
		if (json_array_append_new(
			    layers,
			    json_pack("{s:s, s:I, s:I, s:b}", "id", image_layer_id(image, i),
				      "bytes", (json_int_t)image_layer_bytes(image, i), "frames",
				      (json_int_t)image_layer_frames(image, i), "shared",
				      st.st_nlink > 1)) < 0)
			return -ENOMEM;
	}
	return json_object_set_new(o, "layers", layers) < 0 ? -ENOMEM : 0;
}

/* Of what sleeps wrote, how often compaction wrote it again. */
static json_t *write_amplification(const struct manifest *m)
{
	if (!m->lineage_stored)
		return json_null();
	return json_real((double)(m->lineage_stored + m->lineage_compacted) /
			 (double)m->lineage_stored);
}

static json_t *describe_compaction(struct host *host, int dirfd)
{
	struct compact_report c;

	if (compact_inspect(dirfd, &host->compact, NULL, &c) != 0)
		return json_null();
	return json_pack("{s:I, s:I, s:I, s:b}", "ownLayers", (json_int_t)c.n_own, "ownBytes",
			 (json_int_t)c.own_bytes, "deadBytes", (json_int_t)c.own_dead, "due",
			 c.due);
}

/* null: it has none that is of use */
static json_t *describe_working_set(int dirfd, const struct image *image)
{
	_cleanup_(working_set_deinit) struct working_set set = {0};
	bool contiguous;

	if (working_set_read(dirfd, image, NULL, &set) != 0 ||
	    working_set_is_contiguous(&set, image, &contiguous) < 0)
		return json_null();
	return json_pack("{s:I, s:b}", "pages", (json_int_t)set.n_pages, "contiguous", contiguous);
}

/* null: it has none that is of use */
static json_t *describe_base(struct host *host, int dirfd, struct image *image)
{
	_cleanup_(image_unrefp) struct image *base = NULL;
	uint64_t own, own_stored, shared;

	if (image_open_base(dirfd, image, host->keys, NULL, &base) != 0 ||
	    image_diff_bitmap(image, base, NULL, &own, &own_stored, &shared) < 0)
		return json_null();
	return json_pack("{s:s, s:I, s:I, s:I}", "imageID", image_id(base), "sharedPages",
			 (json_int_t)shared, "ownPages", (json_int_t)own_stored, "missingLayers",
			 (json_int_t)image_missing_layers(base));
}

static int describe(struct host *host, int dirfd, const struct manifest *m, struct image *image,
		    json_t **ret)
{
	json_t *o = manifest_to_json(m);
	char created[32];
	int r = o ? add_layers(dirfd, image, o) : -ENOMEM;

	clock_rfc3339(m->created_ns, created);
	if (r == 0) {
		(void)json_object_del(o, "created_ns"); /* is there; shown as everywhere else */
		r = json_object_set_new(o, "createdAt", json_string(created));
	}
	if (r == 0)
		r = json_object_set_new(o, "writeAmplification", write_amplification(m));
	if (r == 0)
		r = json_object_set_new(o, "compaction", describe_compaction(host, dirfd));
	if (r == 0)
		r = json_object_set_new(o, "base", describe_base(host, dirfd, image));
	if (r == 0)
		r = json_object_set_new(o, "workingSet", describe_working_set(dirfd, image));
	if (r < 0)
		json_decref(o);
	else
		*ret = o;
	return r < 0 ? -ENOMEM : 0;
}

static int inspect(struct host *host, int dirfd, struct problem *problem, json_t **ret)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	_cleanup_(manifest_deinit) struct manifest m = {0};
	int r;

	r = snapshot_open(dirfd, host->keys, problem, &m);
	if (r == 0)
		r = image_open(dirfd, host->keys, problem, &image);
	if (r == 0)
		r = describe(host, dirfd, &m, image, ret);
	return r > 0 ? -EBADMSG : error_trace(r);
}

int snapshots_inspect(struct host *host, const char *id_or_name, struct problem *problem,
		      json_t **ret)
{
	char id[ID_LEN + 1];
	int r;

	for (int i = 1;; i++) {
		_cleanup_fd_ int fd = snapshot_open_dir(host, id_or_name, problem, id);
		struct problem p = PROBLEM_INIT;

		if (fd < 0)
			return fd;
		r = inspect(host, fd, &p, ret);
		if (r < 0 && i < SNAPSHOT_TRIES && snapshot_was_replaced(host, id, fd))
			continue;
		if (r < 0) {
			problem_errno(&p, r, "reading snapshot %s", id);
			problem_pass(problem, &p);
		}
		return error_trace(r);
	}
}

void snapshots_kernel_version(struct host *host, const char *id, char ret[64])
{
	_cleanup_(manifest_files_deinit) struct manifest_files files = {0};
	_cleanup_(manifest_deinit) struct manifest m = {0};
	char found[ID_LEN + 1];
	_cleanup_fd_ int fd = snapshot_open_dir(host, id, NULL, found);

	if (fd >= 0)
		(void)manifest_read(fd, NULL, &m, &files); /* then it stays empty */
	str_copy(ret, 64, m.kernel_version);
}

int snapshots_verify(struct host *host, const char *id_or_name, snapshot_progress progress,
		     void *userdata, struct problem *problem, uint64_t *ret_bytes)
{
	_cleanup_fd_ int fd = -1;
	char id[ID_LEN + 1];
	uint64_t bytes = 0;
	int r;

	fd = snapshot_open_dir(host, id_or_name, problem, id);
	if (fd < 0)
		return fd;
	r = snapshot_verify(fd, host->keys, progress, userdata, problem);
	if (r > 0) {
		problem_hint(problem,
			     "restore this snapshot's files from a copy, or delete it: "
			     "`dorm snapshot rm %s`",
			     id);
		return -EBADMSG;
	}
	if (r == 0)
		r = file_allocated_bytes(fd, ".", &bytes);
	if (r == 0)
		*ret_bytes = bytes;
	return error_trace(r);
}

struct forget {
	struct host *host;
	const char *snapshot_id;
};

static int forget_name(void *userdata, const char *name, const char *snapshot_id)
{
	struct forget *f = userdata;

	return strcmp(snapshot_id, f->snapshot_id) ? 0
						   : store_template_remove(f->host->store, name);
}

int snapshots_delete(struct host *host, const char *id_or_name, struct problem *problem)
{
	struct forget f = {.host = host};
	char id[ID_LEN + 1], path[64];
	int r = snapshot_resolve(host, id_or_name, problem, id);

	if (r < 0)
		return r;
	f.snapshot_id = id;
	r = snapshots_interrupt(host, id, problem);
	if (r == 0)
		r = store_each_template(host->store, forget_name, &f);
	(void)snprintf(path, sizeof(path), "snapshots/%s", id); /* fixed length */
	if (r == 0)
		r = snapshot_delete(host->store->root_fd, path, problem);
	if (r < 0)
		problem_errno(problem, r, "deleting snapshot %s", id);
	else
		events_add(host->events, "snapshot.deleted", NULL,
			   json_pack("{s:s, s:s}", "snapshotID", id, "asked", id_or_name));
	pool_recheck(host->pool);
	return error_trace(r);
}
