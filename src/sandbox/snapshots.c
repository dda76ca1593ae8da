/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/private.h"

#include <dirent.h>
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

int snapshot_resolve(struct host *host, const char *id_or_name, struct problem *problem,
		     char ret_id[ID_LEN + 1])
{
	struct stat st;
	char path[64];
	int r;

	if (id_is_valid(id_or_name)) {
		(void)snprintf(path, sizeof(path), "snapshots/%s", id_or_name); /* fixed length */
		if (fstatat(host->store->root_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0) {
			memcpy(ret_id, id_or_name, ID_LEN + 1);
			return 0;
		}
	}
	r = str_is_name(id_or_name) ? store_template_get(host->store, id_or_name, ret_id) : -ENOENT;
	if (r == -ENOENT) {
		problem_set(problem, 404, "there is no template or snapshot '%.64s'", id_or_name);
		problem_hint(problem,
			     "`dorm template ls` and `dorm snapshot ls` list what there is");
	} else if (r < 0) {
		problem_errno(problem, r, "template %s", id_or_name);
	}
	return error_trace(r);
}

static int open_by_name(struct host *host, const char *id_or_name, struct problem *problem,
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

/* ---- listing ----------------------------------------------------------------------------------
 */

struct names {
	json_t *by_snapshot; /* snapshot id -> array of names */
};

static int collect_name(void *userdata, const char *name, const char *snapshot_id)
{
	struct names *names = userdata;
	json_t *a = json_object_get(names->by_snapshot, snapshot_id);

	if (!a) {
		a = json_array();
		if (json_object_set_new(names->by_snapshot, snapshot_id, a) < 0)
			return -ENOMEM;
	}
	return json_array_append_new(a, json_string(name)) < 0 ? -ENOMEM : 0;
}

/* Bytes of the layers by whether other snapshots have them too. */
static void weigh(int snapshot_fd, struct snapshot_entry *e)
{
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *entry;
	struct stat st;

	e->stored_bytes = e->manifest.stats.map_bytes + e->manifest.device_bytes;
	if (file_opendir(snapshot_fd, "layers", &d) < 0)
		return; /* a snapshot without layers has nothing more to weigh */
	while ((entry = readdir(d))) {
		if (entry->d_name[0] == '.' ||
		    fstatat(dirfd(d), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (st.st_nlink > 1)
			e->shared_bytes += (uint64_t)st.st_size;
		else
			e->stored_bytes += (uint64_t)st.st_size;
	}
}

struct each {
	struct host *host;
	struct names names;
	snapshot_visit visit;
	void *userdata;
};

static int visit_snapshot(void *userdata, const char *id, int dirfd)
{
	struct each *each = userdata;
	struct snapshot_entry e = {0};

	if (snapshot_open(dirfd, each->host->keys, NULL, &e.manifest) != 0 ||
	    strcmp(e.manifest.id, id)) {
		manifest_deinit(&e.manifest);
		return 0;
	}
	weigh(dirfd, &e);
	e.names = json_object_get(each->names.by_snapshot, id);
	each->visit(each->userdata, &e);
	manifest_deinit(&e.manifest);
	return 0;
}

int snapshots_each(struct host *host, snapshot_visit visit, void *userdata)
{
	struct each each = {
		.host = host, .names = {json_object()}, .visit = visit, .userdata = userdata};
	int r = each.names.by_snapshot ? 0 : -ENOMEM;

	if (r == 0)
		r = store_each_template(host->store, collect_name, &each.names);
	if (r == 0)
		r = store_each(host->store, "snapshots", visit_snapshot, &each);
	json_decref(each.names.by_snapshot);
	return error_trace(r);
}

int snapshots_exists(struct host *host, const char *id_or_name, struct problem *problem)
{
	char id[ID_LEN + 1];

	return snapshot_resolve(host, id_or_name, problem, id);
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

int snapshots_inspect(struct host *host, const char *id_or_name, struct problem *problem,
		      json_t **ret)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	_cleanup_fd_ int fd = -1;
	struct manifest m = {0};
	char id[ID_LEN + 1], created[32];
	json_t *o = NULL;
	int r;

	fd = open_by_name(host, id_or_name, problem, id);
	if (fd < 0)
		return fd;
	r = snapshot_open(fd, host->keys, problem, &m);
	if (r == 0)
		r = image_open(fd, host->keys, problem, &image);
	if (r == 0) {
		o = manifest_to_json(&m);
		r = o ? add_layers(fd, image, o) : -ENOMEM;
	}
	if (r == 0) { /* as everywhere else in the API */
		clock_rfc3339(m.created_ns, created);
		(void)json_object_del(o, "created_ns"); /* is there */
		r = json_object_set_new(o, "createdAt", json_string(created));
	}
	manifest_deinit(&m);
	if (r != 0) {
		json_decref(o);
		problem_errno(problem, r > 0 ? -EBADMSG : r, "reading snapshot %s", id);
		return r > 0 ? -EBADMSG : error_trace(r);
	}
	*ret = o;
	return 0;
}

int snapshots_verify(struct host *host, const char *id_or_name, snapshot_progress progress,
		     void *userdata, struct problem *problem, uint64_t *ret_bytes)
{
	_cleanup_fd_ int fd = -1;
	char id[ID_LEN + 1];
	uint64_t bytes = 0;
	int r;

	fd = open_by_name(host, id_or_name, problem, id);
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
	r = store_each_template(host->store, forget_name, &f);
	(void)snprintf(path, sizeof(path), "snapshots/%s", id); /* fixed length */
	if (r == 0)
		r = snapshot_delete(host->store->root_fd, path, problem);
	if (r < 0)
		problem_errno(problem, r, "deleting snapshot %s", id);
	return error_trace(r);
}
