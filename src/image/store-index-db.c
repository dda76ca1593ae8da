/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store-index-db.c - the file index.sqlite
 *
 * What may lie there: nothing, our database, one of a newer or older program, somebody else's
 * database, garbage, a directory, a link. Only our own of exactly this schema is used, and only
 * after SQLite's quick_check, which takes some milliseconds for thousands of rows. Everything else
 * is moved to tmp/ and a new one is made: it costs reading the manifests again.
 *
 * WAL with synchronous=NORMAL: a crash of the host may lose the latest rows, which the next listing
 * notices, but leaves no half-written page.
 */
#include "image/store-index-db.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/file.h"
#include "base/id.h"

#define BUSY_MS	    1000 /* somebody looks at it with the sqlite3 program */
#define TO_TEXT2(x) #x
#define TO_TEXT(x)  TO_TEXT2(x)

static const char schema[] =
	"BEGIN IMMEDIATE;"
	"CREATE TABLE snapshot ("
	" id TEXT PRIMARY KEY NOT NULL," /* the directory's name */
	" ino INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL," /* manifest */
	" created_ns INTEGER NOT NULL,"
	" name TEXT NOT NULL, image_id TEXT NOT NULL, parent_id TEXT NOT NULL,"
	" template_id TEXT NOT NULL, source_id TEXT NOT NULL,"
	" vmm TEXT NOT NULL, accel TEXT NOT NULL, seal TEXT NOT NULL,"
	" memory_bytes INTEGER NOT NULL, cpus INTEGER NOT NULL, n_layers INTEGER NOT NULL,"
	" layer_bytes INTEGER NOT NULL, map_bytes INTEGER NOT NULL,"
	" device_bytes INTEGER NOT NULL,"
	" damage TEXT" /* NULL: the manifest can be used */
	") WITHOUT ROWID;"
	"CREATE INDEX snapshot_by_age ON snapshot (created_ns DESC, id);"
	"CREATE TABLE file ("
	" snapshot TEXT NOT NULL, path TEXT NOT NULL," /* below its directory */
	" bytes INTEGER NOT NULL,"
	" PRIMARY KEY (snapshot, path)) WITHOUT ROWID;"
	"PRAGMA application_id = " TO_TEXT(INDEX_APP_ID) ";"
							 "PRAGMA user_version = " TO_TEXT(
								 INDEX_SCHEMA) ";"
									       "COMMIT";

int index_db_error(sqlite3 *db, struct problem *problem)
{
	if (sqlite3_errcode(db) == SQLITE_NOMEM)
		return -ENOMEM;
	problem_set(problem, 500, "%s: %s", INDEX_FILE, sqlite3_errmsg(db));
	return INDEX_E_DB;
}

int index_db_exec(sqlite3 *db, const char *sql, struct problem *problem)
{
	return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0
								    : index_db_error(db, problem);
}

/* The number, or the text compared with "ok", that a PRAGMA answers. */
static int ask(sqlite3 *db, const char *sql, int *ret, struct problem *problem)
{
	sqlite3_stmt *s = NULL;
	const char *text;
	int r = 0;

	if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK)
		return index_db_error(db, problem);
	if (sqlite3_step(s) != SQLITE_ROW) {
		r = index_db_error(db, problem);
	} else if (sqlite3_column_type(s, 0) == SQLITE_INTEGER) {
		*ret = sqlite3_column_int(s, 0);
	} else {
		text = (const char *)sqlite3_column_text(s, 0);
		*ret = text && !strcmp(text, "ok");
	}
	(void)sqlite3_finalize(s); /* repeats the error that is known already */
	return r;
}

