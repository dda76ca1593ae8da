/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * incoming.h - where a store has layers, and the waiting room of those that came by a stream
 *
 *     incoming/<layer id>               whole, verified, durable
 *              <layer id>.<any>.part    being received
 *
 * A layer waits there until its snapshot is complete, or for a week. Any thread.
 */
#include <stdbool.h>

#include "image/store.h"

#define INCOMING_MAX_AGE_S (7 * 24 * 60 * 60)
#define INCOMING_NAME_LEN  (2 * 16 + 1 + 21 + 5) /* of the longer form */

/** store_open_incoming() - the directory. Return: its descriptor; negative errno */
int store_open_incoming(struct store *store);

/** store_clean_incoming() - remove what has waited for more than INCOMING_MAX_AGE_S */
int store_clean_incoming(int incoming_dirfd);

/** store_is_layer_name() - is this the name of a layer's file? */
bool store_is_layer_name(const char *name);

typedef int (*store_visit_layer)(void *userdata, int dirfd, const char *layer_id);

/**
 * store_each_layer_file() - visit every file that has the name of a layer, wherever it is
 * First those in incoming/, then those of snapshots, then those of sandboxes: in the order in which
 * they move, so that one that moves meanwhile is not missed. A layer with several links is visited
 * as often. Return: 0; what @visit said if it was not 0; negative errno
 */
int store_each_layer_file(struct store *store, store_visit_layer visit, void *userdata);
