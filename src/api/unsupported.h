/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * unsupported.h - what clients of this API may ask of a sandbox, and this host does not do
 *
 * Members that nobody knows are ignored. These are known, and leaving them out silently would give
 * a client something else than it asked for: so they are refused, unless they ask for nothing
 * (null, false, empty, or made of such).
 */
#include <jansson.h>

#include "base/problem.h"

/**
 * unsupported_refuse() - of the body of a create, connect, fork or build of a template
 * Return: 0; -EINVAL with a 400 that names the member and says what there is instead
 */
int unsupported_refuse(json_t *body, struct problem *problem);
