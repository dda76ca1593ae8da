/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * reference.h - how clients name templates and snapshots, and the plain name or id that it comes to
 *
 *     base                 a template's name, or a snapshot's id
 *     base:default         the same: E2B's clients put a tag behind a name
 *     team/base            the same: and a name space before it, of which a host has one
 *
 * Tags other than "default" and "latest" lead nowhere: a template has one snapshot at a time.
 */
#include "base/problem.h"

#define REFERENCE_MAX  128u /* bytes, without the NUL */
#define REFERENCE_NAME 64u

/** reference_parse() - Return: 0, with a name (str_is_name()) in @ret; -EINVAL with a 400 */
int reference_parse(const char *text, struct problem *problem, char ret[REFERENCE_NAME]);
