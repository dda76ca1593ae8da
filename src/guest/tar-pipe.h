/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * tar-pipe.h - copy a directory of the host into a tree, by the rules of unpack.h
 *
 * tar reads it and unpack.h extracts what tar writes, at the same time: nothing is stored between.
 * Other file systems mounted below it are left out.
 */
#include "guest/runner.h"
#include "guest/unpack.h"

/**
 * tar_pipe_copy() - what is in the directory @dir/@name, to @into
 * @owner: as unpack_tar(). Return: as unpack_tar()
 */
int tar_pipe_copy(const struct runner *r, const char *dir, const char *name, int root_fd,
		  const char *into, const struct tree_owner *owner,
		  const struct unpack_limits *limits, struct unpack_stats *ret);
