/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * isolate.h - dorm-net shuts itself in, before it has read a byte of the guest
 *
 * What is left to it afterwards: the descriptors that it has, memory, and the system calls to move
 * bytes between them. As root it also leaves the host's network and the user root.
 */
#include "base/problem.h"

/**
 * net_tame_children() - before passt is started: sockets of ours and of what we start are bound to
 * ports that nobody else has
 * passt of Debian 12 binds the guest's UDP source ports on the host with SO_REUSEADDR, so that two
 * sandboxes can have the same one, and the second gets the answers that are for the first. With
 * this, asking for SO_REUSEADDR succeeds and does nothing; the second one's bind fails, and its
 * datagram is lost. Also sets no_new_privs.
 */
int net_tame_children(struct problem *problem);

/** net_isolate() - no way back. Return: 0; negative errno, then better end */
int net_isolate(struct problem *problem);
