/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * signature.h - signed URLs: a client without the token may read, or write, one path
 *
 *     v1_BASE64(SHA-256("PATH:OPERATION:USER:TOKEN[:EXPIRATION]"))
 *
 * in the query parameter `signature`, standard alphabet without padding; PATH and USER are the
 * query's, decoded but otherwise as they were given, empty when absent; OPERATION is "read" or
 * "write"; EXPIRATION is `signature_expiration`, in seconds since the epoch.
 * Source: E2B SDK, getSignature().
 */
#include "agent/router.h"
#include "base/problem.h"

/** signature_make() - @ret holds SIGNATURE_MAX bytes. @expiration: NULL: never. Return: 0; -ENOMEM
 */
#define SIGNATURE_MAX 48
int signature_make(const char *path, const char *operation, const char *user, const char *token,
		   const char *expiration, char ret[SIGNATURE_MAX]);

/**
 * signature_check() - may the sender of @rq do @operation? It may with the token (caller.h), or
 * with a signature
 * Return: 0; -EACCES with a 401 in @problem; -ENOMEM
 */
int signature_check(const struct request *rq, const char *operation, struct problem *problem);
