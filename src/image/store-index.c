/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store-index.c - listing snapshots without reading their manifests each time
 *
 * A listing has two steps.
 *
 * Bring up to date (store-index-update.c): only manifests that are new or changed are read.
 *
 * Visit: the rows, newest first. Which bytes are a snapshot's own is asked of the file system for
 * each file (its number of links), because that changes when another snapshot is deleted. 1,000
 * snapshots with 4 files each take 5,000 fstatat() calls, some 10 ms.
 *
 * When SQLite fails, whatever the reason, nothing is lost: the file is made anew, and if that does
 * not work (read-only, disk full), the same tables live in memory until it does. A visit that was
 * interrupted goes on behind the last entry that was seen.
 */
#include "image/store-index.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "image/store-index-db.h"
#include "image/store-index-update.h"

#define RETRY_NS (10 * NSEC_PER_SEC) /* between attempts to use the file again */

#define ull(_v)	 ((unsigned long long)(_v))

struct store_index {
	struct store *store;
	pthread_mutex_t lock; /* all below */
	sqlite3 *db;
	bool in_memory;
	uint64_t retry_ns; /* in memory: when to try the file again */
};

/* ---- visiting ---------------------------------------------------------------------------------
 */

/* Where a visit is: behind this entry. */
struct place {
	int64_t created_ns;
	char id[ID_LEN + 1];
};

/* Look at one file of a snapshot. @damage: 160 bytes, filled at the first that is not as it was. */
static void look_at_file(int dirfd, const char *id, const char *path, uint64_t bytes,
			 struct index_entry *e, char *damage)
{
	char at[ID_LEN + 84];
	struct stat st;

	(void)snprintf(at, sizeof(at), "%s/%s", id, path);
	if (fstatat(dirfd, at, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode)) {
		if (!damage[0])
			(void)snprintf(damage, 160, "%s: missing, or not a file", path);
		return;
	}
	if ((uint64_t)st.st_size != bytes && !damage[0])
		(void)snprintf(damage, 160, "%s: %llu bytes, the manifest says %llu", path,
			       ull(st.st_size), ull(bytes));
	if (st.st_nlink > 1)
		e->shared_bytes += (uint64_t)st.st_size;
	else
		e->own_bytes += (uint64_t)st.st_size;
}

static int look_at_files(sqlite3 *db, sqlite3_stmt *files, int dirfd, struct index_entry *e,
			 char *damage)
{
	int step;

	index_db_bind_text(files, 1, e->id);
	while ((step = sqlite3_step(files)) == SQLITE_ROW) {
		const char *path = (const char *)sqlite3_column_text(files, 0);

		if (path)
			look_at_file(dirfd, e->id, path, (uint64_t)sqlite3_column_int64(files, 1),
				     e, damage);
	}
	if (step != SQLITE_DONE)
		return index_db_error(db, NULL);
	(void)sqlite3_reset(files);
	return 0;
}

static const char *text_at(sqlite3_stmt *s, int i)
{
	const char *text = (const char *)sqlite3_column_text(s, i);

	return text ? text : "";
}

static void read_row(sqlite3_stmt *s, struct index_entry *ret)
{
	*ret = (struct index_entry){
		.id = text_at(s, 0),
		.created_ns = (uint64_t)sqlite3_column_int64(s, 1),
		.name = text_at(s, 2),
		.image_id = text_at(s, 3),
		.parent_id = text_at(s, 4),
		.template_id = text_at(s, 5),
		.source_id = text_at(s, 6),
		.vmm = text_at(s, 7),
		.accel = text_at(s, 8),
		.seal = text_at(s, 9),
		.memory_bytes = (uint64_t)sqlite3_column_int64(s, 10),
		.cpus = (uint32_t)sqlite3_column_int64(s, 11),
		.n_layers = (uint32_t)sqlite3_column_int64(s, 12),
		.layer_bytes = (uint64_t)sqlite3_column_int64(s, 13),
		.map_bytes = (uint64_t)sqlite3_column_int64(s, 14),
		.device_bytes = (uint64_t)sqlite3_column_int64(s, 15),
		.damage = (const char *)sqlite3_column_text(s, 16),
	};
}

static int prepare_visit(sqlite3 *db, const struct place *place, sqlite3_stmt **ret_rows,
			 sqlite3_stmt **ret_files)
{
	int r = index_db_prepare(
		db,
		"SELECT id, created_ns, name, image_id, parent_id, template_id, source_id,"
		" vmm, accel, seal, memory_bytes, cpus, n_layers, layer_bytes, map_bytes,"
		" device_bytes, damage FROM snapshot"
		" WHERE created_ns < ?1 OR (created_ns = ?1 AND id > ?2)"
		" ORDER BY created_ns DESC, id",
		ret_rows);

	if (r == 0)
		r = index_db_prepare(db, "SELECT path, bytes FROM file WHERE snapshot = ?1",
				     ret_files);
	if (r)
		return r;
	(void)sqlite3_bind_int64(*ret_rows, 1, place->created_ns);
	index_db_bind_text(*ret_rows, 2, place->id);
	return 0;
}

