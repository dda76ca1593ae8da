/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * network.h - what clients say of a sandbox's network, in E2B's words, and what the host makes of
 * it
 *
 *     {"allow_internet_access": true, "network": {"allowOut": ["1.2.3.4:443"], "denyOut": []}}
 *
 * The host's form: {"internet": bool, "allow": [...], "deny": [...]}, see net/rules.h.
 */
#include <jansson.h>

#include "base/problem.h"

/**
 * network_from_body() - of POST /sandboxes and of a fork
 * A list asks for a network; allow_internet_access alone asks for one only when @wanted says so,
 * since E2B's clients send it without being told to. With false and no list there is none.
 * @ret: new reference; JSON null when none is asked for explicitly; NULL when nothing is said
 * Return: 0; -EINVAL with a 400
 */
int network_from_body(json_t *body, bool wanted, struct problem *problem, json_t **ret);

/**
 * network_from_change() - of PUT /sandboxes/{id}/network, whose members stand at the top
 * @ret: new reference; NULL when it is to have none
 */
int network_from_change(json_t *body, struct problem *problem, json_t **ret);

/** network_describe() - add allowInternetAccess and network to @sandbox. @policy: NULL for none */
void network_describe(json_t *sandbox, json_t *policy);
