/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * erofs.h - a directory as a read-only file system, and back
 *
 * Not compressed: under emulation reading more costs less than decompressing. One time for all
 * files, one identifier for all file systems: equal trees give equal bytes.
 */
#include "guest/runner.h"

/* What everything in an image is dated; programs in a build see it as SOURCE_DATE_EPOCH, which also
 * makes Python write .pyc files that do not depend on times. 2024-01-01. */
#define EROFS_TIME "1704067200"

/** erofs_make() - the file @image from the directory @tree */
int erofs_make(const struct runner *r, const char *tree, const char *image);

/** erofs_extract() - the directory @tree, made, from the file @image; without extended attributes
 */
int erofs_extract(const struct runner *r, const char *image, const char *tree);
