/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * walk.h - where a walk through a tree is, and the first thing that went wrong in it
 *
 * Walks go from directory to directory by descriptor (openat), so that nobody can lead them
 * elsewhere by exchanging a directory for a link; the path is for messages and for what has to be
 * shown. One descriptor per level: a tree deeper than the process may have files ends with EMFILE.
 */
#include <stdbool.h>
#include <sys/types.h>

#include "base/buf.h"

struct walk {
	struct buf path; /* of the file at hand */
	int error;	 /* the first failure, a negative errno; 0: none */
	char where[256]; /* its path; the end of it when it is longer */
};

void walk_deinit(struct walk *w);

/** walk_enter() - "@name" below the path. Return: what walk_leave() needs; -ENOMEM */
ssize_t walk_enter(struct walk *w, const char *name);
void walk_leave(struct walk *w, ssize_t mark);

/** walk_fail() - note @r for the path, unless something failed before. Return: @r */
int walk_fail(struct walk *w, int r);

/** walk_is_mount() - is @name in @dirfd the root of another mount? */
bool walk_is_mount(int dirfd, const char *name);

/** walk_open() - a directory, never through a link. Return: the descriptor; negative errno */
int walk_open(int dirfd, const char *name);
