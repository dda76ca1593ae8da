/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* tree-copy.h - the copy that a move to another file system is (tree.h). For helpers only */
#include "base/problem.h"

/** tree_copy_name() - a fresh name beside @to: "/a/.dorm-move-1f0c...". free(); NULL without memory
 */
char *tree_copy_name(const char *to);

/**
 * tree_copy() - @from, of any type, to @to, which must not exist
 * Mount points below @from are refused (-EBUSY): what follows is a removal.
 * Return: 0; negative errno, with what there is of @to left to remove
 */
int tree_copy(const char *from, const char *to, struct problem *problem);
