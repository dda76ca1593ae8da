/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * sandbox-call.h - requests to the agent inside a sandbox, which dormd passes on
 *
 * dormd tells them from its own by their headers.
 */
#include <jansson.h>
#include <stdbool.h>

#include "base/problem.h"
#include "cli/cli.h"

#define SANDBOX_MAX_HEADERS 8

/* "Name: value", NULL at the end: for http_loop_request.headers */
struct sandbox_headers {
	char *list[SANDBOX_MAX_HEADERS + 1];
};

/**
 * sandbox_headers_init() - for requests to the agent of sandbox @id; asks dormd for its access token
 * @socket: of dormd
 * @user: whom to act as there; NULL: its default user
 * Return: 0; HTTP_E_STATUS (there is no such sandbox) or negative errno, with the reason in @problem
 *         and nothing to release
 */
int sandbox_headers_init(const char *socket, const char *id, const char *user,
			 struct problem *problem, struct sandbox_headers *ret);

/** sandbox_headers_add() - @header: consumed; NULL is out of memory. Return: 0; -ENOMEM */
int sandbox_headers_add(struct sandbox_headers *h, char *header);
void sandbox_headers_deinit(struct sandbox_headers *h);

/** sandbox_id_is_valid() - could @id be one? */
bool sandbox_id_is_valid(const char *id);

/**
 * sandbox_call() - one unary RPC
 * @path: "/process.Process/List"
 * @body: consumed; NULL is out of memory
 * @ret:  the answer; may be NULL
 * Return: 0; HTTP_E_STATUS; negative errno; @problem says why
 */
int sandbox_call(struct cli *cli, const char *id, const char *path, json_t *body, json_t **ret,
		 struct problem *problem);

/** sandbox_selector() - {"pid": 7} of "7", {"tag": "x"} of "x"; NULL: out of memory, or not UTF-8
 */
json_t *sandbox_selector(const char *text);