static int check(sqlite3 *db, struct problem *problem)
{
	int app_id = 0, version = 0, whole = 0;
	int r = ask(db, "PRAGMA application_id", &app_id, problem);

	if (r == 0)
		r = ask(db, "PRAGMA user_version", &version, problem);
	if (r == 0 && (app_id != INDEX_APP_ID || version != INDEX_SCHEMA)) {
		problem_set(problem, 500, "%s: not ours (application 0x%x, schema %d)", INDEX_FILE,
			    (unsigned)app_id, version);
		return INDEX_E_DB;
	}
	if (r == 0)
		r = ask(db, "PRAGMA quick_check(1)", &whole, problem);
	if (r == 0 && !whole) {
		problem_set(problem, 500, "%s: damaged", INDEX_FILE);
		return INDEX_E_DB;
	}
	return r;
}

static int configure(sqlite3 *db, struct problem *problem)
{
	(void)sqlite3_busy_timeout(db, BUSY_MS); /* fails only for a bad handle */
	(void)sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	(void)sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
	return index_db_exec(db,
			     "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
			     "PRAGMA journal_size_limit = 4194304; PRAGMA cell_size_check = ON",
			     problem);
}

static int open_path(const char *path, bool make, struct problem *problem, sqlite3 **ret)
{
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW;
	sqlite3 *db = NULL;
	int r = 0;

	if (sqlite3_open_v2(path, &db, flags | (make ? SQLITE_OPEN_CREATE : 0), NULL) != SQLITE_OK)
		r = db ? index_db_error(db, problem) : -ENOMEM;
	if (r == 0)
		r = configure(db, problem);
	if (r == 0)
		r = make ? index_db_exec(db, schema, problem) : check(db, problem);
	if (r) {
		(void)sqlite3_close(db); /* it has no statements */
		return r;
	}
	*ret = db;
	return 0;
}

void index_db_discard(struct store *store)
{
	static const char *const names[] = {INDEX_FILE "-wal", INDEX_FILE "-shm", INDEX_FILE};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char id[ID_LEN + 1], grave[40];

		id_new('x', id);
		(void)snprintf(grave, sizeof(grave), "tmp/%s", id);
		/* what cannot be moved is found again when the database is opened */
		(void)renameat(store->root_fd, names[i], store->root_fd, grave);
	}
}

int index_db_open(struct store *store, struct problem *problem, sqlite3 **ret)
{
	char path[sizeof(store->root) + sizeof(INDEX_FILE) + 1];
	struct stat st;
	bool present;
	int r;

	(void)snprintf(path, sizeof(path), "%s/" INDEX_FILE, store->root); /* fits */
	present = fstatat(store->root_fd, INDEX_FILE, &st, AT_SYMLINK_NOFOLLOW) == 0;
	if (present && S_ISREG(st.st_mode) && open_path(path, false, NULL, ret) == 0)
		return 0;
	index_db_discard(store); /* also the journal of a database that was deleted */
	r = open_path(path, true, problem, ret);
	if (r)
		index_db_discard(store); /* half a one */
	return r;
}

int index_db_open_memory(sqlite3 **ret)
{
	return open_path(":memory:", true, NULL, ret) ? -ENOMEM : 0;
}

/* ---- statements -------------------------------------------------------------------------------
 */

void index_db_finalize(sqlite3_stmt **s)
{
	(void)sqlite3_finalize(*s); /* repeats an error that is known already */
	*s = NULL;
}

int index_db_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **ret)
{
	if (sqlite3_prepare_v2(db, sql, -1, ret, NULL) == SQLITE_OK)
		return 0;
	return index_db_error(db, NULL);
}

int index_db_run(sqlite3 *db, sqlite3_stmt *s)
{
	int r = sqlite3_step(s) == SQLITE_DONE ? 0 : index_db_error(db, NULL);

	(void)sqlite3_reset(s); /* repeats the error */
	return r;
}

/* A parameter that could not be bound stays NULL, which no column of text or number takes. */
void index_db_bind_text(sqlite3_stmt *s, int i, const char *text)
{
	(void)sqlite3_bind_text(s, i, text, -1, SQLITE_TRANSIENT);
}

void index_db_bind_number(sqlite3_stmt *s, int i, uint64_t v)
{
	(void)sqlite3_bind_int64(s, i, (int64_t)MIN(v, (uint64_t)INT64_MAX));
}
