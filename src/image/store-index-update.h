/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* store-index-update.h - the first half of a listing; for store-index.c */
#include "image/store-index-db.h"
#include "image/store-index.h"

/**
 * index_update() - compare @db with the directories, read and forget what differs
 * @progress: manifests read, of those that have to be; may be NULL
 * @ret_n: snapshots there are, damaged ones included; may be NULL
 * Return: 0; INDEX_E_DB, nothing changed; negative errno
 */
int index_update(struct store *store, sqlite3 *db, index_progress progress, void *userdata,
		 uint64_t *ret_n);
