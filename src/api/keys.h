/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * keys.h - API keys: who may ask for what, and for how much of it
 *
 *     keys_open()          reads <root>/keys.json; without the file there are no keys
 *     keys_create()        the one time that the secret is seen: "e2b_" and 40 hexadecimal digits
 *     keys_authenticate()  secret -> struct caller; asked for every request
 *     keys_rotate()        a new secret; the old one goes on being valid for a while
 *     keys_revoke()        from now on nobody
 *     keys_free()
 *
 * At rest there is the SHA-256 of a secret. A slow hash (argon2, bcrypt) is for secrets that people
 * think of and others can guess; nobody guesses 160 random bits, and a slow hash would be paid for
 * at every request. The digest is compared with that of every key, in a time that tells nothing.
 *
 * A change is on disk, durable, before it holds; when it cannot be written, nothing has changed.
 * A file that cannot be understood is left as it is: then no key is valid (keys_damage() says why)
 * and none can be made, until somebody restores or removes it and starts dormd again.
 *
 * All functions are thread-safe.
 */
#include <jansson.h>
#include <stdint.h>

#include "api/request.h"
#include "base/id.h"
#include "base/mem.h"
#include "base/problem.h"

#define KEYS_MAX	1000
#define KEYS_SECRET_LEN 44 /* "e2b_" and 160 bits in hexadecimal */
#define KEYS_HASH_LEN	32
#define KEYS_NAME_MAX	63
#define KEYS_MAX_RATE	100000u
#define KEYS_MAX_COUNT	1000000u

struct key_options {
	const char *name;    /* for people: str_is_name(); need not be unique */
	enum scope scope;    /* SCOPE_READ or more */
	uint64_t expires_ns; /* real time; 0: never */
	/* of what is made with it; 0: no limit */
	uint64_t max_sandboxes; /* that are awake at a time */
	uint64_t max_memory;	/* bytes, the guests' memory of those together */
	uint64_t rate;		/* requests per second */
};

struct keys;

/**
 * keys_open() - @root: the store's directory
 * Return: 0, also for a damaged file; negative errno
 */
int keys_open(const char *root, struct problem *problem, struct keys **ret);
struct keys *keys_free(struct keys *k);
DEFINE_CLEANUP(struct keys *, keys_free)

/** keys_damage() - why no key is valid; NULL when all is well */
const char *keys_damage(const struct keys *k);

/**
 * keys_authenticate() - who shows @secret?
 * @secret: NULL: nobody
 * Return: 0; -EACCES with a 401; -EAGAIN with a 429: its rate is exceeded; -EBADMSG with a 503: the
 * file is damaged
 */
int keys_authenticate(struct keys *k, const char *secret, struct problem *problem,
		      struct caller *ret);

/** keys_quota() - its limits. Return: whether there is such a key */
bool keys_quota(struct keys *k, const char *id, uint64_t *ret_sandboxes, uint64_t *ret_memory);

/**
 * keys_create() - @ret: new reference; what GET /keys says of it, and "key": the secret
 * Return: 0; -EINVAL with a 400; -ENOSPC: KEYS_MAX; negative errno
 */
int keys_create(struct keys *k, const struct key_options *o, struct problem *problem, json_t **ret);

/** keys_rotate() - @grace_s: how long the old secret remains valid; one older than it ends at once.
 *  @ret: as of keys_create(). Return: 0; -ENOENT with a 404; negative errno */
int keys_rotate(struct keys *k, const char *id, uint64_t grace_s, struct problem *problem,
		json_t **ret);

/** keys_revoke() - Return: 0; -ENOENT with a 404; negative errno */
int keys_revoke(struct keys *k, const char *id, struct problem *problem);

/** keys_list() - new reference to an array, oldest first, without secrets; NULL without memory */
json_t *keys_list(struct keys *k);

/** scope_name() - "read" */
const char *scope_name(enum scope scope);

/** scope_parse() - Return: 0; -EINVAL */
int scope_parse(const char *text, enum scope *ret);
