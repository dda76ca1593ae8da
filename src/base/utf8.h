/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* utf8.h - text that may not be UTF-8, such as names of files, for those who need UTF-8 (JSON) */
#include <stddef.h>

/** utf8_len() - bytes of the character at @s: 1 to 4; 0 when it is none (RFC 3629), or the end */
size_t utf8_len(const char *s);

/** utf8_from() - @s with U+FFFD for each byte that is part of no character; fresh memory or NULL */
char *utf8_from(const char *s);
