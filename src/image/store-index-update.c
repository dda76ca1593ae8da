/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store-index-update.c - make the tables say what the directories say
 *
 * The names in snapshots/, each with inode, size and time of change of its manifest, sorted, are
 * merged with the same columns of the table. Where they are equal nothing is read. What is new or
 * differs is read, what is gone is forgotten, all in one transaction. Manifests are replaced by
 * rename, never written in place, so a change always has another inode: the old one is in use until
 * the new one has its name.
 */
#include "image/store-index-update.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/manifest.h"
#include "image/outcome.h"

/* ---- what there is ----------------------------------------------------------------------------
 */

/* A snapshot's directory, and which manifest was in it. */
struct seen {
	char id[ID_LEN + 1];
	int64_t ino, size, mtime_ns; /* 0 without a manifest */
};

struct seen_list {
	struct buf buf;
	size_t n;
};

static const struct seen *seen_at(const struct seen_list *l, size_t i)
{
	return (const struct seen *)(const void *)l->buf.data + i;
}

static int compare_seen(const void *a, const void *b)
{
	return strcmp(((const struct seen *)a)->id, ((const struct seen *)b)->id);
}

static bool is_directory(int dirfd, const struct dirent *e)
{
	struct stat st;

	if (e->d_type != DT_UNKNOWN)
		return e->d_type == DT_DIR;
	return fstatat(dirfd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

static int add_seen(struct seen_list *l, int dirfd, const char *id)
{
	struct seen seen = {0};
	char path[ID_LEN + 16];
	struct stat st;
	int r;

	str_copy(seen.id, sizeof(seen.id), id); /* it is valid, so it fits */
	(void)snprintf(path, sizeof(path), "%s/manifest.json", seen.id);
	if (fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		seen.ino = (int64_t)st.st_ino;
		seen.size = (int64_t)st.st_size;
		seen.mtime_ns = (int64_t)st.st_mtim.tv_sec * (int64_t)NSEC_PER_SEC +
				(int64_t)st.st_mtim.tv_nsec;
	} else if (fstatat(dirfd, id, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		return 0; /* deleted meanwhile */
	}
	r = buf_append(&l->buf, &seen, sizeof(seen));
	l->n += r == 0;
	return r;
}

static int list_snapshots(struct store *store, struct seen_list *ret)
{
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	int r = file_opendir(store->root_fd, "snapshots", &d);

	while (r == 0 && (e = readdir(d)))
		if (id_is_valid(e->d_name) && is_directory(dirfd(d), e))
			r = add_seen(ret, dirfd(d), e->d_name);
	if (r < 0)
		return error_trace(r);
	if (ret->n)
		qsort(ret->buf.data, ret->n, sizeof(struct seen), compare_seen);
	return 0;
}

/* ---- bringing up to date ----------------------------------------------------------------------
 */

/* The statements of one update. */
struct update {
	struct store *store;
	sqlite3 *db;
	sqlite3_stmt *forget, *forget_files, *insert, *insert_file;
	int dirfd; /* snapshots/ */
	index_progress progress;
	void *userdata;
	uint64_t done, total;
};

static void update_deinit(struct update *u)
{
	index_db_finalize(&u->forget);
	index_db_finalize(&u->forget_files);
	index_db_finalize(&u->insert);
	index_db_finalize(&u->insert_file);
	fd_close(u->dirfd);
}

static int update_init(struct update *u)
{
	sqlite3 *db = u->db;
	int r;

	u->dirfd = file_open_dir(u->store->root_fd, "snapshots");
	if (u->dirfd < 0)
		return error_trace(u->dirfd);
	r = index_db_prepare(db, "DELETE FROM snapshot WHERE id = ?1", &u->forget);
	if (r == 0)
		r = index_db_prepare(db, "DELETE FROM file WHERE snapshot = ?1", &u->forget_files);
	if (r == 0)
		r = index_db_prepare(
			db,
			"INSERT INTO snapshot (id, ino, size, mtime_ns, damage, created_ns,"
			" name, image_id, parent_id, template_id, source_id, vmm, accel, seal,"
			" memory_bytes, cpus, n_layers, layer_bytes, map_bytes, device_bytes)"
			" VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
			&u->insert);
	if (r == 0)
		r = index_db_prepare(
			db, "INSERT OR IGNORE INTO file (snapshot, path, bytes) VALUES (?,?,?)",
			&u->insert_file);
	return r;
}

static int forget(struct update *u, const char *id)
{
	int r;

	index_db_bind_text(u->forget, 1, id);
	index_db_bind_text(u->forget_files, 1, id);
	r = index_db_run(u->db, u->forget);
	return r ? r : index_db_run(u->db, u->forget_files);
}

static int put_file(struct update *u, const char *id, const char *folder, const char *name,
		    uint64_t bytes)
{
	char path[80];

	(void)snprintf(path, sizeof(path), "%s%s", folder, name); /* limits of the manifest */
	index_db_bind_text(u->insert_file, 1, id);
	index_db_bind_text(u->insert_file, 2, path);
	index_db_bind_number(u->insert_file, 3, bytes);
	return index_db_run(u->db, u->insert_file);
}

static int put_files(struct update *u, const char *id, const struct manifest *m,
		     const struct manifest_files *files)
{
	int r = put_file(u, id, "", "map", files->map_bytes);

	if (r == 0 && m->device_bytes)
		r = put_file(u, id, "", "device", m->device_bytes);
	for (uint32_t i = 0; r == 0 && i < files->n_layers; i++)
		r = put_file(u, id, "layers/", files->layers[i].id, files->layers[i].bytes);
	for (uint32_t i = 0; r == 0 && i < m->n_disks; i++)
		r = put_file(u, id, "disks/", m->disks[i].name, m->disks[i].size);
	return r;
}

static int put_row(struct update *u, const struct seen *seen, const struct manifest *m,
		   const struct manifest_files *files, const char *damage)
{
	sqlite3_stmt *s = u->insert;
	uint64_t layer_bytes = 0;

	for (uint32_t i = 0; i < files->n_layers; i++)
		layer_bytes += files->layers[i].bytes;
	index_db_bind_text(s, 1, seen->id);
	(void)sqlite3_bind_int64(s, 2, seen->ino);
	(void)sqlite3_bind_int64(s, 3, seen->size);
	(void)sqlite3_bind_int64(s, 4, seen->mtime_ns);
	if (damage)
		index_db_bind_text(s, 5, damage);
	else
		(void)sqlite3_bind_null(s, 5);
	index_db_bind_number(s, 6, m->created_ns);
	index_db_bind_text(s, 7, m->name);
	index_db_bind_text(s, 8, m->image_id);
	index_db_bind_text(s, 9, m->parent_id);
	index_db_bind_text(s, 10, m->template_id);
	index_db_bind_text(s, 11, m->source_id);
	index_db_bind_text(s, 12, m->vmm);
	index_db_bind_text(s, 13, m->accel);
	index_db_bind_text(s, 14, m->seal);
	index_db_bind_number(s, 15, m->memory_bytes);
	index_db_bind_number(s, 16, m->cpus);
	index_db_bind_number(s, 17, files->n_layers);
	index_db_bind_number(s, 18, MIN(layer_bytes, (uint64_t)INT64_MAX));
	index_db_bind_number(s, 19, files->map_bytes);
	index_db_bind_number(s, 20, m->device_bytes);
	return index_db_run(u->db, s);
}

/* Problems quote what they complain about; a listing is for JSON and terminals. */
static void make_printable(char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || (unsigned char)*s > 0x7e)
			*s = '?';
}

/* Return: 0; 1 deleted meanwhile; negative errno: damage that may pass, or no memory */
static int read_manifest(struct update *u, const char *id, struct manifest *m,
			 struct manifest_files *files, struct problem *problem)
{
	_cleanup_fd_ int fd = -1;
	int r = plain_dir_open(u->dirfd, id, problem, &fd);

	if (fd < 0)
		return faccessat(u->dirfd, id, F_OK, AT_SYMLINK_NOFOLLOW) < 0 ? 1 : MIN(r, 0);
	r = manifest_read(fd, problem, m, files);
	if (r == 0 && strcmp(m->id, id))
		r = image_corrupt(problem, "manifest.json: it is that of %s", m->id);
	if (r == -ENOENT)
		return faccessat(u->dirfd, id, F_OK, AT_SYMLINK_NOFOLLOW) < 0 ? 1 : 0;
	return MIN(r, 0);
}

static int put_snapshot(struct update *u, const struct seen *seen)
{
	_cleanup_(manifest_files_deinit) struct manifest_files files = {0};
	_cleanup_(manifest_deinit) struct manifest m = {0};
	struct problem problem = PROBLEM_INIT;
	struct seen known = *seen;
	const char *damage = NULL;
	int r = read_manifest(u, seen->id, &m, &files, &problem);

	if (r == 1)
		return 0;
	if (r == -ENOMEM || r == -EMFILE || r == -ENFILE)
		return error_trace(r); /* says nothing about the snapshot */
	if (r < 0) {		       /* an error of the disk, perhaps: look again next time */
		known.ino = -1;
		problem_errno(&problem, r, "manifest.json: cannot be read");
	}
	if (problem_is_set(&problem)) {
		make_printable(problem.message);
		damage = problem.message;
		manifest_deinit(&m);
		m = (struct manifest){0};
		manifest_files_deinit(&files);
	} else if (!m.seal[0]) {
		(void)snprintf(m.seal, sizeof(m.seal), "xxh3"); /* format 1 knew no other */
	}
	r = put_row(u, &known, &m, &files, damage);
	return r || damage ? r : put_files(u, seen->id, &m, &files);
}

static bool is_known(const struct seen *seen, sqlite3_stmt *row)
{
	return sqlite3_column_int64(row, 1) == seen->ino &&
	       sqlite3_column_int64(row, 2) == seen->size &&
	       sqlite3_column_int64(row, 3) == seen->mtime_ns;
}

/* What has to be done: ids to forget, and numbers of what to read. */
struct changes {
	struct buf gone; /* ids with their zeros */
	struct buf read; /* size_t */
};

static void changes_deinit(struct changes *c)
{
	buf_deinit(&c->gone);
	buf_deinit(&c->read);
}

static int find_changes(sqlite3 *db, const struct seen_list *seen, struct changes *ret)
{
	_cleanup_stmt_ sqlite3_stmt *s = NULL;
	size_t i = 0;
	int step, r;

	r = index_db_prepare(db, "SELECT id, ino, size, mtime_ns FROM snapshot ORDER BY id", &s);
	while (r == 0 && (step = sqlite3_step(s)) == SQLITE_ROW) {
		const char *id = (const char *)sqlite3_column_text(s, 0);
		bool here;

		if (!id)
			return -ENOMEM;
		for (; r == 0 && i < seen->n && strcmp(seen_at(seen, i)->id, id) < 0; i++)
			r = buf_append(&ret->read, &i, sizeof(i));
		here = i < seen->n && !strcmp(seen_at(seen, i)->id, id);
		if (r == 0 && (!here || !is_known(seen_at(seen, i), s)))
			r = buf_append(&ret->gone, id, strlen(id) + 1);
		if (r == 0 && here && !is_known(seen_at(seen, i), s))
			r = buf_append(&ret->read, &i, sizeof(i));
		i += here;
	}
	if (r == 0 && step != SQLITE_DONE)
		return index_db_error(db, NULL);
	for (; r == 0 && i < seen->n; i++)
		r = buf_append(&ret->read, &i, sizeof(i));
	return r;
}

static int apply(struct update *u, const struct seen_list *seen, const struct changes *c)
{
	const size_t *read = (const size_t *)(const void *)c->read.data;
	int r = update_init(u);

	u->total = c->read.len / sizeof(*read);
	for (size_t i = 0; r == 0 && i < c->gone.len; i += strlen(c->gone.data + i) + 1)
		r = forget(u, c->gone.data + i);
	while (r == 0 && u->done < u->total) {
		r = put_snapshot(u, seen_at(seen, read[u->done++]));
		if (r == 0 && u->progress)
			u->progress(u->userdata, u->done, u->total);
	}
	return r;
}

int index_update(struct store *store, sqlite3 *db, index_progress progress, void *userdata,
		 uint64_t *ret_n)
{
	_cleanup_(update_deinit) struct update u = {
		.store = store, .db = db, .dirfd = -1, .progress = progress, .userdata = userdata};
	_cleanup_(changes_deinit) struct changes changes = {0};
	struct seen_list seen = {0};
	int r = list_snapshots(store, &seen);

	if (r == 0)
		r = find_changes(db, &seen, &changes);
	if (r == 0 && (changes.gone.len || changes.read.len)) {
		r = index_db_exec(db, "BEGIN IMMEDIATE", NULL);
		if (r == 0)
			r = apply(&u, &seen, &changes);
		if (r == 0)
			r = index_db_exec(db, "COMMIT", NULL);
		if (r)
			(void)index_db_exec(db, "ROLLBACK", NULL); /* or it was done already */
	}
	if (r == 0 && ret_n)
		*ret_n = seen.n;
	buf_deinit(&seen.buf);
	return r;
}
