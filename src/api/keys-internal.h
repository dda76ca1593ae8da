/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * keys-internal.h - what keys.c (the set) and keys-file.c (its bytes) share
 *
 * keys.json, mode 0600, replaced as a whole:
 *
 *     {"version": 1, "keys": [{"id": "k...", "name": "ci", "scope": "use", "hash": "64 hex digits",
 *       "created": 1760000000, "expires": 0, "old_hash": "", "old_until": 0,
 *       "max_sandboxes": 10, "max_memory": 8589934592, "rate": 20}]}
 *
 * Times are seconds since 1970, 0 is never. Nothing may be missing, nothing be there besides: a
 * limit that was mistyped is not to be no limit.
 */
#include "api/keys.h"
#include "api/rate.h"

#define KEYS_MAX_BYTES (1u << 20) /* 1000 keys take 400 KB */

struct key {
	char id[ID_LEN + 1];
	char name[KEYS_NAME_MAX + 1];
	enum scope scope;
	uint8_t hash[KEYS_HASH_LEN];
	uint8_t old_hash[KEYS_HASH_LEN];	    /* meaningless without old_until_s */
	uint64_t created_s, expires_s, old_until_s; /* real time */
	uint64_t max_sandboxes, max_memory, rate;
	/* not in the file */
	struct rate bucket;
	uint64_t used_s; /* when it was last seen; 0: not since dormd started */
};

/** keys_encode() - the text of the file; NULL without memory. The caller frees it */
char *keys_encode(const struct key *keys, size_t n);

/**
 * keys_decode() - @ret: owned by the caller; NULL when there are none
 * Return: 0; -EBADMSG, @problem says what is wrong; -ENOMEM
 */
int keys_decode(const char *text, size_t len, struct problem *problem, struct key **ret,
		size_t *ret_n);
