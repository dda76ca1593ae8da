/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* test-store-fixture.h - a store with small snapshots in it, and ways to damage them */
#include "image/store.h"
#include "image/test-fixture.h"

#define STORE_PAGES 64u

struct store_fixture {
	struct fixture *f; /* first: its teardown works */
	struct store *store;
	uint64_t created_ns; /* of the next snapshot, counted up */
};

int store_fixture_setup(void **state);
int store_fixture_teardown(void **state);

/**
 * store_fixture_snapshot() - commit snapshots/@id: map, one layer of its own, device, disks/root,
 *                            and of a child the base
 * @parent: snapshot whose layers it links, or NULL: a first one, all pages of noise
 * @ret_layer: IMAGE_ID_LEN + 1 bytes, its own layer; may be NULL
 */
void store_fixture_snapshot(struct store_fixture *s, const char *id, const char *parent,
			    char *ret_layer);

/** store_fixture_path() - a path below the root, in a buffer that the next call but 7 reuses */
const char *store_fixture_path(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/** store_fixture_write() - make or replace a file with some text */
void store_fixture_write(struct store_fixture *s, const char *path, const char *text);
