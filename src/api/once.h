/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * once.h - requests that a client may repeat without their being done twice
 *
 * A client that lost the answer to a create does not know whether there is a sandbox now. When it
 * sent an Idempotency-Key it may ask again: the first answer is kept for ONCE_KEEP_NS, and whoever
 * comes while the first is under way waits for it.
 *
 *     A: POST /v2/sandboxes, key k      under way ------------ 201 i1
 *     B: the same, key k                        waits -------- 201 i1, Idempotent-Replayed: true
 *     C: another body, key k            422
 *
 * Only what succeeded is kept. What failed has left nothing behind, and is tried again.
 *
 * A request's name is a digest of whose key it is, the path and the key. At most ONCE_MAX answers
 * are kept, ONCE_MAX_BYTES of them; the oldest go first. They do not outlive the server; that a
 * sandbox is made once also over a restart of dormd is the doing of its record (sandbox_made_by()).
 * Any thread.
 */
#include "api/request.h"

#define ONCE_MAX       4096u
#define ONCE_MAX_BYTES (16u << 20)
#define ONCE_KEEP_NS   (24 * 3600ull * 1000000000)
#define ONCE_KEY_MAX   255u

struct once;

int once_new(struct once **ret);
struct once *once_free(struct once *o);
DEFINE_CLEANUP(struct once *, once_free)

/** once_applies() - are requests to @handler kept, if they have a key? */
bool once_applies(request_handler handler);

/**
 * once_name() - fill q->once, from its caller, @path, @key and body
 * Return: 0; -EINVAL with a 400 when @key is none; -ENOMEM
 */
int once_name(struct request *q, const char *path, const char *key, struct problem *problem);

/**
 * once_begin() - may the request named q->once be done?
 * Return: 0: yes, and once_end() is to be called when it has been; 1: it was, @y has the answer;
 * -EINVAL with a 422: it was another request; -EBUSY with a 409 or 503: not by @deadline_ns
 */
int once_begin(struct once *o, const struct request *q, uint64_t deadline_ns, struct reply *y);

/** once_end() - it was done. @y: the answer; NULL: it failed */
void once_end(struct once *o, const struct request *q, const struct reply *y);
