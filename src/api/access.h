/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * access.h - who may use the control API over TCP: whoever shows the key
 *
 * The unix socket is protected by its file's permissions and needs no key. Requests to a sandbox
 * (header E2b-Sandbox-Id) are not asked for the key: the sandbox's own access token protects them,
 * as clients send no other.
 */
#include <stdbool.h>

#include "base/mem.h"
#include "base/problem.h"

struct access;

/**
 * access_load() - read the key
 * @source: file:PATH (readable by its owner alone) or env:NAME (removed from the environment), one
 * word of 16 to 255 printable characters. Clients up to E2B 2.45 want "e2b_" and hexadecimal
 * digits. Return: 0; negative errno with @problem
 */
int access_load(const char *source, struct problem *problem, struct access **ret);
struct access *access_free(struct access *a);
DEFINE_CLEANUP(struct access *, access_free)

/** access_allows() - @key: of the header X-API-KEY, or NULL. Any thread */
bool access_allows(const struct access *a, const char *key);
