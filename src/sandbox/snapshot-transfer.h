/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * snapshot-transfer.h - snapshots out of a host and into it, as streams
 *
 * Two forms: the snapshot with all it needs (docs/format-transfer.md), or its memory alone, raw, as
 * extents. An end is used by one thread at a time. What goes out may be deleted meanwhile.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/mem.h"
#include "sandbox/host.h"

#define TRANSFER_MAX_SKIP 4096 /* layers that a receiver says it has */

struct outgoing;

/**
 * outgoing_new() - begin to send a snapshot
 * @raw: its memory as extents
 * @skip: ids of layers that the receiver has, separated by commas; or NULL. Not with @raw
 */
int outgoing_new(struct host *host, const char *id_or_name, bool raw, const char *skip,
		 struct problem *problem, struct outgoing **ret);
struct outgoing *outgoing_free(struct outgoing *o);
DEFINE_CLEANUP(struct outgoing *, outgoing_free)
/** outgoing_bytes() - how long the stream is. Return: true; false when that is not known */
bool outgoing_bytes(const struct outgoing *o, uint64_t *ret);
/** outgoing_read() - the next bytes. Return: how many, 0 at the end; negative errno */
ssize_t outgoing_read(struct outgoing *o, void *buf, size_t len, struct problem *problem);

struct incoming;

struct incoming_options {
	bool raw;
	const char *name;      /* a template's name for it, or NULL */
	const char *parent;    /* raw: what the extents are a difference to (id or name), or NULL */
	uint64_t memory_bytes; /* raw, without @parent: the size of the memory, if known; 0 */
};

/** incoming_new() - begin to receive a snapshot; the options are checked, and copied */
int incoming_new(struct host *host, const struct incoming_options *options, struct problem *problem,
		 struct incoming **ret);
/** incoming_free() - what arrived whole is kept for the next attempt, if it is not raw */
struct incoming *incoming_free(struct incoming *i);
DEFINE_CLEANUP(struct incoming *, incoming_free)
/** incoming_write() - the next bytes. Return: 0; negative errno: -EPROTO, with a 400, for a stream
 *  that is not one */
int incoming_write(struct incoming *i, const void *data, size_t len, struct problem *problem);
/** incoming_finish() - the stream has ended: make it a snapshot. @ret: what the API answers */
int incoming_finish(struct incoming *i, struct problem *problem, json_t **ret);
