/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * test-stream.h - what the tests of transfers share: two stores, snapshots in them, and streams
 * that are taken apart, changed and put together again with checksums that fit
 */
#include "base/buf.h"
#include "image/store.h"
#include "image/test-fixture.h"
#include "image/transfer-format.h"
#include "image/transfer.h"

#define STREAM_PAGES	 96u
#define STREAM_MAX_ITEMS 64

struct stream_place {
	struct fixture *f;
	struct store *from, *to;
	uint8_t *memory; /* STREAM_PAGES of the newest snapshot */
	uint64_t seed;
};

/** stream_setup() - two empty stores; cmocka's setup function */
int stream_setup(void **state);
int stream_teardown(void **state);

struct stream_options {
	const char *parent; /* id of a snapshot in @from */
	unsigned every;	    /* change every n-th page, 0: none */
	unsigned kind;	    /* of fixture_page() */
	bool plain;	    /* memory alone: no device, disks, working set */
};

/** stream_snapshot() - make a snapshot in @p->from with a layer more than its parent */
void stream_snapshot(struct stream_place *p, const struct stream_options *options,
		     char id[ID_LEN + 1]);

/** stream_export() - all bytes of a snapshot's stream; @skip as in struct export_options */
void stream_export(struct store *store, const char *id, const char *const *skip, size_t n_skip,
		   struct buf *ret);

/** stream_import() - into @store, @slice bytes at a time. Return: what the importer said */
int stream_import(struct store *store, const struct import_options *options, const void *data,
		  size_t len, size_t slice, struct import_stats *ret, struct problem *problem);

/** stream_check() - is the snapshot @id in @store good, and its memory @p->memory? */
void stream_check(struct stream_place *p, struct store *store, const char *id);

/** stream_count() - entries in a directory of the store */
unsigned stream_count(struct store *store, const char *dir);

/** stream_open() - a snapshot's directory */
int stream_open(struct store *store, const char *id);

struct stream_item {
	struct transfer_item item;
	struct buf bytes;
};

struct stream {
	struct stream_item items[STREAM_MAX_ITEMS]; /* without the end */
	unsigned n;
	uint64_t announce; /* added to the length in the header */
	bool keep_numbers; /* and the lengths that items say; otherwise they are made to fit */
};

void stream_parse(const struct buf *data, struct stream *ret);
void stream_build(const struct stream *s, struct buf *ret);
void stream_deinit(struct stream *s);

/** stream_set() - other bytes for an item */
void stream_set(struct stream_item *item, const void *data, size_t len);
