/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * jail.h - run a shell command in a root file system that is being made, apart from the host
 *
 * bubblewrap: the directory is all there is of files, with its own /proc, a /dev of the harmless
 * devices, empty /tmp and /run; its own processes (all of them end with the command); no capability
 * that reaches beyond files and users of the tree, none to be gained. The network is the host's.
 * Set-user-id programs do not work: a step that needs root says so in the recipe.
 */
#include <jansson.h>

#include "guest/runner.h"

/**
 * jail_run() - `/bin/sh -c @command` in @root
 * @root:    directory; must not be trusted, but its /proc, /dev, /tmp, /run and /etc are
 *	     directories and /etc/resolv.conf is a file (finish.h)
 * @user:    in the tree's /etc/passwd
 * @workdir: absolute; NULL: the user's home for others than root, "/" for root
 * @env:     name: text; may be NULL
 * Return: as runner_run(); -ENOENT with a problem when there is no such user
 */
int jail_run(const struct runner *r, const char *what, const char *root, const char *user,
	     const char *workdir, json_t *env, const char *command);
