/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * owners.h - <root>/snapshot-owners.json: which API key made which snapshot
 *
 * Only what keys with scope use made is written down: a snapshot that is not there was made by an
 * administrator (or came from elsewhere) and is everybody's to use, nobody's of them to delete. A
 * file that is lost or cannot be read therefore would open private snapshots to others: without it
 * being sound, who asks is told that it is not known (-EBADMSG).
 *
 *     {"version": 1, "owners": {"s1bc...": "k9xy..."}}
 *
 * All functions are thread-safe.
 */
#include "api/request.h"
#include "base/mem.h"
#include "base/problem.h"

#define OWNERS_MAX 100000

struct owners;

/** owners_open() - @root_fd: borrowed, must outlive it. Return: 0, also for a damaged file; -ENOMEM
 */
int owners_open(int root_fd, struct owners **ret);
struct owners *owners_free(struct owners *o);
DEFINE_CLEANUP(struct owners *, owners_free)

/** owners_get() - @ret: "" when it is nobody's. Return: 0; -EBADMSG with a 503 */
int owners_get(struct owners *o, const char *snapshot_id, struct problem *problem,
	       char ret[REQUEST_KEY_ID_MAX + 1]);

/** owners_set() - durable when it returns; @key_id "": forget it. Return: 0; negative errno */
int owners_set(struct owners *o, const char *snapshot_id, const char *key_id,
	       struct problem *problem);
