/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * text.h - names of files in JSON
 *
 * A name on Linux is any bytes but NUL and '/', JSON is UTF-8. Each byte that is not part of valid
 * UTF-8 becomes U+FFFD: the listing stays readable, and only that one file cannot be asked for by
 * the name that was listed.
 */
#include "base/buf.h"

/** text_append() - @text as a JSON string, with its quotes. Return: 0; -ENOMEM */
int text_append(struct buf *b, const char *text);