/* Return: 0; INDEX_E_DB; negative errno. What @visit said goes to *@ret_said. */
static int visit_rows(struct store_index *x, struct place *place, index_visit visit, void *userdata,
		      int *ret_said)
{
	_cleanup_fd_ int dirfd = file_open_dir(x->store->root_fd, "snapshots");
	_cleanup_stmt_ sqlite3_stmt *rows = NULL, *files = NULL;
	int step = SQLITE_DONE, r;

	if (dirfd < 0)
		return error_trace(dirfd);
	r = prepare_visit(x->db, place, &rows, &files);
	while (r == 0 && *ret_said == 0 && (step = sqlite3_step(rows)) == SQLITE_ROW) {
		struct index_entry e;
		char damage[160] = "";

		read_row(rows, &e);
		r = look_at_files(x->db, files, dirfd, &e, damage);
		if (r)
			return r;
		(void)snprintf(place->id, sizeof(place->id), "%s", e.id);
		place->created_ns = (int64_t)e.created_ns;
		if (faccessat(dirfd, e.id, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
			continue; /* deleted meanwhile */
		if (!e.damage && damage[0])
			e.damage = damage;
		*ret_said = visit(userdata, &e);
	}
	if (r == 0 && *ret_said == 0 && step != SQLITE_DONE)
		return index_db_error(x->db, NULL);
	return r;
}

/* ---- surviving --------------------------------------------------------------------------------
 */

static void close_db(struct store_index *x)
{
	(void)sqlite3_close(x->db); /* it has no statements any more */
	x->db = NULL;
}

static int use_memory(struct store_index *x)
{
	close_db(x);
	x->in_memory = true;
	x->retry_ns = clock_now_ns() + RETRY_NS;
	return index_db_open_memory(&x->db);
}

/* The file, and if it cannot be had, memory. */
static int use_file(struct store_index *x, bool fresh, struct problem *problem)
{
	int r;

	close_db(x);
	if (fresh)
		index_db_discard(x->store);
	x->in_memory = false;
	r = index_db_open(x->store, problem, &x->db);
	return r == INDEX_E_DB ? use_memory(x) : error_trace(r);
}

/* After memory was used for a while: is the file possible again? */
static int use_best(struct store_index *x)
{
	if (x->db && (!x->in_memory || clock_now_ns() < x->retry_ns))
		return 0;
	return use_file(x, false, NULL);
}

/*
 * Once more after a failure of the database: first with a new file, then in memory, where only a
 * lack of memory is left to fail.
 */
static int replace_db(struct store_index *x, unsigned attempt)
{
	return attempt == 0 && !x->in_memory ? use_file(x, true, NULL) : use_memory(x);
}

int store_index_each(struct store_index *x, index_visit visit, void *userdata)
{
	struct place place = {.created_ns = INT64_MAX};
	int said = 0, r;
	LOCK_SCOPE(&x->lock);

	r = use_best(x);
	for (unsigned attempt = 0; r == 0; attempt++) {
		r = index_update(x->store, x->db, NULL, NULL, NULL);
		if (r == 0)
			r = visit_rows(x, &place, visit, userdata, &said);
		if (r != INDEX_E_DB || attempt > 1)
			break;
		r = replace_db(x, attempt);
	}
	if (r)
		return error_trace(r == INDEX_E_DB ? -EIO : r);
	return said;
}

int store_index_rebuild(struct store_index *x, index_progress progress, void *userdata,
			uint64_t *ret_n)
{
	uint64_t n = 0;
	int r;
	LOCK_SCOPE(&x->lock);

	r = use_file(x, true, NULL);
	for (unsigned attempt = 0; r == 0; attempt++) {
		r = index_update(x->store, x->db, progress, userdata, &n);
		if (r != INDEX_E_DB || attempt > 1)
			break;
		r = replace_db(x, attempt);
	}
	if (r)
		return error_trace(r == INDEX_E_DB ? -EIO : r);
	if (ret_n)
		*ret_n = n;
	return 0;
}

struct store_index *store_index_close(struct store_index *x)
{
	if (!x)
		return NULL;
	close_db(x);
	(void)pthread_mutex_destroy(&x->lock);
	free(x);
	return NULL;
}

int store_index_open(struct store *store, struct problem *problem, struct store_index **ret)
{
	_cleanup_(store_index_closep) struct store_index *x = calloc(1, sizeof(*x));
	int r;

	if (!x)
		return -ENOMEM;
	x->store = store;
	(void)pthread_mutex_init(&x->lock, NULL); /* never fails without attributes */
	r = use_file(x, false, NULL);
	if (r < 0) {
		problem_errno(problem, r, "%s: the index cannot be opened", store->root);
		return error_trace(r);
	}
	*ret = take_ptr(x);
	return 0;
}
