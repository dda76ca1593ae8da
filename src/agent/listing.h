/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * listing.h - what is in a directory, and in the directories below it: pre-order, by bytes of the
 * names in each, the root left out. Links are listed, not followed, except the root. Directories
 * that cannot be read are listed without what is in them, and what vanishes meanwhile is left out.
 *
 * Blocks on the sandbox's files: for helpers (helper.h) only.
 */
#include "base/buf.h"
#include "base/problem.h"

#define LISTING_ENTRIES_MAX 100000u
#define LISTING_BYTES_MAX   (32u << 20)

/**
 * listing_append() - append {"entries": [EntryInfo...]} (entry.h)
 * @path:  absolute; the paths of the entries begin with it
 * @depth: 1: only the directory itself
 * Return: 0; -ENOENT; -ENOTDIR; -EOVERFLOW when a limit above is passed; negative errno. The text
 * of @problem says which.
 */
int listing_append(struct buf *b, const char *path, unsigned depth, struct problem *problem);
