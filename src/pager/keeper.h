/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * keeper.h - what a worker wants its successor to have: descriptors, and a text about them
 *
 * The supervisor (supervise.h) has a keeper: a table of records {name, JSON text, descriptors}. The
 * worker puts a record for each session, with its userfaultfd, and removes it at the session's end.
 * When the worker dies, the descriptors live on in the supervisor: no memory of a VM turns into
 * zeros meanwhile, and the next worker gets them back without any privilege.
 *
 *     supervisor: keeper_new() -> keeper_serve()* -> keeper_free()
 *     worker:     keeper_receive_all() -> keeper_put() | keeper_remove() ...
 *
 * What the texts say is between one worker and the next. Both sides are one thread each; wire
 * format: docs/format-pager.md, section 3.
 */
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"

#define KEEPER_MAX_FDS	   4u
#define KEEPER_MAX_NAME	   127u
#define KEEPER_MAX_JSON	   16384u
#define KEEPER_MAX_RECORDS 2048u
#define KEEPER_MAX_BYTES   (16u << 20) /* of all texts together */
#define KEEPER_ANSWER_MS   2000	       /* how long a worker waits for an answer */

/* ---- the supervisor's side --------------------------------------------------------------------
 */

struct keeper;

int keeper_new(struct keeper **ret);
/** keeper_free() - closes all that it keeps */
struct keeper *keeper_free(struct keeper *k);
DEFINE_CLEANUP(struct keeper *, keeper_free)

size_t keeper_n_records(const struct keeper *k);

/**
 * keeper_serve() - answer one request that is readable on @sock
 * @sock: seqpacket socket of the worker, non-blocking
 * A request that goes beyond a limit is answered with -ENOSPC, and changes nothing.
 * Return: 0; -EPIPE the worker is gone; -EPROTO it sent what no worker sends; negative errno
 */
int keeper_serve(struct keeper *k, int sock);

/* ---- the worker's side ------------------------------------------------------------------------
 */

/**
 * keeper_put() - keep this record, in the place of one with the same name
 * @name: 1 to KEEPER_MAX_NAME bytes; @json: at most KEEPER_MAX_JSON bytes
 * @fds:  borrowed: they are duplicated; at most KEEPER_MAX_FDS
 * Return: 0; -EINVAL; -ENOSPC the keeper is full; -EPIPE the supervisor is gone; -ETIMEDOUT it does
 * not answer; negative errno
 */
int keeper_put(int sock, const char *name, const char *json, const int *fds, size_t n_fds);

/** keeper_remove() - forget a record. Return: 0, also when there was none; as keeper_put() */
int keeper_remove(int sock, const char *name);

/**
 * keeper_record_fn - one record
 * @fds: take those that are wanted with take_fd(); the others are closed afterwards
 * Return: 0: go on; anything else ends keeper_receive_all() with it
 */
typedef int keeper_record_fn(void *data, const char *name, const char *json, int *fds,
			     size_t n_fds);

/**
 * keeper_receive_all() - all records, in the order in which they were put
 * They stay with the keeper. Nothing may be put or removed by @fn.
 */
int keeper_receive_all(int sock, keeper_record_fn *fn, void *data);
