/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * access.h - what a request into a sandbox carries: which sandbox and port, and its access token
 *
 *     access_get()     ask dormd for the token; the one place that knows where tokens come from
 *     access.headers   for http_loop_request.headers, or curl_slist_append(), one by one
 *     access_deinit()  also of one that was never filled
 *
 * One thread.
 */
#include "base/mem.h"
#include "base/problem.h"

#define ACCESS_AGENT_PORT  "49983" /* where the sandbox's own services are: envd's port */
#define ACCESS_MAX_HEADERS 3

struct access {
	char *headers[ACCESS_MAX_HEADERS + 1]; /* "Name: value", ends with NULL; owned */
};
#define _cleanup_access_ _cleanup_(access_deinit)

/**
 * access_get() - one request, GET /sandboxes/{id}
 * @socket:     of dormd
 * @sandbox_id: letters and digits
 * A sandbox without a token has two headers. Return: 0; HTTP_E_STATUS (there is no such sandbox);
 * negative errno; @problem says why
 */
int access_get(const char *socket, const char *sandbox_id, struct problem *problem,
	       struct access *ret);
void access_deinit(struct access *a);
