/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * store-index-db.h - the database behind the index: made, opened, thrown away; for store-index.c
 *
 * A database is only ever opened whole and of our schema; anything else in its place is moved out
 * of the way first. One thread at a time.
 */
#include <sqlite3.h>
#include <stdint.h>

#include "image/store.h"

#define INDEX_FILE   "index.sqlite"
#define INDEX_APP_ID 0x444f524d /* "DORM", at offset 68 of the file */
#define INDEX_SCHEMA 1		/* PRAGMA user_version */

/* outcome: what SQLite said is in @problem; the database is to be replaced */
enum { INDEX_E_DB = 1 };

/**
 * index_db_open() - open or make <root>/index.sqlite
 * Return: 0; INDEX_E_DB; -ENOMEM
 */
int index_db_open(struct store *store, struct problem *problem, sqlite3 **ret);

/** index_db_open_memory() - the same schema, empty, in memory. Return: 0; -ENOMEM */
int index_db_open_memory(sqlite3 **ret);

/** index_db_discard() - move the file into tmp/, from where the next start removes it */
void index_db_discard(struct store *store);

/** index_db_exec() - one statement without results. Return: 0; INDEX_E_DB; -ENOMEM */
int index_db_exec(sqlite3 *db, const char *sql, struct problem *problem);

/** index_db_error() - the outcome for what @db just answered; fills @problem */
int index_db_error(sqlite3 *db, struct problem *problem);

int index_db_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **ret);

/** index_db_run() - step a statement without results, and reset it to be used again */
int index_db_run(sqlite3 *db, sqlite3_stmt *s);

/* What cannot be bound makes index_db_run() fail. */
void index_db_bind_text(sqlite3_stmt *s, int i, const char *text);
void index_db_bind_number(sqlite3_stmt *s, int i, uint64_t v);

void index_db_finalize(sqlite3_stmt **s);
#define _cleanup_stmt_ __attribute__((cleanup(index_db_finalize)))
