/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * access.h - who may use the control API, and what of it
 *
 * A client over TCP shows a key: one of keys.json (keys.h), with a scope and limits, or the one
 * that dormd was started with (--api-key), which may do everything. The unix socket is protected by
 * its file's permissions and the peer's user (listeners.h); who gets through may do everything.
 * Requests to a sandbox (header E2b-Sandbox-Id) are not asked for the key: the sandbox's own access
 * token protects them, as clients send no other.
 *
 *     access_check()       who is it, by what was shown?
 *     access_permits()     does the caller's scope cover this route?
 *     access_sees()        is this the caller's?
 *
 * Whose something is, is the id of the API key that made it; "" for the unix socket. A key with
 * scope use sees what is its own. Others see all: read without being able to touch it or to learn
 * tokens, admin everything.
 *
 * All functions are thread-safe.
 */
#include <stdbool.h>

#include "api/keys.h"
#include "api/owners.h"
#include "base/mem.h"
#include "base/problem.h"

#define ACCESS_STATIC_ID "api-key" /* of the key given to dormd at its start */

struct access;

/**
 * access_open() - read the keys
 * @root: the store's directory
 * @source: of the static key; NULL: none. file:PATH (readable by its owner alone) or env:NAME
 * (removed from the environment), one word of 16 to 255 printable characters. Clients up to E2B
 * 2.45 want "e2b_" and hexadecimal digits
 * Return: 0, also when keys.json is damaged (its keys are refused then); negative errno with
 * @problem
 */
int access_open(const char *root, const char *source, struct problem *problem, struct access **ret);
struct access *access_free(struct access *a);
DEFINE_CLEANUP(struct access *, access_free)

struct keys *access_keys(struct access *a);
struct owners *access_owners(struct access *a);

/** access_is_open_to_none() - is there no key at all with which one could get in? */
bool access_is_open_to_none(struct access *a);

/**
 * access_check() - who asks?
 * @key: of the header X-API-KEY; NULL without
 * @authorization: of the header Authorization, "Bearer KEY" instead; NULL without
 * Return: as keys_authenticate()
 */
int access_check(struct access *a, const char *key, const char *authorization,
		 struct problem *problem, struct caller *ret);

struct route;

/** access_permits() - Return: 0; -EPERM with a 403 that names the scope needed */
int access_permits(const struct caller *caller, const struct route *route, struct problem *problem);

/** access_sees() - @owner: whose it is */
bool access_sees(const struct caller *caller, const char *owner);

/** access_sandbox() - may it know of this sandbox? Return: 0; -ENOENT with a 404 */
int access_sandbox(struct host *host, const struct caller *caller, const char *sandbox_id,
		   struct problem *problem);

/**
 * access_snapshot() - may it use this snapshot or template?
 * @ret_owner: may be NULL
 * Return: 0; -ENOENT with a 404; -EBADMSG with a 503
 */
int access_snapshot(struct access *a, struct host *host, const struct caller *caller,
		    const char *id_or_name, struct problem *problem,
		    char ret_owner[REQUEST_KEY_ID_MAX + 1]);

/**
 * access_delete_snapshot() - delete a snapshot, if it is the caller's to delete
 * Return: 0; -EPERM with a 403: it is everybody's; as access_snapshot()
 */
int access_delete_snapshot(struct access *a, struct host *host, const struct caller *caller,
			   const char *id_or_name, struct problem *problem);

/** access_name() - may it give a snapshot of its own this name? Return: 0; -EPERM with a 403 */
int access_name(struct access *a, struct host *host, const struct caller *caller, const char *name,
		struct problem *problem);
