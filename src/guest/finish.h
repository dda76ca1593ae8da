/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * finish.h - make a sandbox's root file system of any tree
 *
 * Whatever a tree came from, afterwards it has: the directories that the agent mounts over; root
 * and `user` (uid 1000 where free, home /home/user, sudo without a password where there is sudo);
 * /etc/hosts, hostname, resolv.conf, an empty machine-id. What is there already is kept.
 */
#include "guest/runner.h"

/**
 * finish_add() - add what is missing, saying what
 * Return: 0; -EINVAL with a 400 for a tree that cannot be a sandbox's: no /bin/sh, or /proc, /sys,
 * /dev, /run, /tmp or /etc is something else than a directory; negative errno
 */
int finish_add(const struct runner *r, int root_fd);

/** finish_tidy() - remove what differs from build to build and is of no use: logs, package lists,
 *  caches, backup copies, what lies in /tmp and /run. Best effort */
void finish_tidy(int root_fd);
