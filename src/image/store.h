/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * store.h - the directories that are the truth (docs/architecture.md, "The store")
 *
 * One process at a time owns a store: store_open() takes a lock that dies with the process. It makes
 * the directories, empties tmp/ and removes what incoming/ has in part. Any thread afterwards.
 */
#include "base/mem.h"
#include "base/problem.h"

struct store {
	int root_fd;
	int lock_fd;
	char root[4000]; /* absolute */
};

/**
 * store_open() - @root is created when absent (mode 0700)
 * Return: 0; -EBUSY with a clear problem when another process owns it; negative errno
 */
int store_open(const char *root, struct problem *problem, struct store **ret);
struct store *store_close(struct store *store);
DEFINE_CLEANUP(struct store *, store_close)

typedef int (*store_visit)(void *userdata, const char *id, int dirfd);

/** store_each() - call @visit for every directory in @kind ("snapshots" or "sandboxes") */
int store_each(struct store *store, const char *kind, store_visit visit, void *userdata);

/**
 * store_template_set() - templates/@name -> ../snapshots/@snapshot_id, replaced by rename
 * After an error the name may lead to either snapshot: which of them is durable is not known.
 */
int store_template_set(struct store *store, const char *name, const char *snapshot_id);

/** store_template_get() - snapshot id behind a template's name (ID_LEN + 1 bytes). -ENOENT */
int store_template_get(struct store *store, const char *name, char *ret_id);

/** store_template_remove() - forget the name; the snapshot stays. -ENOENT */
int store_template_remove(struct store *store, const char *name);

typedef int (*store_visit_template)(void *userdata, const char *name, const char *snapshot_id);
int store_each_template(struct store *store, store_visit_template visit, void *userdata);

/** store_free_bytes() - what the file system has left for us */
int store_free_bytes(struct store *store, unsigned long long *ret);
