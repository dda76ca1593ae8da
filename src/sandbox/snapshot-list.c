/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot-list.c - every snapshot of a host, from the index or, without one, from the directories
 */
#include "sandbox/private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/file.h"
#include "image/manifest.h"
#include "sandbox/snapshots.h"

/* ---- names ------------------------------------------------------------------------------------
 */

static int collect_name(void *userdata, const char *name, const char *snapshot_id)
{
	json_t *by_snapshot = userdata;
	json_t *a = json_object_get(by_snapshot, snapshot_id);

	if (!a) {
		a = json_array();
		if (json_object_set_new(by_snapshot, snapshot_id, a) < 0)
			return -ENOMEM;
	}
	return json_array_append_new(a, json_string(name)) < 0 ? -ENOMEM : 0;
}

int snapshots_names(struct host *host, json_t **ret)
{
	json_t *names = json_object();
	int r = names ? store_each_template(host->store, collect_name, names) : -ENOMEM;

	if (r < 0)
		json_decref(names);
	else
		*ret = names;
	return error_trace(r);
}

/* ---- from the index ---------------------------------------------------------------------------
 */

struct each {
	json_t *names;
	snapshot_visit visit;
	void *userdata;
	bool begun;
};

static int visit_indexed(void *userdata, const struct index_entry *x)
{
	struct each *each = userdata;
	const struct snapshot_entry e = {
		.id = x->id,
		.parent_id = x->parent_id ? x->parent_id : "",
		.source_id = x->source_id ? x->source_id : "",
		.created_ns = x->created_ns,
		.memory_bytes = x->memory_bytes,
		.cpus = x->cpus,
		.n_layers = x->n_layers,
		.stored_bytes = x->own_bytes,
		.shared_bytes = x->shared_bytes,
		.sealed = x->seal && !strcmp(x->seal, "aes-256-gcm"),
		.damage = x->damage,
		.names = json_object_get(each->names, x->id),
	};

	each->begun = true;
	each->visit(each->userdata, &e);
	return 0;
}

/* ---- from the directories ---------------------------------------------------------------------
 */

/* A file that more than one directory names is shared. */
static void weigh(int snapshot_fd, struct snapshot_entry *e)
{
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *entry;
	struct stat st;

	if (file_opendir(snapshot_fd, "layers", &d) < 0)
		return; /* a snapshot without layers has nothing to weigh */
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

static void read_entry(int dirfd, const struct manifest *m, const struct manifest_files *files,
		       struct snapshot_entry *e)
{
	e->parent_id = m->parent_id;
	e->source_id = m->source_id;
	e->created_ns = m->created_ns;
	e->memory_bytes = m->memory_bytes;
	e->cpus = m->cpus;
	e->n_layers = files->n_layers;
	e->sealed = !strcmp(m->seal, "aes-256-gcm");
	e->stored_bytes = files->map_bytes + m->device_bytes;
	weigh(dirfd, e);
}

/* Deleted since it was listed. */
static bool is_gone(int dirfd)
{
	struct stat st;

	return fstatat(dirfd, "layers", &st, AT_SYMLINK_NOFOLLOW) < 0;
}

static int visit_directory(void *userdata, const char *id, int dirfd)
{
	_cleanup_(manifest_files_deinit) struct manifest_files files = {0};
	_cleanup_(manifest_deinit) struct manifest m = {0};
	struct each *each = userdata;
	struct problem p = PROBLEM_INIT;
	struct snapshot_entry e = {.id = id, .parent_id = "", .source_id = ""};
	int r = manifest_read(dirfd, &p, &m, &files);

	if (r == -ENOENT && is_gone(dirfd))
		return 0;
	if (r == 0 && strcmp(m.id, id)) {
		problem_set(&p, 500, "manifest.json: it names another snapshot");
		r = -EBADMSG;
	}
	if (r == 0) {
		read_entry(dirfd, &m, &files, &e);
	} else {
		problem_errno(&p, r > 0 ? -EBADMSG : r, "manifest.json");
		e.damage = p.message;
	}
	e.names = json_object_get(each->names, id);
	each->visit(each->userdata, &e);
	return 0;
}

int snapshots_each(struct host *host, snapshot_visit visit, void *userdata)
{
	struct each each = {.visit = visit, .userdata = userdata};
	int r = snapshots_names(host, &each.names);

	if (r < 0)
		return error_trace(r);
	if (host->index)
		r = store_index_each(host->index, visit_indexed, &each);
	if ((r < 0 || !host->index) && !each.begun) /* the directories are the truth */
		r = store_each(host->store, "snapshots", visit_directory, &each);
	json_decref(each.names);
	return error_trace(r);
}
