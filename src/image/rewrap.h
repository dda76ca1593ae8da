/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * rewrap.h - key rotation: the same layers under another tenant key
 *
 * Only the file "seal" of a snapshot is written anew (and replaced by rename): it holds the wrapped
 * data keys and the authentication of map and manifest. No layer is touched.
 */
#include "base/problem.h"
#include "image/keyring.h"

/* outcomes */
enum {
	REWRAP_E_CURRENT = 16, /* it is sealed under the first key already, or not sealed */
};

/**
 * snapshot_rewrap() - wrap a snapshot's data keys under the first key of @keys
 * @root_fd: the store, whose tmp/ the new file is written in: a crash leaves nothing in the snapshot
 * @dirfd:   a snapshot directory of it
 * Return: 0; REWRAP_E_CURRENT; IMAGE_E_CORRUPT; IMAGE_E_KEY when no key of the ring fits; negative
 * errno
 */
int snapshot_rewrap(int root_fd, int dirfd, const struct keyring *keys, struct problem *problem);
