/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* trim.h - tell the disks which of their blocks file systems do not use (FITRIM, fstrim(8)) */

#include <stdbool.h>

/** trim_is_due() - is there any such mount? Does not block */
bool trim_is_due(void);

/**
 * trim_all() - every writable mount of a block device, each device once
 * Blocks: for a child process. A file system or disk that knows no trimming is passed over.
 * Return: 0; -1 when one failed
 */
int trim_all(void);
