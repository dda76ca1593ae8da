/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * signed-url.h - which sandbox a signed URL is for
 *
 * A client may hand out /files?path=...&signature=... to somebody who has no key. Such a URL does
 * not name its sandbox when all sandboxes are reached at one address. But only one sandbox's access
 * token gives its signature:
 *
 *     "v1_" base64(SHA-256(PATH ":" OPERATION ":" USER ":" TOKEN [":" EXPIRATION]))   without "="
 *
 * OPERATION is read or write, USER is "" when the URL names none, everything is as it stands in the
 * URL. So each sandbox's token is tried. That costs one hash of a hundred bytes for each, whatever
 * the length of the path. Whether the signature has expired is looked at in the sandbox.
 * Any thread. Source: the E2B SDK's signature.ts.
 */
#include <stdbool.h>

#include "base/id.h"
#include "sandbox/host.h"

struct signed_url {
	const char *path;	/* NULL: "" */
	const char *user;	/* NULL: "" */
	const char *expiration; /* NULL: none */
	const char *signature;
	bool write; /* POST, otherwise GET */
};

#define SIGNED_URL_MAX_PATH	  4096 /* of the kernel: a longer one is nobody's */
#define SIGNED_URL_SIGNATURE_SIZE 48   /* "v1_", 43 characters, the zero */

/**
 * signed_url_sign() - the signature that goes with @token
 * Return: 0; -ENOMEM; -ENAMETOOLONG
 */
int signed_url_sign(const struct signed_url *u, const char *token,
		    char ret[SIGNED_URL_SIGNATURE_SIZE]);

/** signed_url_find() - Return: 0; -ENOENT when it is no sandbox's; negative errno */
int signed_url_find(struct host *host, const struct signed_url *u, char ret_id[ID_LEN + 1]);
