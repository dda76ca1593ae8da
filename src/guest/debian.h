/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * debian.h - the base root file system that clients expect: Debian, with python, git, curl, sudo
 *
 * An artefact (cache.h) with one file, root.erofs, made by mmdebstrap from the archives that the
 * host's own apt uses (the same release as the host's if that is a Debian, else bookworm). Its
 * digest is taken over the packages and their versions as apt resolves them, so it is made anew
 * when one of them is; equal versions give equal bytes. Making it takes a minute, most of it for
 * downloading and for dpkg; needs root, and the network.
 */
#include "guest/cache.h"
#include "guest/runner.h"

struct debian {
	char dir[4096]; /* of the artefact; the file is root.erofs */
};

/** debian_prepare() - find or make it; @c is open. Return: 0; negative errno, problem set */
int debian_prepare(struct cache *c, const struct runner *r, struct debian *ret);
