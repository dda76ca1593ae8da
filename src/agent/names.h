/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* names.h - the names in a directory, some or all of them, in memory at once */
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

struct names {
	struct buf text;   /* one after the other, each with its NUL */
	const char **list; /* into text; @n of them */
	size_t n;
};

/**
 * names_read() - up to @max names of the directory open at @fd, without "." and ".."
 * @only_dirs: leave out what the directory itself says is something else
 * In no order. @ret: names_deinit() it, also after a failure.
 * Return: 0 all of them; 1 there are more; negative errno
 */
int names_read(int fd, size_t max, bool only_dirs, struct names *ret);
void names_deinit(struct names *n);

/** names_sort() - by bytes */
void names_sort(struct names *n);
